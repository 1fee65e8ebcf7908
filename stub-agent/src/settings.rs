//! What the stub Agent starts with, and the binary's flags and environment variables for it.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::time::Duration;

use akri_daemon::BadSetting;
use anyhow::{Context, Result, ensure};
use clap::Parser;

use crate::instances::Instance;

/// The binary's flags and environment variables. The library takes a [`Config`].
#[doc(hidden)]
#[derive(Parser)]
#[command(
    name = "stub-agent",
    version = akri_daemon::version(),
    about = "Plays Akri's Agent, Controller and kubelet on one machine",
    after_help = "RUST_LOG sets what is logged (default info)."
)]
pub struct Settings {
    /// Directory of agent-registration.sock; created if missing
    #[arg(
        long,
        env = "DISCOVERY_HANDLERS_DIRECTORY",
        value_name = "DIR",
        default_value = "/var/lib/akri"
    )]
    pub discovery_handlers_directory: PathBuf,

    /// A Configuration: its name, and the discovery details for its discovery handler; repeat for more Configurations
    #[arg(
        long,
        env = "CONFIGURATION",
        value_name = "NAME=DETAILS",
        hide_env_values = true
    )]
    pub configuration: Vec<String>,

    /// Name of the discovery handler that the Configurations ask for
    #[arg(
        long,
        env = "DISCOVERY_HANDLER_NAME",
        value_name = "NAME",
        default_value = "http"
    )]
    pub discovery_handler: String,

    /// Name of this node; the Instance's hash of a device that is not shared includes it
    #[arg(
        long,
        env = "AGENT_NODE_NAME",
        value_name = "NAME",
        default_value = "localhost"
    )]
    pub node_name: String,

    /// Command line of a broker, run by `sh -c`, one process for each Instance
    #[arg(long, env = "BROKER", value_name = "COMMAND", hide_env_values = true)]
    pub broker: Option<String>,
}

impl TryFrom<Settings> for Config {
    type Error = BadSetting;

    /// Fails if a value of `--configuration` is not a Configuration. clap does not check it, because clap repeats the whole
    /// value in its error, and the discovery details may hold a secret.
    fn try_from(settings: Settings) -> Result<Self, BadSetting> {
        let handler = &settings.discovery_handler;
        let configuration = |(at, text): (usize, &String)| {
            read(text, handler).map_err(|error| {
                BadSetting(format!(
                    "value {} of --configuration (CONFIGURATION): {error}",
                    at + 1
                ))
            })
        };
        Ok(Self {
            configurations: (settings.configuration.iter().enumerate())
                .map(configuration)
                .collect::<Result<_, _>>()?,
            node_name: settings.node_name,
            broker: settings.broker,
            ..Self::in_directory(settings.discovery_handlers_directory)
        })
    }
}

/// Reads `NAME=DETAILS`.
fn read(text: &str, discovery_handler: &str) -> Result<Configuration> {
    let (name, details) = text.split_once('=').context("expected NAME=DETAILS")?;
    let configuration = Configuration::new(name, discovery_handler, details);
    configuration.check()?;
    Ok(configuration)
}

/// What a [`StubAgent`](crate::StubAgent) starts with.
pub struct Config {
    /// The directory of `agent-registration.sock`; created if missing.
    pub directory: PathBuf,
    /// Hashed into the Instance names of devices that are not shared (rule 12).
    pub node_name: String,
    /// The first Configurations. More can be added, and all can be deleted, later.
    pub configurations: Vec<Configuration>,
    /// Command line for `sh -c`, run for each Instance. With `None` no broker runs.
    pub broker: Option<String>,
    /// The Instances that an Agent before this one left in the cluster, by name: those of its [`State`](crate::State). Their
    /// brokers run, but not as children of this Agent.
    pub instances: BTreeMap<String, Instance>,
    /// How long a deleted Instance's object stays. What is applied to it meanwhile is lost (rule 19).
    pub finalizer: Duration,
}

impl Config {
    /// An Agent in this directory without Configurations, brokers and Instances; a deleted Instance's object stays for 1.4 s.
    pub fn in_directory(directory: impl Into<PathBuf>) -> Self {
        Self {
            directory: directory.into(),
            node_name: "localhost".to_owned(),
            configurations: Vec::new(),
            broker: None,
            instances: BTreeMap::new(),
            finalizer: Duration::from_millis(1_400),
        }
    }
}

