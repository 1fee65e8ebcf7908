//! What the stub Agent is told: flags and environment variables, and the Configurations among them.

use std::collections::HashMap;
use std::path::PathBuf;
use std::str::FromStr;

use anyhow::{Context, Error, Result, ensure};
use clap::Parser;

/// What the binary's flags and environment variables say. The library takes a [`Config`].
#[derive(Parser)]
#[command(
    name = "stub-agent",
    version,
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

    /// A Configuration: its name and its discovery details, handed to the discovery handler as they are. Repeatable
    #[arg(
        long,
        env = "CONFIGURATION",
        value_name = "NAME=DETAILS",
        hide_env_values = true
    )]
    pub configuration: Vec<String>,

    /// Name of the discovery handler that the Configurations ask for
    #[arg(long, env = "DISCOVERY_HANDLER_NAME", value_name = "NAME", default_value = DEFAULT_DISCOVERY_HANDLER)]
    pub discovery_handler: String,

    /// Name of this node; part of the Instance's hash of a device that is not shared
    #[arg(
        long,
        env = "AGENT_NODE_NAME",
        value_name = "NAME",
        default_value = "localhost"
    )]
    pub node_name: String,

    /// Command line of a broker, given to `sh -c`; one process runs per Instance
    #[arg(long, env = "BROKER", value_name = "COMMAND", hide_env_values = true)]
    pub broker: Option<String>,
}

impl TryFrom<Settings> for Config {
    type Error = Error;

    /// Fails for a value of `--configuration` that is none. Here and not in clap, which would repeat the whole value
    /// in its error, with what may be secret in the details.
    fn try_from(settings: Settings) -> Result<Self> {
        let configuration = |text: String| -> Result<Configuration> {
            let configuration = text.parse().context("--configuration (CONFIGURATION)")?;
            Ok(Configuration {
                discovery_handler: settings.discovery_handler.clone(),
                ..configuration
            })
        };
        Ok(Self {
            configurations: settings
                .configuration
                .into_iter()
                .map(configuration)
                .collect::<Result<_>>()?,
            directory: settings.discovery_handlers_directory,
            node_name: settings.node_name,
            broker: settings.broker,
        })
    }
}

/// The name under which this project's discovery handler registers.
const DEFAULT_DISCOVERY_HANDLER: &str = "http";

/// What a [`StubAgent`](crate::StubAgent) needs to start.
pub struct Config {
    /// Where `agent-registration.sock` goes; created if missing.
    pub directory: PathBuf,
    /// Hashed into the Instance names of devices that are not shared (rule 12).
    pub node_name: String,
    /// What to discover from the start. More can be added and deleted later.
    pub configurations: Vec<Configuration>,
    /// Command line for `sh -c`, one process per Instance; with `None` nothing runs and Instances are only kept.
    pub broker: Option<String>,
}

/// An Akri Configuration, as far as discovery is concerned. It cannot be changed, only deleted and added (rule 15).
#[derive(Clone)]
pub struct Configuration {
    /// Its name in the cluster, the first part of its Instances' names: a DNS-1123 subdomain.
    pub name: String,
    /// The discovery handler that it asks for, by the name under which handlers register.
    pub discovery_handler: String,
    /// Handed to the discovery handler as it is.
    pub discovery_details: String,
    /// Handed to the discovery handler as they are; never logged, for they may come from a Secret.
    pub discovery_properties: HashMap<String, Vec<u8>>,
}

/// Leaves out details and properties: both may hold secrets.
impl std::fmt::Debug for Configuration {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "Configuration {} of {}",
            self.name, self.discovery_handler
        )
    }
}

impl FromStr for Configuration {
    type Err = Error;

    /// Reads `NAME=DETAILS`. The discovery handler is `http`, and there are no properties.
    fn from_str(text: &str) -> Result<Self> {
        let (name, details) = text.split_once('=').context("it must be NAME=DETAILS")?;
        let configuration = Self {
            name: name.to_owned(),
            discovery_handler: DEFAULT_DISCOVERY_HANDLER.to_owned(),
            discovery_details: details.to_owned(),
            discovery_properties: HashMap::new(),
        };
        configuration.check()?;
        Ok(configuration)
    }
}

impl Configuration {
    /// What the API server would refuse.
    pub(crate) fn check(&self) -> Result<()> {
        // 253 is the limit for an Instance's name too, which is 7 bytes longer: a hyphen and the hash.
        const LONGEST: usize = 253 - 7;
        let label = |l: &str| {
            let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
            !l.is_empty() && l.bytes().all(inner) && !l.starts_with('-') && !l.ends_with('-')
        };
        ensure!(
            self.name.len() <= LONGEST && self.name.split('.').all(label),
            "the Configuration name {:?} is no DNS-1123 subdomain: lower-case letters, digits, hyphens and dots, \
             with a letter or digit at both ends of each part, and at most {LONGEST} bytes",
            self.name.chars().take(LONGEST + 1).collect::<String>(),
        );
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_is_read_up_to_the_first_equals_sign() {
        let configuration: Configuration = "akri-http=http://discovery:8080/?a=b".parse().unwrap();
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
            assert!(
                format!("{name}=x").parse::<Configuration>().is_ok(),
                "{name}"
            );
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
            let error = format!("{name}=x").parse::<Configuration>().unwrap_err();
            assert!(error.to_string().contains("DNS-1123"), "{name}: {error}");
        }
        assert!("no-details".parse::<Configuration>().is_err());
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
        for value in ["C=http://user:secret@a/", "http://user:secret@a/"] {
            let settings = Settings::parse_from(["stub-agent", "--configuration", value]);
            let error = format!("{:#}", Config::try_from(settings).err().unwrap());
            assert!(
                error.starts_with("--configuration") && !error.contains("secret"),
                "{error}"
            );
        }
    }
}
