//! The settings, read once at the start. A value of [`Config`] is valid.

use std::{
    ffi::OsString,
    net::IpAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::{ArgAction, Parser, error::ErrorKind};

use crate::details::{self, duration_within};

/// The port for `POD_IP`, as in Akri's charts.
pub const NETWORK_PORT: u16 = 10_000;

/// The Agent's socket in `DISCOVERY_HANDLERS_DIRECTORY`.
pub const AGENT_SOCKET: &str = "agent-registration.sock";

/// What a Unix socket's path may have at most, in bytes.
const MAX_SOCKET_PATH: usize = 107;

/// The most that the Agent accepts in one message, in bytes (rule 11).
const AGENT_MAX_MESSAGE: usize = 4 * 1024 * 1024;

/// An Akri discovery handler for HTTP devices: polls a discovery URL and streams the devices to the Agent.
#[derive(Clone, Debug, PartialEq, Eq, Parser)]
#[command(name = "discovery-handler", version, about)]
#[command(after_help = "RUST_LOG sets what is logged (default info).")]
pub struct Config {
    /// Directory of the Agent's socket agent-registration.sock, and of this handler's own socket NAME.sock
    #[arg(long, env, default_value = "/var/lib/akri", value_parser = directory)]
    pub discovery_handlers_directory: PathBuf,

    /// Name under which Configurations ask for this handler
    #[arg(long, env, default_value = "http", value_parser = name)]
    pub discovery_handler_name: String,

    /// Whether more than one node may see the same device: true or false
    #[arg(long, env, default_value = "true", action = ArgAction::Set, value_parser = boolean)]
    pub shared: bool,

    /// Serve on this IP address, TCP port 10000, instead of the own socket, and register http://IP:10000
    #[arg(long, env, default_value = "", hide_default_value = true, value_parser = pod_ip)]
    pub pod_ip: PodIp,

    /// From one poll to the next, where discoveryDetails give no interval: 100ms to 24h
    #[arg(long, env, default_value = "10s", value_parser = interval)]
    pub poll_interval: Duration,

    /// For one poll as a whole, where discoveryDetails give no timeout: 100ms to 10m
    #[arg(long, env, default_value = "5s", value_parser = timeout)]
    pub poll_timeout: Duration,

    /// For connecting to the discovery service: 100ms to 10m
    #[arg(long, env, default_value = "3s", value_parser = timeout)]
    pub connect_timeout: Duration,

    /// How many redirects a poll follows: 0 to 20
    #[arg(long, env, default_value = "5", value_parser = redirects)]
    pub max_redirects: usize,

    /// The longest reply of the discovery service, in bytes: 1024 to 1073741824
    #[arg(long, env, default_value = "16777216", value_parser = body_bytes)]
    pub max_body_bytes: usize,

    /// The largest message to the Agent, in bytes: 1024 to 4194304, which is the Agent's own limit
    #[arg(long, env, default_value = "4194304", value_parser = message_bytes)]
    pub max_message_bytes: usize,

    /// Where `POD_IP` is served; not a setting, so that tests can take any free port.
    #[arg(skip = NETWORK_PORT)]
    pub network_port: u16,
}

/// An address, or none where `POD_IP` is not set or empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PodIp(pub Option<IpAddr>);

impl Config {
    /// Reads flags and environment variables.
    ///
    /// # Errors
    /// One line that names the flag, the variable, the value and the rule. Also for `--help` and `--version`, whose text
    /// is the error's `Display` and which [`ConfigError::exit_code`] tells apart.
    pub fn from_args<T: Into<OsString> + Clone>(
        args: impl IntoIterator<Item = T>,
    ) -> Result<Self, ConfigError> {
        let config = Self::try_parse_from(args)?;
        for path in [config.own_socket(), config.agent_socket()] {
            let bytes = path.as_os_str().len();
            if bytes > MAX_SOCKET_PATH {
                return Err(ConfigError::bad(format!(
                    "error: DISCOVERY_HANDLERS_DIRECTORY and DISCOVERY_HANDLER_NAME make the socket path '{}', \
                         {bytes} bytes: a Unix socket's path has at most {MAX_SOCKET_PATH}",
                    path.display()
                )));
            }
        }
        check_log_level()?;
        Ok(config)
    }

    /// The defaults in this directory, whatever the environment says: for tests and the demo.
    pub fn in_directory(directory: &Path) -> Self {
        Self {
            discovery_handlers_directory: directory.to_path_buf(),
            discovery_handler_name: "http".into(),
            shared: true,
            pod_ip: PodIp(None),
            poll_interval: Duration::from_secs(10),
            poll_timeout: Duration::from_secs(5),
            connect_timeout: Duration::from_secs(3),
            max_redirects: 5,
            max_body_bytes: 16 * 1024 * 1024,
            max_message_bytes: AGENT_MAX_MESSAGE,
            network_port: NETWORK_PORT,
        }
    }

    /// Where this handler is served without `POD_IP`.
    pub fn own_socket(&self) -> PathBuf {
        let name = format!("{}.sock", self.discovery_handler_name);
        self.discovery_handlers_directory.join(name)
    }

    /// Where the Agent serves Registration.
    pub fn agent_socket(&self) -> PathBuf {
        self.discovery_handlers_directory.join(AGENT_SOCKET)
    }
}

/// Why there is no [`Config`].
#[derive(Debug)]
pub struct ConfigError {
    message: String,
    help: bool,
}

impl ConfigError {
    fn bad(message: String) -> Self {
        Self {
            message,
            help: false,
        }
    }

    /// 0 for `--help` and `--version`, 2 for a bad value.
    pub fn exit_code(&self) -> u8 {
        if self.help { 0 } else { 2 }
    }
}

impl From<clap::Error> for ConfigError {
    fn from(error: clap::Error) -> Self {
        let help = matches!(
            error.kind(),
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion
        );
        let text = error.to_string();
        let message = match help {
            true => text.trim_end().to_string(),
            // What follows the first line is usage.
            false => text.lines().next().unwrap_or_default().to_string(),
        };
        Self { message, help }
    }
}

impl std::fmt::Display for ConfigError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for ConfigError {}

/// `RUST_LOG` is read by the log itself, which would only ignore a bad value.
fn check_log_level() -> Result<(), ConfigError> {
    let Ok(level) = std::env::var("RUST_LOG") else {
        return Ok(());
    };
    let checked = env_filter::Builder::new().try_parse(&level).map(drop);
    checked.map_err(|error| {
        ConfigError::bad(format!(
            "error: invalid value '{level}' for RUST_LOG: {error}; such as info or warn"
        ))
    })
}

fn directory(text: &str) -> Result<PathBuf, String> {
    // The Agent dials the own socket by this path, so it has to be a whole one.
    std::path::absolute(text).map_err(|error| format!("must be a directory's path: {error}"))
}

fn name(text: &str) -> Result<String, String> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    if !(1..=63).contains(&text.len())
        || !text.bytes().all(plain)
        || !text.starts_with(|c: char| c.is_ascii_alphanumeric())
    {
        return Err(
            "must be 1 to 63 letters, digits, '-', '_' or '.', beginning with a letter or digit"
                .into(),
        );
    }
    if Some(text) == AGENT_SOCKET.strip_suffix(".sock") {
        return Err("is the name of the Agent's own socket".into());
    }
    Ok(text.into())
}

