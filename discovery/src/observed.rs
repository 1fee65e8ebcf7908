//! What can be seen of a handler from outside: what it counts, and whether it is ready.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use akri_daemon::Loops;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, NoLabelSet},
    metrics::{MetricType, counter::Counter, family::Family, histogram::Histogram},
    registry::{Registry, Unit},
};
use tokio::{sync::watch, time::Instant};

use crate::streams::Streams;

/// How long after a registration the Agent may take to open its first stream. Where there is no Configuration it opens none.
const ASKS_WITHIN: Duration = Duration::from_secs(10);

/// How long a source that fails from the start is waited for where no other handler is there.
const GIVEN_UP: Duration = Duration::from_secs(2 * 60);

/// How long polls take, in seconds.
const POLL_SECONDS: [f64; 8] = [0.005, 0.02, 0.1, 0.5, 1.0, 2.5, 5.0, 30.0];

/// What is counted and watched.
#[derive(Debug)]
pub(crate) struct Observed {
    /// What has to turn.
    pub loops: Loops,
    /// The streams that there are and were.
    pub streams: watch::Sender<Streams>,
    pub poll_seconds: Histogram,
    /// Lists that were sent, and their bytes.
    pub messages: Counter,
    pub message_bytes: Counter,
    pub refused: Counter,
    registrations: Family<[(&'static str, &'static str); 1], Counter>,
    /// Since when the Agent knows us, as far as we can tell.
    registered: Mutex<Option<Instant>>,
    requests: Mutex<BTreeMap<String, Polled>>,
    /// Whether no other handler was there when this one started.
    alone: AtomicBool,
    was_ready: AtomicBool,
}

/// What the polls for one request have brought.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Polled {
    /// Whether a saved list may still come.
    pub loading: bool,
    /// How many brought another list, the same one, and none.
    pub changed: u64,
    pub unchanged: u64,
    pub failed: u64,
    pub list: Option<Shown>,
}

/// The list that stands.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shown {
    /// When a poll said last that it is right.
    pub good: Instant,
    pub devices: usize,
    /// Those of them that are missing and kept.
    pub missing: usize,
    pub collisions: usize,
}

/// Shows the numbers of a request, until it is dropped.
pub(crate) struct Report {
    observed: Arc<Observed>,
    name: String,
}

impl Observed {
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            loops: Loops::default(),
            streams: watch::Sender::default(),
            poll_seconds: Histogram::new(POLL_SECONDS),
            messages: Counter::default(),
            message_bytes: Counter::default(),
            refused: Counter::default(),
            registrations: Family::default(),
            registered: Mutex::default(),
            requests: Mutex::default(),
            alone: AtomicBool::new(false),
            was_ready: AtomicBool::new(false),
        })
    }

    /// The Agent took a registration, or did not.
    pub fn count_registration(&self, taken: bool) {
        let outcome = if taken { "taken" } else { "failed" };
        (self.registrations.get_or_create(&[("outcome", outcome)])).inc();
    }

    /// Whether no other handler of this name is there.
    pub fn set_alone(&self, alone: bool) {
        self.alone.store(alone, Ordering::Relaxed);
    }

    /// Whether the Agent knows us. The time counts from the first of several that say so.
    pub fn set_registered(&self, registered: bool) {
        let mut since = lock(&self.registered);
        *since = registered.then(|| since.unwrap_or_else(Instant::now));
    }

    /// Why the Agent cannot have all lists that it wants from us. Once it could, only whether it knows us counts: an update
    /// must not take a handler away that many Configurations live on, because one more has a source that never works.
    pub fn not_ready(&self) -> Vec<String> {
        let Some(since) = *lock(&self.registered) else {
            return vec!["the Agent has not taken a registration".into()];
        };
        if self.was_ready.load(Ordering::Relaxed) {
            return Vec::new();
        }
        // Where nobody is to be replaced, a source that fails has nothing to lose, and must not make the next update one of a
        // handler that is not ready: Kubernetes does not wait before it stops such a one.
        let given_up = self.alone.load(Ordering::Relaxed) && since.elapsed() >= GIVEN_UP;
        let requests = lock(&self.requests);
        let without = requests.iter().filter(|(_, polled)| {
            polled.list.is_none() && !(given_up && polled.failed > 0 && !polled.loading)
        });
        let mut reasons: Vec<String> = without
            .map(|(request, polled)| {
                format!("{request}: no list yet, {} polls failed", polled.failed)
            })
            .collect();
        if requests.is_empty() && since.elapsed() < ASKS_WITHIN {
            reasons.push(format!(
                "the Agent has opened no Discover stream yet; {ASKS_WITHIN:?} are waited for one"
            ));
        }
        self.was_ready.store(reasons.is_empty(), Ordering::Relaxed);
        reasons
    }

    /// For a request, as the log calls it.
    pub fn report(self: &Arc<Self>, request: &str) -> Report {
        let shown = request.to_owned();
        let mut requests = lock(&self.requests);
        // Several may look alike without their secrets.
        let alike = (2..).map(|n| format!("{shown}#{n}"));
        let mut names = std::iter::once(shown.clone()).chain(alike);
        let name = names.find(|name| !requests.contains_key(name));
        let name = name.unwrap_or(shown);
        requests.insert(name.clone(), Polled::default());
        Report {
            observed: self.clone(),
            name,
        }
    }

    pub fn register(self: &Arc<Self>, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("discovery");
        registry.register_with_unit(
            "poll_duration",
            "How long polls took",
            Unit::Seconds,
            self.poll_seconds.clone(),
        );
        for (name, help, counter) in [
            ("messages_sent", "Lists sent to the Agent", &self.messages),
            (
                "sent_bytes",
                "Bytes of the lists sent to the Agent",
                &self.message_bytes,
            ),
            (
                "refused_requests",
                "Discover requests that were refused",
                &self.refused,
            ),
        ] {
            registry.register(name, help, counter.clone());
        }
        let (help, registrations) = ("Tries to register by their end", &self.registrations);
        registry.register("registrations", help, registrations.clone());
        registry.register_collector(Box::new(self.clone()));
    }
}

