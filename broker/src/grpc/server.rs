//! From the listening socket to the services.

use std::{future::Future, time::Duration};

use akri_daemon::{Admin, AdminSettings, Connections, Limits, Loops, Tcp, registry};
use akri_device_http::{CredentialFiles, Endpoint};
use akri_proto::http::{
    FILE_DESCRIPTOR_SET,
    device_service_server::{DeviceServiceServer, SERVICE_NAME},
};
use anyhow::{Context, ensure};
use prometheus_client::registry::Registry;
use tokio::{net::TcpListener, task::JoinSet};
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic_health::{
    ServingStatus,
    pb::health_server::HealthServer,
    server::{HealthReporter, HealthService},
};

use super::{
    deadline::{Deadlines, STREAMS},
    device::devices,
    service::{CALLS, Service, WATCHES},
};
use crate::{interval::check_interval, metrics::Calls, read::Reader};

/// How many connections may be open at once. One more takes the place of the oldest without a call. There is always one such,
/// however callers spread their calls over connections, so that a health probe gets through.
pub const CONNECTIONS: usize = CALLS + WATCHES + STREAMS + 64;

const LIMITS: Limits = Limits {
    connections: CONNECTIONS,
    calls_per_connection: 100,
    keep_alive: Duration::from_secs(20),
    keep_alive_answer: Duration::from_secs(20),
};

/// The largest request, in bytes: twice the longest path and device.
const MAX_REQUEST_BYTES: usize = 8 * 1024;

/// How long open calls may take to end when the broker stops.
const DRAIN: Duration = Duration::from_secs(3);

/// What [`run`] works on.
#[derive(Clone, Debug)]
pub struct Config {
    /// The devices to read, at least one. A call that names none means the first.
    pub devices: Vec<Endpoint>,
    /// The shortest interval of a watch, from 100 ms to 24 h.
    pub min_interval: Duration,
    /// How many reads of one device may run at once, at least 1.
    pub max_reads: u16,
    /// Where it can be watched. It is ready until it stops, whether its devices are up or not.
    pub admin: AdminSettings,
    /// What the devices are shown.
    pub credentials: CredentialFiles,
}

/// Serves `http.DeviceService`, the standard health service and reflection on `listener`, until `shutdown` is ready.
/// Then health is NOT_SERVING, streams end with UNAVAILABLE, and other calls that are under way get 3 s; what is still
/// open after that is cut off. Dropping the future cuts off everything at once.
///
/// Each device is read once at the start, so that its state is known. It is not an error if that fails.
///
/// # Errors
/// The config breaks a rule, the admin address cannot be listened on, or the HTTP client cannot be set up.
pub async fn run(
    config: Config,
    listener: TcpListener,
    shutdown: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    check_interval(config.min_interval)?;
    ensure!(config.max_reads > 0, "max_reads must be at least 1");
    ensure!(!config.devices.is_empty(), "there is no device to serve");
    let address = listener
        .local_addr()
        .context("the listening socket has no address")?;

    let reader = Reader::with(config.credentials.clone())?;
    let mut metrics = registry();
    let http = metrics.sub_registry_with_prefix("http");
    let devices = devices(&config.devices, &reader, config.max_reads.into(), http);
    let names: Vec<&str> = devices.iter().map(|device| &*device.name).collect();
    let names = names.join(" ");
    let sensors: Vec<_> = (devices.iter().map(|device| device.itself.clone())).collect();
    let calls = Calls::new(http);
    let service = Service::new(devices, config.min_interval, http);
    let stop = CancellationToken::new();
    let _admin = admin(metrics, stop.clone()).serve(&config.admin).await?;
    let first_reads = sensors.into_iter().map(async |sensor| sensor.read().await);
    let _first_reads: JoinSet<_> = first_reads.collect();
    log::info!("serving {names} on {address}");

    let health = HealthReporter::new();
    report(&health, ServingStatus::Serving).await;
    let calls = Deadlines::new(routes(service, health.clone())?, stop.clone(), calls);
    let connections = Connections::new(calls, LIMITS, stop.clone());
    tokio::select! {
        () = connections.accept_from(Tcp(listener)) => {}
        () = shutdown => {}
    }
    report(&health, ServingStatus::NotServing).await;
    stop.cancel();
    connections.end(DRAIN).await;
    Ok(())
}

fn admin(metrics: Registry, stop: CancellationToken) -> Admin {
    let stopping = move || stop.is_cancelled().then(|| "stopping".into());
    Admin {
        metrics,
        // Each call has a deadline, and none waits for another.
        loops: Loops::default(),
        not_ready: Box::new(move || stopping().into_iter().collect()),
    }
}

fn routes(service: Service, health: HealthReporter) -> anyhow::Result<Routes> {
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let device_service = DeviceServiceServer::new(service);
    let health = HealthServer::new(HealthService::from_health_reporter(health));
    let (v1, v1alpha) = (reflection().build_v1()?, reflection().build_v1alpha()?);
    Ok(
        Routes::new(device_service.max_decoding_message_size(MAX_REQUEST_BYTES))
            .add_service(health.max_decoding_message_size(MAX_REQUEST_BYTES))
            .add_service(v1.max_decoding_message_size(MAX_REQUEST_BYTES))
            .add_service(v1alpha.max_decoding_message_size(MAX_REQUEST_BYTES))
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
    fn it_is_ready_until_it_stops() {
        let stop = CancellationToken::new();
        let admin = admin(registry(), stop.clone());
        assert!((admin.not_ready)().is_empty());
        stop.cancel();
        assert_eq!((admin.not_ready)(), ["stopping"]);
    }

    #[tokio::test]
    async fn a_config_that_breaks_a_rule_is_refused() {
        let valid = Config {
            devices: vec!["device".parse().unwrap()],
            min_interval: Duration::from_secs(1),
            max_reads: 1,
            admin: AdminSettings::default(),
            credentials: CredentialFiles::default(),
        };
        let (mut no_device, mut no_interval, mut no_read) = (valid.clone(), valid.clone(), valid);
        no_device.devices.clear();
        no_interval.min_interval = Duration::ZERO;
        no_read.max_reads = 0;
        for config in [no_device, no_interval, no_read] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            assert!(run(config, listener, std::future::pending()).await.is_err());
        }
    }
}
