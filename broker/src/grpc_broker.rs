//! The gRPC broker: serves the readings of its devices to the cluster.

use std::{future::Future, net::SocketAddr, pin::pin, time::Duration};

use akri_http_proto::http::{
    FILE_DESCRIPTOR_SET,
    device_service_server::{DeviceServiceServer, SERVICE_NAME},
};
use anyhow::{Context, ensure};
use clap::{ArgAction, Parser};
use tokio::{net::TcpListener, time::timeout};
use tokio_util::sync::CancellationToken;
use tonic::{service::Routes, transport::Server};
use tonic_health::{
    ServingStatus,
    pb::health_server::HealthServer,
    server::{HealthReporter, HealthService},
};

use crate::{
    callers::connections,
    calls::Calls,
    devices::devices,
    endpoints::Endpoint,
    read::Reader,
    service::Service,
    standalone::{INTERVALS, parse_interval},
};

/// The largest request of a call, in bytes: twice the longest path and device.
pub const MAX_REQUEST_BYTES: usize = 8 * 1024;

/// The most bytes that the headers of a call may have.
pub const MAX_HEADER_BYTES: u32 = 16 * 1024;

/// The most calls that one connection may have at once.
pub const CALLS_PER_CONNECTION: u32 = 100;

/// What a client may send before it is read: requests are small.
const WINDOW_BYTES: u32 = 64 * 1024;

/// How often a silent client is asked whether it is still there, and how long it may take to say so.
const KEEP_ALIVE: Duration = Duration::from_secs(20);

/// How long open calls may take to end when the broker stops.
const DRAIN: Duration = Duration::from_secs(3);

/// The settings of the `grpc-broker` binary.
#[derive(Parser, Clone, Debug)]
#[command(
    name = "grpc-broker",
    version,
    about = "Serves readings of the HTTP devices that Akri hands to its Pod over gRPC"
)]
#[command(
    after_help = "The devices are the values of AKRI_HTTP_DEVICE_ENDPOINT and of every \
    AKRI_HTTP_DEVICE_ENDPOINT_<HASH>.\nRUST_LOG sets what is logged (default info)."
)]
pub struct Settings {
    /// Address and port to listen on, such as 0.0.0.0:50051 or :50051
    #[arg(
        long = "grpc_endpoint",
        alias = "grpc-endpoint",
        env = "GRPC_ENDPOINT",
        value_name = "GRPC_ENDPOINT",
        default_value = "0.0.0.0:50051",
        value_parser = listen_address
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

    /// Whether ReadSensor calls share a read that is under way: true or false
    #[arg(
        long,
        env = "SHARED_READS",
        value_name = "SHARED_READS",
        default_value = "true",
        action = ArgAction::Set,
        value_parser = boolean
    )]
    pub shared_reads: bool,
}

fn boolean(text: &str) -> Result<bool, String> {
    text.parse()
        .map_err(|_| "expected true or false".to_owned())
}

fn listen_address(text: &str) -> Result<SocketAddr, String> {
    // As in Go, no host is every address.
    let text = match text.strip_prefix(':') {
        Some(port) => &format!("0.0.0.0:{port}"),
        None => text,
    };
    text.parse()
        .map_err(|_| "expected ADDRESS:PORT, such as 0.0.0.0:50051 or [::]:50051".to_owned())
}

/// What [`run`] works on.
#[derive(Clone, Debug)]
pub struct Config {
    /// The devices to read. A call that names none means the first.
    pub devices: Vec<Endpoint>,
    /// The shortest interval of a watch, one of [`INTERVALS`].
    pub min_interval: Duration,
    /// How many reads of one device may run at once, from 1 on.
    pub max_reads: u16,
    /// Whether `ReadSensor` calls share a read that is under way.
    pub shared_reads: bool,
}

