//! The settings, read once at the start.

use std::path::Path;

use akri_device_http::CredentialFiles;
use akri_discovery::Settings;
use clap::Parser;

/// The longest reply by default, in bytes. A list that the Agent accepts is shorter (rule 11).
const MAX_BODY_BYTES: usize = 4 * 1024 * 1024;

/// An Akri discovery handler for HTTP devices: polls a discovery URL and streams the devices to the Agent.
#[derive(Clone, Debug, PartialEq, Eq, Parser)]
#[command(name = "discovery-handler", version = akri_daemon::version(), about)]
#[command(after_help = "RUST_LOG sets what is logged (default info).")]
#[command(mut_arg("discovery_handler_name", |name| name.default_value("http")))]
pub struct Config {
    /// What every handler has.
    #[command(flatten)]
    pub handler: Settings,

    /// The longest reply of the discovery service, in bytes: 1024 to 1073741824
    #[arg(long, env, default_value_t = MAX_BODY_BYTES, value_parser = body_bytes)]
    pub max_body_bytes: usize,

    /// For requests that have no credentials of their own.
    #[command(flatten)]
    pub credentials: CredentialFiles,
}

impl Config {
    /// The defaults in this directory, whatever the environment says: for tests and the demo.
    pub fn in_directory(directory: &Path) -> Self {
        Self {
            handler: Settings::in_directory(directory, "http"),
            max_body_bytes: MAX_BODY_BYTES,
            credentials: CredentialFiles::default(),
        }
    }
}

fn body_bytes(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(bytes @ 0x400..=0x4000_0000) => Ok(bytes),
        _ => Err("must be a whole number from 1024 to 1073741824".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_akris() {
        let config = Config::try_parse_from(["discovery-handler"]).unwrap();
        assert_eq!(config, Config::in_directory(Path::new("/var/lib/akri")));
    }

    #[test]
    fn a_relative_directory_is_made_absolute_for_the_agent() {
        let config = Config::try_parse_from([
            "discovery-handler",
            "--discovery-handlers-directory=sockets",
        ]);
        let directory = config.unwrap().handler.discovery_handlers_directory;
        assert!(directory.is_absolute() && directory.ends_with("sockets"));
    }

    #[test]
    fn a_bad_value_is_one_line_that_names_the_variable_the_value_and_the_rule() {
        for (flag, value, rule) in [
            (
                "--discovery-handlers-directory",
                "",
                "must be a directory's path",
            ),
            ("--discovery-handler-name", "", "must be 1 to 63 letters"),
            (
                "--discovery-handler-name",
                "../http",
                "must be 1 to 63 letters",
            ),
            (
                "--discovery-handler-name",
                "agent-registration",
                "Agent's own socket",
            ),
            ("--shared", "maybe", "must be true or false"),
            ("--shared", "", "must be true or false"),
            ("--pod-ip", "10.0.0.1:80", "must be an IPv4 or IPv6 address"),
            ("--pod-ip", "[::1]", "must be an IPv4 or IPv6 address"),
            (
                "--poll-interval",
                "10",
                "must be a duration from 100ms to 24h",
            ),
            (
                "--poll-timeout",
                "1h",
                "must be a duration from 100ms to 10m",
            ),
            (
                "--max-body-bytes",
                "16Mi",
                "must be a whole number from 1024 to 1073741824",
            ),
        ] {
            let argument = format!("{flag}={value}");
            let error = Config::try_parse_from(["discovery-handler", &argument]).unwrap_err();
            let error = error.to_string();
            let line = error.lines().next().unwrap();
            let variable = flag.trim_start_matches('-').replace('-', "_");
            assert!(line.contains(rule) && line.contains(value), "{line}");
            assert!(line.contains(&variable.to_uppercase()), "{line}");
        }
    }
}
