//! The settings that every handler has. A value of [`Settings`] that passed [`Settings::check`] is valid.

use std::{
    net::IpAddr,
    ops::RangeInclusive,
    path::{Path, PathBuf},
    time::Duration,
};

use akri_daemon::{AdminSettings, BadSetting, parse_duration};
use clap::{ArgAction, Args};

use crate::Times;

/// The port for `POD_IP`, as in Akri's charts.
const NETWORK_PORT: u16 = 10_000;

/// The Agent's socket in `DISCOVERY_HANDLERS_DIRECTORY`.
const AGENT_SOCKET: &str = "agent-registration.sock";

/// How many handlers of one name may live on a node at once: two of an update, twice that with a standby each, and some that
/// are slow to end.
const OWN_SOCKETS: u32 = 8;

/// What a Unix socket's path may have at most, in bytes.
const MAX_SOCKET_PATH: usize = 107;

const INTERVALS: RangeInclusive<Duration> =
    Duration::from_millis(100)..=Duration::from_secs(24 * 60 * 60);
const TIMEOUTS: RangeInclusive<Duration> =
    Duration::from_millis(100)..=Duration::from_secs(10 * 60);
const MAX_AGES: RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_secs(365 * 24 * 60 * 60);

/// Where a handler is served, under which name, and how often it polls unless a Configuration says otherwise.
/// [`start`](crate::start) reads them beside a handler's own.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Settings {
    /// Directory of the Agent's socket agent-registration.sock, and of this handler's own socket NAME.sock, NAME-2.sock and so on
    #[arg(long, env, default_value = "/var/lib/akri", value_parser = directory)]
    pub discovery_handlers_directory: PathBuf,

    /// Name under which Configurations ask for this handler
    // A handler gives the default.
    #[arg(long, env, required = false, value_parser = name)]
    pub discovery_handler_name: String,

    /// Whether more than one node may see the same device: true or false
    #[arg(long, env, default_value = "true", action = ArgAction::Set, value_parser = boolean)]
    pub shared: bool,

    /// Serve on this IP address, TCP port 10000, instead of the own socket, and register http://IP:10000
    #[arg(long, env, default_value = "", hide_default_value = true, value_parser = pod_ip)]
    pub pod_ip: PodIp,

    /// Time between two polls, unless a Configuration has its own: 100ms to 24h
    #[arg(long, env, default_value = "10s", value_parser = Settings::parse_interval)]
    pub poll_interval: Duration,

    /// Time for one poll as a whole, unless a Configuration has its own: 100ms to 10m
    #[arg(long, env, default_value = "5s", value_parser = Settings::parse_timeout)]
    pub poll_timeout: Duration,

    /// How long a device is kept that is missing from every list, unless a Configuration has its own: 0s to 24h
    #[arg(long, env, default_value = "1m", value_parser = Settings::parse_grace)]
    pub grace: Duration,

    /// Directory where the last list of each request is kept, to be sent at once after a restart; nowhere where it is empty
    #[arg(long, env, default_value = "", hide_default_value = true, value_parser = state_directory)]
    // By its whole name, since clap takes an `Option` for an argument that may be left out.
    pub state_directory: std::option::Option<PathBuf>,

    /// How old a list from there may be: 1s to 8760h
    #[arg(long, env, default_value = "24h", value_parser = max_age)]
    pub state_max_age: Duration,

    /// Where the process can be watched.
    #[command(flatten)]
    pub admin: AdminSettings,

    /// Where `POD_IP` is served; not a setting, so that tests can take any free port.
    #[arg(skip = NETWORK_PORT)]
    pub network_port: u16,
}

/// An address, or none where `POD_IP` is not set or empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PodIp(pub Option<IpAddr>);

impl Settings {
    /// The defaults for a handler of this name in this directory, whatever the environment says, and shared: for tests and demos.
    pub fn in_directory(directory: &Path, name: &str) -> Self {
        Self {
            // The Agent dials the own socket by this path, so it has to be a whole one. Where there is no working directory, it
            // is not.
            discovery_handlers_directory: std::path::absolute(directory)
                .unwrap_or_else(|_| directory.to_path_buf()),
            discovery_handler_name: name.into(),
            shared: true,
            pod_ip: PodIp(None),
            poll_interval: Duration::from_secs(10),
            poll_timeout: Duration::from_secs(5),
            grace: Duration::from_secs(60),
            state_directory: None,
            state_max_age: Duration::from_secs(24 * 60 * 60),
            admin: AdminSettings::default(),
            network_port: NETWORK_PORT,
        }
    }