impl Report {
    /// Changes the numbers.
    pub fn update(&self, change: impl FnOnce(&mut Polled)) {
        if let Some(polled) = lock(&self.observed.requests).get_mut(&self.name) {
            change(polled);
        }
    }
}

impl Drop for Report {
    fn drop(&mut self) {
        lock(&self.observed.requests).remove(&self.name);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What is known only when somebody asks.
impl Collector for Observed {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let registered = lock(&self.registered).is_some();
        let open = self.streams.borrow().open;
        for (name, help, value) in [
            (
                "registered",
                "Whether the Agent knows this handler",
                usize::from(registered),
            ),
            ("streams", "Open Discover streams", open),
        ] {
            let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            metric.encode_gauge(&value)?;
        }
        let requests = lock(&self.requests).clone();
        encode_polls(&requests, &mut encoder)?;
        for (name, help, unit, value) in LIST_METRICS {
            let unit = unit.as_ref();
            let mut metric = encoder.encode_descriptor(name, help, unit, MetricType::Gauge)?;
            for (request, polled) in &requests {
                if let Some(list) = &polled.list {
                    let labels = [("request", request.as_str())];
                    metric.encode_family(&labels)?.encode_gauge(&value(list))?;
                }
            }
        }
        Ok(())
    }
}

fn encode_polls(
    requests: &BTreeMap<String, Polled>,
    encoder: &mut DescriptorEncoder<'_>,
) -> fmt::Result {
    let help = "Polls by what they brought";
    let mut metric = encoder.encode_descriptor("polls", help, None, MetricType::Counter)?;
    for (request, polled) in requests {
        for (outcome, polls) in [
            ("changed", polled.changed),
            ("unchanged", polled.unchanged),
            ("failed", polled.failed),
        ] {
            let labels = [("request", request.as_str()), ("outcome", outcome)];
            let mut metric = metric.encode_family(&labels)?;
            metric.encode_counter::<NoLabelSet, _, u64>(&polls, None)?;
        }
    }
    Ok(())
}

type ListMetric = (&'static str, &'static str, Option<Unit>, fn(&Shown) -> f64);

/// What is told of each request's list.
const LIST_METRICS: [ListMetric; 4] = [
    ("devices", "Devices of the list that stands", None, |list| {
        list.devices as f64
    }),
    (
        "missing_devices",
        "Devices that are missing from the replies and kept",
        None,
        |list| list.missing as f64,
    ),
    (
        "collisions",
        "Pairs of devices with the same Instance hash",
        None,
        |list| list.collisions as f64,
    ),
    (
        "list_age",
        "Since a poll said last that the list is right",
        Some(Unit::Seconds),
        |list| list.good.elapsed().as_secs_f64(),
    ),
];

#[cfg(test)]
mod tests;
