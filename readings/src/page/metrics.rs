//! What Prometheus is told of the devices.

use std::{collections::BTreeSet, fmt, sync::Arc};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{MetricType, gauge::ConstGauge},
};

use crate::{
    devices::{Devices, Seen},
    row::{Row, State},
};

/// Of the devices as they are when somebody asks.
#[derive(Debug)]
pub(super) struct Metrics(pub(super) Arc<Devices>);

/// A value of a device, where it has one.
type Value = fn(&Row, now: u64) -> Option<f64>;

const METRICS: [(&str, &str, Value); 3] = [
    (
        "device_up",
        "1 where the device is reading, 0 where it is failing or has gone",
        |row, _| Some(f64::from(row.state == State::Reading)),
    ),
    (
        "device_reading",
        "The number that the device gave last; absent where it is not reading, or gave no number",
        |row, _| match row.state {
            State::Reading => row.newest.as_ref()?.number,
            _ => None,
        },
    ),
    (
        "device_reading_age_seconds",
        "Since the last reading of the device, number or not",
        |row, now| {
            let at = row.newest.as_ref()?.at;
            Some(now.saturating_sub(at) as f64 / 1000.0)
        },
    ),
];

impl Collector for Metrics {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        let now = self.0.now();
        for (name, help, value) in METRICS {
            let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            let mut told = BTreeSet::new();
            let mut result = Ok(());
            self.0.look(&mut Seen::default(), |_, row| {
                let labels = [("device", row.device.as_str()), ("broker", &*row.broker)];
                // Long names may look alike, and Prometheus takes no answer with the same metric twice.
                let is_new = told.insert((row.device.clone(), row.broker.clone()));
                if let Some(value) = value(row, now).filter(|_| is_new) {
                    result = (metric.encode_family(&labels))
                        .and_then(|one| ConstGauge::new(value).encode(one));
                }
                result.is_ok()
            });
            result?;
        }
        Ok(())
    }
}
