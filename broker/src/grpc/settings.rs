//! The settings of the `grpc-broker` binary.

use std::{net::SocketAddr, time::Duration};

use akri_daemon::{AdminSettings, parse_listen_address, version};
use akri_device_http::CredentialFiles;
use clap::Parser;

use crate::{interval::parse_interval, pod_devices::HELP};

/// The settings of the `grpc-broker` binary.
#[derive(Parser, Clone, Debug)]
#[command(
    name = "grpc-broker",
    version = version(),
    about = "Serves readings of the HTTP devices that Akri hands to its Pod over gRPC",
    after_help = HELP
)]
pub struct Settings {
    /// Address and port to listen on, such as 0.0.0.0:50051 or :50051
    #[arg(
        long = "grpc_endpoint",
        alias = "grpc-endpoint",
        env = "GRPC_ENDPOINT",
        value_name = "GRPC_ENDPOINT",
        default_value = "0.0.0.0:50051",
        value_parser = parse_listen_address
    )]
    pub grpc_endpoint: SocketAddr,

    /// Shortest time between two reads of a device for WatchSensor, from 100ms to 24h
    #[arg(
        long,
        env = "MIN_INTERVAL",
        value_name = "MIN_INTERVAL",
        default_value = "1s",
        value_parser = parse_interval
    )]
    pub min_interval: Duration,

    /// Reads of one device that may run at once, from 1 to 1024
    #[arg(
        long,
        env = "MAX_READS",
        value_name = "MAX_READS",
        default_value = "16",
        value_parser = clap::value_parser!(u16).range(1..=1024)
    )]
    pub max_reads: u16,

    /// Where it can be watched.
    #[command(flatten)]
    pub admin: AdminSettings,

    /// What the devices are shown.
    #[command(flatten)]
    pub credentials: CredentialFiles,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_spellings_of_the_flag_are_known() {
        for flag in ["--grpc_endpoint=:1", "--grpc-endpoint=:1"] {
            let settings = Settings::try_parse_from(["grpc-broker", flag]).unwrap();
            assert_eq!(settings.grpc_endpoint.port(), 1);
        }
        let settings = Settings::try_parse_from(["grpc-broker"]).unwrap();
        assert_eq!(settings.grpc_endpoint.to_string(), "0.0.0.0:50051");
    }
}