fn boolean(text: &str) -> Result<bool, String> {
    text.parse().map_err(|_| "must be true or false".into())
}

fn pod_ip(text: &str) -> Result<PodIp, String> {
    // What Kubernetes' downward API gives is an address, or nothing at all.
    if text.is_empty() {
        return Ok(PodIp(None));
    }
    let ip = text.parse();
    ip.map(|ip| PodIp(Some(ip)))
        .map_err(|_| "must be an IPv4 or IPv6 address without brackets and port".into())
}

fn interval(text: &str) -> Result<Duration, String> {
    duration_within(text, details::MIN_INTERVAL, details::MAX_INTERVAL)
}

fn timeout(text: &str) -> Result<Duration, String> {
    duration_within(text, details::MIN_TIMEOUT, details::MAX_TIMEOUT)
}

fn redirects(text: &str) -> Result<usize, String> {
    number(text, 0, 20)
}

fn body_bytes(text: &str) -> Result<usize, String> {
    number(text, 1024, 1 << 30)
}

fn message_bytes(text: &str) -> Result<usize, String> {
    number(text, 1024, AGENT_MAX_MESSAGE)
}

fn number(text: &str, min: usize, max: usize) -> Result<usize, String> {
    match text.parse() {
        Ok(number) if (min..=max).contains(&number) => Ok(number),
        _ => Err(format!("must be a whole number from {min} to {max}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[&str]) -> Result<Config, ConfigError> {
        Config::from_args([&["discovery-handler"], args].concat())
    }

    #[test]
    fn the_defaults_are_akris() {
        let config = parse(&[]).unwrap();
        assert_eq!(config, Config::in_directory(Path::new("/var/lib/akri")));
        assert_eq!(
            config.own_socket().to_str(),
            Some("/var/lib/akri/http.sock")
        );
        assert_eq!(
            config.agent_socket().to_str(),
            Some("/var/lib/akri/agent-registration.sock")
        );
        assert!(config.shared);
        assert_eq!(config.pod_ip, PodIp(None));
        assert_eq!(config.network_port, 10_000);
    }

    #[test]
    fn a_relative_directory_is_made_absolute_for_the_agent() {
        let config = parse(&["--discovery-handlers-directory", "sockets"]).unwrap();
        assert!(config.own_socket().is_absolute());
        assert!(config.own_socket().ends_with("sockets/http.sock"));
    }

    #[test]
    fn a_bad_value_is_one_line_that_names_the_variable_the_value_and_the_rule() {
        let deep = format!("/{}", "d".repeat(100));
        for (flag, value, rule) in [
            (
                "--discovery-handlers-directory",
                "",
                "must be a directory's path",
            ),
            (
                "--discovery-handlers-directory",
                &deep,
                "a Unix socket's path has at most 107",
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
                "is not a duration from 100ms to 24h",
            ),
            (
                "--poll-timeout",
                "1h",
                "is not a duration from 100ms to 10m",
            ),
            (
                "--connect-timeout",
                "soon",
                "is not a duration from 100ms to 10m",
            ),
            (
                "--max-redirects",
                "-1",
                "must be a whole number from 0 to 20",
            ),
            (
                "--max-body-bytes",
                "16Mi",
                "must be a whole number from 1024 to 1073741824",
            ),
            (
                "--max-message-bytes",
                "4194305",
                "must be a whole number from 1024 to 4194304",
            ),
        ] {
            let error = parse(&[&format!("{flag}={value}")]).unwrap_err();
            let variable = flag
                .trim_start_matches('-')
                .replace('-', "_")
                .to_uppercase();
            let line = error.to_string();
            assert_eq!(error.exit_code(), 2);
            assert_eq!(line.lines().count(), 1, "{line}");
            assert!(line.contains(rule) && line.contains(value), "{line}");
            assert!(line.contains(&variable), "{line}");
        }
    }

    #[test]
    fn help_is_no_error() {
        let help = parse(&["--help"]).unwrap_err();
        assert_eq!(help.exit_code(), 0);
        assert!(help.to_string().contains("DISCOVERY_HANDLERS_DIRECTORY"));
    }
}