/// What discovery needs of an Akri Configuration. It cannot be changed, only deleted and added again (rule 15).
#[derive(Clone)]
pub struct Configuration {
    /// Its name in the cluster, which its Instances' names begin with: a DNS-1123 subdomain of at most 246 bytes.
    pub name: String,
    /// The name under which its discovery handler registers.
    pub discovery_handler: String,
    /// Sent to the discovery handler unchanged.
    pub discovery_details: String,
    /// Sent to the discovery handler unchanged. They are never logged, because they may come from a Secret.
    pub discovery_properties: HashMap<String, Vec<u8>>,
}

/// Leaves out details and properties, because both may hold secrets.
impl std::fmt::Debug for Configuration {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "Configuration {} of {}",
            self.name, self.discovery_handler
        )
    }
}

impl Configuration {
    /// One without `discoveryProperties`.
    pub fn new(
        name: impl Into<String>,
        discovery_handler: impl Into<String>,
        discovery_details: impl Into<String>,
    ) -> Self {
        Self {
            name: name.into(),
            discovery_handler: discovery_handler.into(),
            discovery_details: discovery_details.into(),
            discovery_properties: HashMap::new(),
        }
    }

    /// Fails if the API server would refuse the name. The error does not show it: it may be part of a URL with a password.
    pub(crate) fn check(&self) -> Result<()> {
        // An Instance's name has at most 253 bytes; it adds a hyphen and six digits.
        const LONGEST: usize = 253 - 7;
        let label = |l: &str| {
            let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
            !l.is_empty() && l.bytes().all(inner) && !l.starts_with('-') && !l.ends_with('-')
        };
        ensure!(
            self.name.len() <= LONGEST && self.name.split('.').all(label),
            "a Configuration's name must be a DNS-1123 subdomain of at most {LONGEST} bytes: lower-case letters and digits, \
             with hyphens and dots between them, such as my-devices"
        );
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_is_read_up_to_the_first_equals_sign() {
        let configuration = read("akri-http=http://discovery:8080/?a=b", "http").unwrap();
        assert_eq!(configuration.name, "akri-http");
        assert_eq!(configuration.discovery_handler, "http");
        assert_eq!(
            configuration.discovery_details,
            "http://discovery:8080/?a=b"
        );
    }

    #[test]
    fn a_name_that_kubernetes_would_refuse_is_refused() {
        for name in ["a", "akri-http", "a.b-c.9", &"a".repeat(246)] {
            assert!(read(&format!("{name}=x"), "http").is_ok(), "{name}");
        }
        for name in [
            "",
            "A",
            "a_b",
            "-a",
            "a-",
            "a..b",
            "a.-b",
            "a b",
            "ä",
            &"a".repeat(247),
        ] {
            let error = read(&format!("{name}=x"), "http").unwrap_err();
            assert!(error.to_string().contains("DNS-1123"), "{name}: {error}");
        }
        assert!(read("no-details", "http").is_err());
    }

    #[test]
    fn the_flags_become_a_config_and_no_secret_is_debugged() {
        let settings = Settings::try_parse_from([
            "stub-agent",
            "--discovery-handlers-directory=/tmp/akri",
            "--configuration=one=http://user:secret@a/",
            "--configuration=two=b",
            "--discovery-handler=other",
            "--node-name=node-a",
            "--broker=exec sleep 9",
        ]);
        let config = Config::try_from(settings.unwrap_or_else(|error| panic!("{error}"))).unwrap();
        assert_eq!(config.directory, PathBuf::from("/tmp/akri"));
        assert_eq!(config.node_name, "node-a");
        assert_eq!(config.broker.as_deref(), Some("exec sleep 9"));
        assert!(
            config
                .configurations
                .iter()
                .all(|c| c.discovery_handler == "other")
        );
        assert!(!format!("{:?}", config.configurations).contains("secret"));
    }

    #[test]
    fn a_bad_configuration_is_an_error_that_names_the_flag_and_no_secret() {
        for value in [
            "C=http://user:secret@a/",
            "http://user:secret@a/",
            "http://user:secret@a/?a=b",
        ] {
            let settings = Settings::parse_from(["stub-agent", "--configuration", value]);
            let BadSetting(error) = Config::try_from(settings).err().unwrap();
            assert!(
                error.starts_with("value 1 of --configuration") && !error.contains("secret"),
                "{error}"
            );
        }
    }
}