    /// Reads an interval, 100 ms to 24 h, as the settings and `discoveryDetails` write it.
    ///
    /// # Errors
    /// The text is no such time; the error says what is allowed.
    pub fn parse_interval(text: &str) -> Result<Duration, String> {
        parse_duration(text, &INTERVALS)
    }

    /// Reads a time-out, 100 ms to 10 min, as the settings and `discoveryDetails` write it.
    ///
    /// # Errors
    /// The text is no such time; the error says what is allowed.
    pub fn parse_timeout(text: &str) -> Result<Duration, String> {
        parse_duration(text, &TIMEOUTS)
    }

    /// Reads a grace period, 0 s to 24 h, as the settings and `discoveryDetails` write it.
    ///
    /// # Errors
    /// The text is no such time; the error says what is allowed.
    pub fn parse_grace(text: &str) -> Result<Duration, String> {
        parse_duration(text, &(Duration::ZERO..=*INTERVALS.end()))
    }

    /// Where this handler is served without `POD_IP`: the first of these that no other live process serves.
    pub(crate) fn own_sockets(&self) -> Vec<PathBuf> {
        let name = &self.discovery_handler_name;
        let others = (2..=OWN_SOCKETS).map(|n| format!("{name}-{n}.sock"));
        std::iter::once(format!("{name}.sock"))
            .chain(others)
            .map(|file| self.discovery_handlers_directory.join(file))
            .collect()
    }

    /// Where the Agent serves Registration.
    pub(crate) fn agent_socket(&self) -> PathBuf {
        self.discovery_handlers_directory.join(AGENT_SOCKET)
    }

    /// The times of requests that have none of their own.
    pub fn times(&self) -> Times {
        Times {
            interval: self.poll_interval,
            timeout: self.poll_timeout,
            grace: self.grace,
        }
    }

    /// What clap has not checked: what needs more than one value, and all values of settings that were made without it.
    pub(crate) fn check(&self) -> Result<(), BadSetting> {
        name(&self.discovery_handler_name).map_err(|rule| {
            BadSetting(format!(
                "DISCOVERY_HANDLER_NAME '{}' {rule}",
                self.discovery_handler_name.escape_debug()
            ))
        })?;
        if self.times() != self.times().bounded() {
            return Err(BadSetting(format!(
                "POLL_INTERVAL, POLL_TIMEOUT or GRACE is out of its bounds: {:?}",
                self.times()
            )));
        }
        for path in self.own_sockets().into_iter().chain([self.agent_socket()]) {
            let bytes = path.as_os_str().len();
            if bytes > MAX_SOCKET_PATH {
                return Err(BadSetting(format!(
                    "DISCOVERY_HANDLERS_DIRECTORY and DISCOVERY_HANDLER_NAME make the socket path '{}' of {bytes} bytes; \
                     a Unix socket's path has at most {MAX_SOCKET_PATH}: choose shorter ones",
                    path.display()
                )));
            }
            if path.to_str().is_none() {
                return Err(BadSetting(format!(
                    "DISCOVERY_HANDLERS_DIRECTORY '{}' is not UTF-8, as the Agent needs it",
                    path.display()
                )));
            }
        }
        Ok(())
    }
}

impl Times {
    /// These, each within its bounds.
    pub(crate) fn bounded(self) -> Self {
        Self {
            interval: self.interval.clamp(*INTERVALS.start(), *INTERVALS.end()),
            timeout: self.timeout.clamp(*TIMEOUTS.start(), *TIMEOUTS.end()),
            grace: self.grace.min(*INTERVALS.end()),
        }
    }
}

fn directory(text: &str) -> Result<PathBuf, String> {
    // The Agent dials the own socket by this path, so it has to be a whole one.
    std::path::absolute(text).map_err(|error| format!("must be a directory's path: {error}"))
}

fn state_directory(text: &str) -> Result<Option<PathBuf>, String> {
    match text {
        "" => Ok(None),
        text => directory(text).map(Some),
    }
}

fn max_age(text: &str) -> Result<Duration, String> {
    parse_duration(text, &MAX_AGES)
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
