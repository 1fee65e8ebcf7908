//! The standalone broker: reads each device at an interval and logs its value.

use std::{future::Future, time::Duration};

use akri_daemon::{Admin, AdminSettings, Loop, Loops, Outage, one_line, registry, version};
use akri_device_http::{CredentialFiles, Endpoint};
use anyhow::anyhow;
use clap::Parser;
use tokio::{
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval},
};

use crate::{
    interval::{check_interval, parse_interval},
    metrics::{DeviceMetrics, Metrics},
    pod_devices::HELP,
    read::{Reader, TIMEOUT},
};

/// The settings of the `standalone` binary.
#[derive(Parser, Clone, Debug)]
#[command(
    name = "standalone",
    version = version(),
    about = "Reads the HTTP devices that Akri hands to its Pod, and logs their values",
    after_help = HELP
)]
pub struct Settings {
    /// Time between two readings of a device, from 100ms to 24h
    #[arg(
        long,
        env = "POLL_INTERVAL",
        value_name = "POLL_INTERVAL",
        default_value = "10s",
        value_parser = parse_interval
    )]
    pub interval: Duration,

    /// Where it can be watched.
    #[command(flatten)]
    pub admin: AdminSettings,

    /// What the devices are shown.
    #[command(flatten)]
    pub credentials: CredentialFiles,
}

/// What [`run`] works on.
#[derive(Clone, Debug)]
pub struct Config {
    /// The devices to read.
    pub devices: Vec<Endpoint>,
    /// The time between two readings of a device, from 100 ms to 24 h.
    pub interval: Duration,
    /// Where it can be watched. It is ready once each device has been read, well or not.
    pub admin: AdminSettings,
    /// What the devices are shown.
    pub credentials: CredentialFiles,
}

/// Reads each device at once and then at every interval, and logs the device and its value in one line, until
/// `shutdown` is ready. A slow or failing device does not delay the others. Reads that are under way at the end, or
/// when the future is dropped, are cancelled.
///
/// # Errors
/// The interval is out of range, the admin address cannot be listened on, or the HTTP client cannot be set up. A failing
/// device is not an error.
pub async fn run(config: Config, shutdown: impl Future<Output = ()>) -> anyhow::Result<()> {
    check_interval(config.interval)?;
    let reader = Reader::with(config.credentials)?;
    let (mut registry, loops) = (registry(), Loops::default());
    let http = registry.sub_registry_with_prefix("http");
    let metrics = Metrics::new(http, config.devices.iter().map(Endpoint::to_string));
    let told: Vec<_> = metrics.devices().collect();
    let admin = Admin {
        metrics: registry,
        loops: loops.clone(),
        not_ready: Box::new(move || metrics.unread()),
    };
    let _admin = admin.serve(&config.admin).await?;
    let mut devices = JoinSet::new();
    for (device, metrics) in config.devices.into_iter().zip(told) {
        let told = (metrics, loops.begin(format!("reading {device}")));
        devices.spawn(read_at_interval(
            device,
            config.interval,
            reader.clone(),
            told,
        ));
    }
    tokio::select! {
        () = shutdown => Ok(()),
        // Only a panic ends a device's task. Without this, the device would silently not be read any more.
        Some(ended) = devices.join_next() => Err(anyhow!("the task of a device ended: {ended:?}")),
    }
}

async fn read_at_interval(
    device: Endpoint,
    every: Duration,
    reader: Reader,
    (mut metrics, alive): (DeviceMetrics, Loop),
) {
    let mut outage = Outage::new(module_path!(), device.to_string());
    let consequence = format!("trying again every {}", humantime::format_duration(every));
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let started = Instant::now();
        let reading = reader.read(device.url()).await;
        metrics.read(started.elapsed(), reading.as_ref().ok());
        alive.turns(every + TIMEOUT);
        match reading {
            Ok(reading) => {
                outage.succeeded();
                match one_line(&reading.value).as_str() {
                    "" => log::info!("{device} (empty)"),
                    value => log::info!("{device} {value}"),
                }
            }
            Err(cause) => outage.failed(cause, &consequence),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_interval_out_of_range_is_refused() {
        let config = Config {
            devices: Vec::new(),
            interval: Duration::ZERO,
            admin: AdminSettings::default(),
            credentials: CredentialFiles::default(),
        };
        assert!(run(config, std::future::pending()).await.is_err());
    }
}
