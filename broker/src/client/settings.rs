//! The settings of the `grpc-client` binary.

use std::time::Duration;

use akri_daemon::version;
use clap::Parser;
use tonic::transport::Uri;

use crate::interval::parse_interval;

/// The settings of the `grpc-client` binary.
#[derive(Parser, Clone, Debug)]
#[command(
    name = "grpc-client",
    version = version(),
    about = "Reads a device through a gRPC broker every 10 s and prints the readings",
    after_help = "Status with --once: 0 if a reading was printed, 1 if there was none, 2 for a bad setting.\n\
    RUST_LOG sets what is logged (default info)."
)]
pub struct Settings {
    /// The broker: HOST:PORT, or :PORT on this machine
    #[arg(
        long = "grpc_endpoint",
        alias = "grpc-endpoint",
        env = "GRPC_ENDPOINT",
        value_name = "GRPC_ENDPOINT",
        default_value = "localhost:50051",
        value_parser = broker
    )]
    pub grpc_endpoint: Uri,

    /// Device to read, as --list shows it; without it, the broker's first
    #[arg(
        long,
        env = "DEVICE",
        value_name = "DEVICE",
        default_value = "",
        hide_default_value = true
    )]
    pub device: String,

    /// Path to read on the device; / is its endpoint itself
    #[arg(
        long,
        env = "SENSOR_NAME",
        value_name = "SENSOR_NAME",
        default_value = "/"
    )]
    pub name: String,

    /// Time between two readings, from 100ms to 24h
    #[arg(
        long,
        env = "POLL_INTERVAL",
        value_name = "POLL_INTERVAL",
        default_value = "10s",
        value_parser = parse_interval
    )]
    pub interval: Duration,

    /// With --watch: only readings that differ from the last one printed by more than this
    #[arg(long, env = "MIN_CHANGE", value_name = "MIN_CHANGE", value_parser = change)]
    pub min_change: Option<f64>,

    /// Let the broker send readings, instead of asking for each
    #[arg(long, group = "what")]
    pub watch: bool,

    /// Print one reading and end
    #[arg(long, group = "what")]
    pub once: bool,

    /// Print the broker's devices and end
    #[arg(long, group = "what")]
    pub list: bool,
}

/// Reads `HOST:PORT`, or `:PORT` on this machine; for clap.
///
/// # Errors
/// The rule.
pub fn broker(text: &str) -> Result<Uri, String> {
    let address = text.strip_prefix("http://").unwrap_or(text);
    // As in Go, an address without a host is on this machine.
    let host = if address.starts_with(':') {
        "localhost"
    } else {
        ""
    };
    format!("http://{host}{address}")
        .parse()
        .ok()
        .filter(|uri: &Uri| {
            uri.path() == "/"
                && uri.query().is_none()
                && uri.port_u16().is_some_and(|port| port > 0)
                && uri.authority().is_some_and(|it| !it.as_str().contains('@'))
        })
        .ok_or_else(|| "expected HOST:PORT, such as localhost:50051".to_owned())
}

fn change(text: &str) -> Result<f64, String> {
    text.parse()
        .ok()
        .filter(|change: &f64| change.is_finite() && *change >= 0.0)
        .ok_or_else(|| "expected a finite number from 0".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broker_is_a_host_and_a_port() {
        for (text, uri) in [
            ("localhost:50051", "http://localhost:50051/"),
            ("http-svc:50051", "http://http-svc:50051/"),
            ("http://10.0.0.1:1", "http://10.0.0.1:1/"),
            (":8084", "http://localhost:8084/"),
            ("[::1]:1", "http://[::1]:1/"),
        ] {
            assert_eq!(broker(text).unwrap().to_string(), uri);
        }
        for text in [
            "",
            ":",
            "localhost",
            "a:0",
            "a:65536",
            "https://a:1",
            "a:1/x",
            "a:1?x",
            "u:p@a:1",
            "a b:1",
        ] {
            assert!(broker(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_change_is_a_finite_number_from_0() {
        assert_eq!(change("0.5"), Ok(0.5));
        assert_eq!(change("0"), Ok(0.0));
        for text in ["", "-1", "nan", "inf", "much"] {
            assert!(change(text).is_err(), "{text}");
        }
    }
}
