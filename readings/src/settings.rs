//! The settings of the `readings` binary.

use std::{net::SocketAddr, time::Duration};

use akri_daemon::{parse_listen_address, version};
use akri_http_broker::parse_interval;
use clap::Parser;

/// The settings of the `readings` binary.
#[derive(Parser, Clone, Debug)]
#[command(
    name = "readings",
    version = version(),
    about = "Shows the readings of all devices on one live page, as their gRPC brokers give them",
    after_help = "RUST_LOG sets what is logged (default info)."
)]
pub struct Settings {
    /// Names of gRPC brokers, as HOST:PORT with commas between them, at most 64; every address that a name has is a broker
    #[arg(
        long,
        env = "BROKERS",
        value_name = "BROKERS",
        required = true,
        value_delimiter = ',',
        value_parser = broker
    )]
    pub brokers: Vec<String>,

    /// Address and port to serve the page on, such as :8090
    #[arg(
        long,
        env = "LISTEN",
        value_name = "LISTEN",
        default_value = "127.0.0.1:8090",
        value_parser = parse_listen_address
    )]
    pub listen: SocketAddr,

    /// Time between two readings of a device, from 100ms to 24h
    #[arg(
        long,
        env = "POLL_INTERVAL",
        value_name = "POLL_INTERVAL",
        default_value = "10s",
        value_parser = parse_interval
    )]
    pub interval: Duration,
}

/// `HOST:PORT`, as it can be resolved.
fn broker(text: &str) -> Result<String, String> {
    let uri = akri_http_broker::client::broker(text.trim())?;
    let authority = uri.authority().map(ToString::to_string);
    authority.ok_or_else(|| "expected HOST:PORT".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn brokers_are_names_with_ports_and_commas_between_them() {
        let brokers = |text| {
            Settings::try_parse_from(["readings", "--brokers", text])
                .map(|settings| settings.brokers)
        };
        let two = brokers("akri-http-svc:8083, [::1]:50051").unwrap();
        assert_eq!(two, ["akri-http-svc:8083", "[::1]:50051"]);
        assert_eq!(brokers(":50051").unwrap(), ["localhost:50051"]);
        for text in ["", "a", "a:1,", "a:1,b", "https://a:1", "a:1/x"] {
            assert!(brokers(text).is_err(), "{text}");
        }
        if std::env::var_os("BROKERS").is_none() {
            assert!(Settings::try_parse_from(["readings"]).is_err());
        }
    }
}
