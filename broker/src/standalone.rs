//! The standalone broker: reads each device at an interval and logs what it says.

use std::{
    future::Future,
    ops::RangeInclusive,
    time::{Duration, Instant},
};

use anyhow::{anyhow, ensure};
use clap::Parser;
use tokio::{
    task::JoinSet,
    time::{MissedTickBehavior, interval},
};

use crate::{
    endpoints::Endpoint,
    one_line,
    read::{ReadError, Reader},
};

/// The intervals at which devices may be read.
pub const INTERVALS: RangeInclusive<Duration> =
    Duration::from_millis(100)..=Duration::from_secs(24 * 60 * 60);

/// The settings of the `standalone` binary.
#[derive(Parser, Clone, Debug)]
#[command(
    name = "standalone",
    version,
    about = "Reads the HTTP devices that Akri hands to its Pod, and logs their values"
)]
#[command(
    after_help = "The devices are the values of AKRI_HTTP_DEVICE_ENDPOINT and of every \
    AKRI_HTTP_DEVICE_ENDPOINT_<HASH>.\nRUST_LOG sets what is logged (default info)."
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
}

/// One of [`INTERVALS`], as a person writes it.
///
/// # Errors
/// The rule, for any other text.
pub fn parse_interval(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text)
        .ok()
        .filter(|interval| INTERVALS.contains(interval))
        .ok_or_else(|| "expected a duration from 100ms to 24h, such as 10s or 1m".to_owned())
}

/// What [`run`] works on.
#[derive(Clone, Debug)]
pub struct Config {
    /// The devices to read.
    pub devices: Vec<Endpoint>,
    /// The time between two readings of a device, one of [`INTERVALS`].
    pub interval: Duration,
}

/// Reads each device at once and then at every interval, and logs device and value in one line,
/// until `shutdown` is ready; reads that are under way are then given up. A device that fails keeps
/// neither the others nor itself from being read at the next interval. Dropping the future stops
/// everything.
///
/// # Errors
/// An interval that is not one of [`INTERVALS`], an HTTP client that cannot be built, or a bug:
/// never a device.
pub async fn run(config: Config, shutdown: impl Future<Output = ()>) -> anyhow::Result<()> {
    ensure!(
        INTERVALS.contains(&config.interval),
        "the interval {:?} is not from 100ms to 24h",
        config.interval
    );
    let reader = Reader::new()?;
    let mut devices = JoinSet::new();
    for device in config.devices {
        devices.spawn(watch(device, config.interval, reader.clone()));
    }
    tokio::select! {
        () = shutdown => Ok(()),
        // A device's task has no end. One that panicked would be missing silently, so end it all: the
        // kubelet starts the broker again.
        Some(ended) = devices.join_next() => Err(anyhow!("a device's task ended: {ended:?}")),
    }
}

async fn watch(device: Endpoint, every: Duration, reader: Reader) {
    let mut failing: Option<Failing> = None;
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        match reader.read(device.url()).await {
            Ok(reading) => {
                if let Some(Failing { since, .. }) = failing.take() {
                    log::info!(
                        "{device} can be read again after {}",
                        rounded(since.elapsed())
                    );
                }
                match one_line(&reading.value).as_str() {
                    "" => log::info!("{device} (empty)"),
                    value => log::info!("{device} {value}"),
                }
            }
            Err(cause) => match &mut failing {
                Some(failing) if failing.cause == cause => log::debug!("{device} still: {cause}"),
                Some(failing) => {
                    log::warn!("{device} now cannot be read: {cause}");
                    failing.cause = cause;
                }
                None => {
                    log::warn!(
                        "{device} cannot be read: {cause}; trying again every {}",
                        rounded(every)
                    );
                    failing = Some(Failing {
                        since: Instant::now(),
                        cause,
                    });
                }
            },
        }
    }
}

/// A device that could not be read the last time.
struct Failing {
    since: Instant,
    cause: ReadError,
}

/// A duration for a person: milliseconds matter only below a second.
fn rounded(duration: Duration) -> humantime::FormattedDuration {
    humantime::format_duration(match duration.as_secs() {
        0 => Duration::from_millis(duration.as_millis() as u64),
        seconds => Duration::from_secs(seconds),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interval_is_a_duration_within_limits() {
        for (text, interval) in [
            ("100ms", Duration::from_millis(100)),
            ("10s", Duration::from_secs(10)),
            ("1m", Duration::from_secs(60)),
            ("1m 30s", Duration::from_secs(90)),
            ("24h", Duration::from_secs(86_400)),
        ] {
            assert_eq!(parse_interval(text), Ok(interval));
        }
        for text in [
            "",
            "10",
            "0s",
            "99ms",
            "24h 1ms",
            "-1s",
            "fast",
            "99999999999999999999s",
        ] {
            assert!(parse_interval(text).is_err(), "{text}");
        }
    }

    #[tokio::test]
    async fn an_interval_out_of_range_is_refused() {
        let config = Config {
            devices: Vec::new(),
            interval: Duration::ZERO,
        };
        assert!(run(config, std::future::pending()).await.is_err());
    }
}
