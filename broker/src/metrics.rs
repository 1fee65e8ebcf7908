//! What Prometheus is told of the devices, and of the calls of a gRPC broker.
//!
//! The labels are the devices of the Pod, the methods of the service and gRPC's codes: nothing that a caller sent. What is
//! counted for each read and each call takes its counter from here once, at the start.

use std::{
    fmt,
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use akri_daemon::one_line;
use akri_proto::http::device_service_server::SERVICE_NAME;
use prometheus_client::{
    encoding::{EncodeMetric, MetricEncoder},
    metrics::{MetricType, counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};
use tokio::sync::Semaphore;
use tonic::Code;

use crate::{pod_devices::distinct, read::Reading};

/// In seconds. A read that times out takes longer than the last.
const BUCKETS: [f64; 7] = [0.005, 0.025, 0.1, 0.25, 1.0, 2.5, 5.0];

const METHODS: [&str; 3] = ["ReadSensor", "WatchSensor", "ListDevices"];

type Labels<const N: usize> = [(&'static str, String); N];
type Number = Gauge<f64, AtomicU64>;

/// Of all devices of a broker. Only reads of their endpoints count: at other paths, which callers ask for, nothing may be.
#[derive(Debug)]
pub(crate) struct Metrics {
    devices: Vec<Labels<1>>,
    reads: Family<Labels<2>, Counter>,
    duration: Family<Labels<1>, Histogram, fn() -> Histogram>,
    up: Family<Labels<1>, Gauge>,
    reading: Family<Labels<1>, Number>,
}

impl Metrics {
    /// Of the devices that are shown as `names`.
    pub(crate) fn new(registry: &mut Registry, names: impl Iterator<Item = String>) -> Self {
        let labels = distinct(names.map(|name| one_line(&name)));
        let metrics = Self {
            devices: labels
                .into_iter()
                .map(|label| [("device", label)])
                .collect(),
            reads: Family::default(),
            duration: Family::new_with_constructor(|| Histogram::new(BUCKETS)),
            up: Family::default(),
            reading: Family::default(),
        };
        registry.register(
            "reads",
            "Reads of a device's endpoint that have ended, well or not",
            metrics.reads.clone(),
        );
        registry.register(
            "read_duration_seconds",
            "How long the reads of a device's endpoint took, well or not",
            metrics.duration.clone(),
        );
        registry.register(
            "device_up",
            "Whether the last read of the device's endpoint went well; absent until the first has ended",
            metrics.up.clone(),
        );
        registry.register(
            "device_reading",
            "The number that the last read of the device's endpoint gave; absent where it failed or gave no number",
            metrics.reading.clone(),
        );
        metrics
    }

    /// Of each device, in the order of the names.
    pub(crate) fn devices(&self) -> impl Iterator<Item = DeviceMetrics> {
        self.devices.iter().map(|device| {
            let [(_, name)] = device;
            let reads = |outcome: &str| {
                let labels = [("device", name.clone()), ("outcome", outcome.to_owned())];
                self.reads.get_or_create_owned(&labels)
            };
            DeviceMetrics {
                ok: reads("ok"),
                failed: reads("failed"),
                duration: self.duration.get_or_create_owned(device),
                up: None,
                reading: None,
                all_up: self.up.clone(),
                all_readings: self.reading.clone(),
                device: device.clone(),
            }
        })
    }

    /// A line for each device whose first read has not ended.
    pub(crate) fn unread(&self) -> Vec<String> {
        let unread = (self.devices.iter()).filter(|device| self.up.get(*device).is_none());
        unread
            .map(|[(_, name)]| format!("{name} has not been read yet"))
            .collect()
    }
}

/// Of one device.
#[derive(Debug)]
pub(crate) struct DeviceMetrics {
    ok: Counter,
    failed: Counter,
    duration: Histogram,
    /// While it is shown.
    up: Option<Gauge>,
    /// While it is shown.
    reading: Option<Number>,
    all_up: Family<Labels<1>, Gauge>,
    all_readings: Family<Labels<1>, Number>,
    device: Labels<1>,
}

impl DeviceMetrics {
    /// A read of its endpoint has ended.
    pub(crate) fn read(&mut self, took: Duration, reading: Option<&Reading>) {
        let reads = if reading.is_some() {
            &self.ok
        } else {
            &self.failed
        };
        reads.inc();
        self.duration.observe(took.as_secs_f64());
        let shown = || self.all_up.get_or_create_owned(&self.device);
        let up = self.up.get_or_insert_with(shown);
        up.set(reading.is_some().into());
        // An old number would be taken for one that the device still gives.
        let Some(number) = reading.and_then(Reading::number) else {
            if self.reading.take().is_some() {
                self.all_readings.remove(&self.device);
            }
            return;
        };
        let shown = || self.all_readings.get_or_create_owned(&self.device);
        self.reading.get_or_insert_with(shown).set(number);
    }
}

/// How many permits are taken, when somebody asks.
#[derive(Debug)]
pub(crate) struct Taken {
    pub(crate) permits: Arc<Semaphore>,
    pub(crate) of: usize,
}

impl EncodeMetric for Taken {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        encoder.encode_gauge(&self.of.saturating_sub(self.permits.available_permits()))
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Gauge
    }
}

/// Calls by their method and gRPC's code.
#[derive(Debug)]
pub(crate) struct Calls {
    ok: [(&'static str, Counter); 3],
    all: Family<Labels<2>, Counter>,
}

impl Calls {
    pub(crate) fn new(registry: &mut Registry) -> Arc<Self> {
        let all = Family::default();
        registry.register(
            "calls",
            "Calls by the code of their answer, a watch by that of its beginning; Cancelled where the caller left before",
            all.clone(),
        );
        let ok = METHODS.map(|method| (method, all.get_or_create_owned(&call(method, Code::Ok))));
        Arc::new(Self { ok, all })
    }

    /// A call to this path begins; `None` where that is no method of the service.
    pub(crate) fn begin(self: &Arc<Self>, path: &str) -> Option<Call> {
        let method = path.strip_prefix('/')?.strip_prefix(SERVICE_NAME)?;
        let method = method.strip_prefix('/')?;
        let (method, ok) = self.ok.iter().find(|(known, _)| *known == method)?;
        Some(Call {
            method,
            ok: ok.clone(),
            all: self.clone(),
            code: Code::Cancelled,
        })
    }
}

fn call(method: &str, code: Code) -> Labels<2> {
    [("method", method.to_owned()), ("code", format!("{code:?}"))]
}

/// A call that is under way, until it is dropped.
#[derive(Debug)]
pub(crate) struct Call {
    method: &'static str,
    ok: Counter,
    all: Arc<Calls>,
    /// Of the answer, once there is one.
    pub(crate) code: Code,
}

impl Drop for Call {
    fn drop(&mut self) {
        match self.code {
            Code::Ok => self.ok.inc(),
            code => self.all.all.get_or_create(&call(self.method, code)).inc(),
        };
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use prometheus_client::encoding::prometheus_text::encode;

    use super::*;

    fn shown(registry: &Registry) -> String {
        let mut text = String::new();
        encode(&mut text, registry).unwrap();
        text
    }

    #[test]
    fn a_device_is_unread_until_its_first_read_has_ended_well_or_not() {
        let names = ["a:1", "b:1", "b:1"].map(str::to_owned).into_iter();
        let metrics = Metrics::new(&mut Registry::default(), names);
        let mut devices: Vec<_> = metrics.devices().collect();
        let lines = ["a:1", "b:1", "b:1#2"].map(|name| format!("{name} has not been read yet"));
        assert_eq!(metrics.unread(), lines);
        devices[1].read(Duration::ZERO, None);
        assert_eq!(metrics.unread(), [&*lines[0], &lines[2]]);
        let reading = Reading {
            value: "warm".into(),
            content_type: String::new(),
            read_at: SystemTime::UNIX_EPOCH,
        };
        devices[0].read(Duration::ZERO, Some(&reading));
        devices[2].read(Duration::ZERO, Some(&reading));
        assert!(metrics.unread().is_empty());
    }

    #[test]
    fn a_long_name_is_cut_and_still_the_devices_own() {
        let mut registry = Registry::default();
        let long = |end: &str| "x".repeat(300) + end;
        let metrics = Metrics::new(&mut registry, [long("a"), long("b")].into_iter());
        metrics
            .devices()
            .for_each(|mut device| device.read(Duration::ZERO, None));
        let text = shown(&registry);
        let cut = "x".repeat(256) + "... (301 bytes)";
        for name in [&cut, &format!("{cut}#2")] {
            let up = format!("device_up{{device=\"{name}\"}} 0\n");
            assert!(text.contains(&up), "{text}");
        }
    }

    #[test]
    fn permits_are_counted_while_they_are_held() {
        let (mut registry, permits) = (Registry::default(), Arc::new(Semaphore::new(3)));
        let taken = Taken {
            permits: permits.clone(),
            of: 3,
        };
        registry.register("open", "Open", taken);
        let held = permits.try_acquire_many(2).unwrap();
        assert!(shown(&registry).ends_with("open 2\n"));
        drop(held);
        assert!(shown(&registry).ends_with("open 0\n"));
    }

    #[test]
    fn only_the_methods_of_the_service_are_counted() {
        let mut registry = Registry::default();
        let calls = Calls::new(&mut registry);
        for path in [
            "/http.DeviceService/ReadSensor",
            "/http.DeviceService/ListDevices",
        ] {
            calls.begin(path).unwrap().code = Code::Ok;
        }
        drop(calls.begin("/http.DeviceService/ReadSensor"));
        for path in [
            "",
            "/",
            "/http.DeviceService",
            "/http.DeviceService/",
            "/x/ReadSensor",
            "/http.DeviceService/Steal",
            "/http.DeviceServiceReadSensor",
        ] {
            assert!(calls.begin(path).is_none(), "{path}");
        }
        let text = shown(&registry);
        for line in [
            r#"calls_total{method="ReadSensor",code="Ok"} 1"#,
            r#"calls_total{method="ReadSensor",code="Cancelled"} 1"#,
            r#"calls_total{method="ListDevices",code="Ok"} 1"#,
            r#"calls_total{method="WatchSensor",code="Ok"} 0"#,
        ] {
            assert!(text.contains(line), "{line}: {text}");
        }
        assert_eq!(text.matches("calls_total{").count(), 4, "{text}");
    }
}
