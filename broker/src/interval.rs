//! How often a device may be read.

use std::{ops::RangeInclusive, time::Duration};

use akri_daemon::parse_duration;
use anyhow::ensure;

/// The shortest and the longest interval between two reads of a device.
pub(crate) const INTERVALS: RangeInclusive<Duration> =
    Duration::from_millis(100)..=Duration::from_secs(24 * 60 * 60);

/// Reads the time between two readings of a device, from 100 ms to 24 h, such as `10s`; for clap.
///
/// # Errors
/// The rule.
pub fn parse_interval(text: &str) -> Result<Duration, String> {
    parse_duration(text, &INTERVALS)
}

/// For a config that did not come from the command line.
pub(crate) fn check_interval(interval: Duration) -> anyhow::Result<()> {
    ensure!(
        INTERVALS.contains(&interval),
        "the interval must be from 100ms to 24h, but is {interval:?}"
    );
    Ok(())
}