/// Serves `http.DeviceService`, the standard health service and reflection on `listener`, until
/// `shutdown` is ready. Then health is NOT_SERVING, streams end with UNAVAILABLE, and calls that are
/// under way get 3 s; what is still open then is cut off. Dropping the future cuts off everything at
/// once, except for reads of devices, which end by themselves within 10 s.
///
/// Each device is read once at the start, so that its state is known. None that fails is an error.
///
/// # Errors
/// A config that breaks its rules, an HTTP client that cannot be built, or a bug.
pub async fn run(
    config: Config,
    listener: TcpListener,
    shutdown: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    ensure!(
        INTERVALS.contains(&config.min_interval),
        "the shortest interval {:?} is not from 100ms to 24h",
        config.min_interval
    );
    ensure!(config.max_reads > 0, "no read may run at once");
    ensure!(!config.devices.is_empty(), "there is no device to serve");
    let address = listener
        .local_addr()
        .context("the listening socket has no address")?;

    let stop = CancellationToken::new();
    let cut = CancellationToken::new();
    let _cut_when_dropped = cut.clone().drop_guard();

    let health = HealthReporter::new();
    report(&health, ServingStatus::NotServing).await;
    let devices = devices(&config.devices, &Reader::new()?, config.max_reads.into());
    for device in &devices {
        let sensor = device.itself.clone();
        tokio::spawn(async move { sensor.shared_read().await });
    }
    let names: Vec<&str> = devices.iter().map(|device| &*device.name).collect();
    log::info!("serving {} on {address}", names.join(" "));
    let routes = routes(
        Service {
            devices,
            min_interval: config.min_interval,
            shared_reads: config.shared_reads,
        },
        health.clone(),
    )?;

    let server = Server::builder()
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
        .max_concurrent_streams(CALLS_PER_CONNECTION)
        .http2_max_header_list_size(MAX_HEADER_BYTES)
        .http2_keepalive_interval(Some(KEEP_ALIVE))
        .http2_keepalive_timeout(Some(KEEP_ALIVE))
        .serve_with_incoming_shutdown(
            Calls::new(routes, stop.clone()),
            connections(listener, cut.clone()),
            stop.clone().cancelled_owned(),
        );
    let mut server = pin!(server);
    report(&health, ServingStatus::Serving).await;
    tokio::select! {
        served = &mut server => return served.context("serving"),
        () = shutdown => {}
    }
    report(&health, ServingStatus::NotServing).await;
    stop.cancel();
    match timeout(DRAIN, server).await {
        Ok(served) => served.context("serving"),
        Err(_) => {
            log::warn!("calls were still open {DRAIN:?} after the stop, and are cut off");
            Ok(())
        }
    }
}

/// Everything that is served.
fn routes(service: Service, health: HealthReporter) -> anyhow::Result<Routes> {
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let health = HealthServer::new(HealthService::from_health_reporter(health));
    Ok(
        Routes::new(DeviceServiceServer::new(service).max_decoding_message_size(MAX_REQUEST_BYTES))
            .add_service(health.max_decoding_message_size(MAX_REQUEST_BYTES))
            .add_service(
                reflection()
                    .build_v1()?
                    .max_decoding_message_size(MAX_REQUEST_BYTES),
            )
            .add_service(
                reflection()
                    .build_v1alpha()?
                    .max_decoding_message_size(MAX_REQUEST_BYTES),
            )
            .prepare(),
    )
}

/// Sets the health of the broker as a whole and of its service.
async fn report(health: &HealthReporter, status: ServingStatus) {
    for name in ["", SERVICE_NAME] {
        health.set_service_status(name, status).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_endpoint_is_an_address_and_a_port() {
        for (text, address) in [
            ("0.0.0.0:50051", "0.0.0.0:50051"),
            (":8084", "0.0.0.0:8084"),
            ("[::]:1", "[::]:1"),
            ("127.0.0.1:0", "127.0.0.1:0"),
        ] {
            assert_eq!(listen_address(text).unwrap().to_string(), address);
        }
        for text in [
            "",
            "50051",
            "localhost:1",
            "0.0.0.0",
            ":",
            ":65536",
            "http://0.0.0.0:1",
        ] {
            assert!(listen_address(text).is_err(), "{text}");
        }
    }

    #[test]
    fn both_spellings_of_the_flag_are_known() {
        for flag in ["--grpc_endpoint=:1", "--grpc-endpoint=:1"] {
            let settings = Settings::try_parse_from(["grpc-broker", flag]).unwrap();
            assert_eq!(settings.grpc_endpoint.port(), 1);
        }
        let settings = Settings::try_parse_from(["grpc-broker"]).unwrap();
        assert_eq!(settings.grpc_endpoint.to_string(), "0.0.0.0:50051");
        assert!(settings.shared_reads);
    }

    #[tokio::test]
    async fn a_config_that_breaks_a_rule_is_refused() {
        let valid = Config {
            devices: vec!["device".parse().unwrap()],
            min_interval: Duration::from_secs(1),
            max_reads: 1,
            shared_reads: true,
        };
        for config in [
            Config {
                devices: Vec::new(),
                ..valid.clone()
            },
            Config {
                min_interval: Duration::ZERO,
                ..valid.clone()
            },
            Config {
                max_reads: 0,
                ..valid
            },
        ] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            assert!(run(config, listener, std::future::pending()).await.is_err());
        }
    }
}
