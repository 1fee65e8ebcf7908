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

use akri_daemon::{Loops, one_line};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeGaugeValue, NoLabelSet},
    metrics::{MetricType, counter::Counter, family::Family, histogram::Histogram},
    registry::{Registry, Unit},
};
use tokio::{sync::watch, time::Instant};

use crate::{settings::Settings, streams::Streams};

/// How long after a registration the Agent may take to open its first stream. Where there is no Configuration it opens none.
const ASKS_WITHIN: Duration = Duration::from_secs(10);

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
    /// Whether lists outlive the process.
    saves: bool,
    was_ready: AtomicBool,
}

/// What the polls for one request have brought.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Polled {
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
    pub fn new(settings: &Settings) -> Arc<Self> {
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
            saves: settings.state_directory.is_some(),
            was_ready: AtomicBool::new(false),
        })
    }

    /// The Agent took a registration, or did not.
    pub fn count_registration(&self, taken: bool) {
        let outcome = if taken { "taken" } else { "failed" };
        (self.registrations.get_or_create(&[("outcome", outcome)])).inc();
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
        let requests = lock(&self.requests);
        let without = requests.iter().filter(|(_, polled)| {
            // Where lists outlive their process, a source that fails and has none has nothing to lose.
            polled.list.is_none() && !(self.saves && polled.failed > 0)
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
        let shown = one_line(request);
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
        let registered = u32::from(lock(&self.registered).is_some());
        let open = self.streams.borrow().open;
        for (name, help, value) in [
            (
                "registered",
                "Whether the Agent knows this handler",
                registered.into(),
            ),
            ("streams", "Open Discover streams", open as u64),
        ] {
            let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            metric.encode_gauge(&value)?;
        }
        let requests = lock(&self.requests).clone();
        let help = "Polls by what they brought";
        let mut metric = encoder.encode_descriptor("polls", help, None, MetricType::Counter)?;
        for (request, polled) in &requests {
            for (outcome, polls) in [
                ("changed", polled.changed),
                ("unchanged", polled.unchanged),
                ("failed", polled.failed),
            ] {
                let labels = [("request", request.as_str()), ("outcome", outcome)];
                (metric.encode_family(&labels)?)
                    .encode_counter::<NoLabelSet, _, u64>(&polls, None)?;
            }
        }
        let mut of_lists = |name, help, unit, value: &dyn Fn(&Shown) -> f64| {
            let mut metric = encoder.encode_descriptor(name, help, unit, MetricType::Gauge)?;
            for (request, polled) in &requests {
                if let Some(list) = &polled.list {
                    let labels = [("request", request.as_str())];
                    encode_gauge(metric.encode_family(&labels)?, &value(list))?;
                }
            }
            fmt::Result::Ok(())
        };
        of_lists(
            "devices",
            "Devices of the list that stands",
            None,
            &|list| list.devices as f64,
        )?;
        of_lists(
            "missing_devices",
            "Devices that are missing and kept",
            None,
            &|list| list.missing as f64,
        )?;
        of_lists(
            "collisions",
            "Pairs of devices with one Instance hash",
            None,
            &|list| list.collisions as f64,
        )?;
        let age = |list: &Shown| list.good.elapsed().as_secs_f64();
        of_lists(
            "list_age",
            "Since a poll said last that the list is right",
            Some(&Unit::Seconds),
            &age,
        )
    }
}

fn encode_gauge(
    mut metric: prometheus_client::encoding::MetricEncoder<'_>,
    value: &impl EncodeGaugeValue,
) -> fmt::Result {
    metric.encode_gauge(value)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use akri_daemon::registry;
    use prometheus_client::encoding::prometheus_text::encode;

    use super::*;

    fn shown(observed: &Arc<Observed>) -> String {
        let (mut registry, mut text) = (registry(), String::new());
        observed.register(&mut registry);
        encode(&mut text, &registry).unwrap();
        text
    }

    fn observed(state_directory: Option<&str>) -> Arc<Observed> {
        let mut settings = Settings::in_directory(Path::new("/"), "test");
        settings.state_directory = state_directory.map(Into::into);
        Observed::new(&settings)
    }

    fn good(devices: usize) -> Option<Shown> {
        Some(Shown {
            good: Instant::now(),
            devices,
            missing: 1,
            collisions: 0,
        })
    }

    #[tokio::test(start_paused = true)]
    async fn a_handler_is_ready_when_every_request_has_its_list() {
        let observed = observed(None);
        assert_eq!(
            observed.not_ready(),
            ["the Agent has not taken a registration"]
        );
        observed.set_registered(true);
        assert!(observed.not_ready()[0].contains("no Discover stream yet"));
        let (one, two) = (observed.report("one"), observed.report("two"));
        two.update(|polled| polled.failed = 2);
        assert_eq!(
            observed.not_ready(),
            [
                "one: no list yet, 0 polls failed",
                "two: no list yet, 2 polls failed"
            ]
        );
        for report in [&one, &two] {
            report.update(|polled| polled.list = good(1));
        }
        assert!(observed.not_ready().is_empty());
        // Whatever comes later, only the registration counts.
        let _another = observed.report("another");
        assert!(observed.not_ready().is_empty());
        observed.set_registered(false);
        assert_eq!(observed.not_ready().len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_handler_that_nobody_asks_is_ready_after_ten_seconds() {
        let observed = observed(None);
        observed.set_registered(true);
        tokio::time::advance(ASKS_WITHIN / 2).await;
        observed.set_registered(true);
        assert_eq!(observed.not_ready().len(), 1);
        tokio::time::advance(ASKS_WITHIN / 2).await;
        assert!(observed.not_ready().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn where_lists_are_saved_a_source_that_never_worked_does_not_count() {
        let observed = observed(Some("/state"));
        observed.set_registered(true);
        let report = observed.report("one");
        assert_eq!(observed.not_ready().len(), 1);
        report.update(|polled| polled.failed = 1);
        assert!(observed.not_ready().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn requests_that_look_alike_have_numbers_of_their_own_while_they_live() {
        let observed = observed(None);
        let (one, two) = (observed.report("http://d"), observed.report("http://d"));
        one.update(|polled| polled.changed = 7);
        two.update(|polled| {
            polled.failed = 3;
            polled.list = good(9);
        });
        tokio::time::advance(Duration::from_secs(5)).await;
        let text = shown(&observed);
        for line in [
            "akri_discovery_polls_total{request=\"http://d\",outcome=\"changed\"} 7",
            "akri_discovery_polls_total{request=\"http://d#2\",outcome=\"failed\"} 3",
            "akri_discovery_devices{request=\"http://d#2\"} 9",
            "akri_discovery_missing_devices{request=\"http://d#2\"} 1",
            "akri_discovery_list_age_seconds{request=\"http://d#2\"} 5",
            "akri_discovery_registered 0",
        ] {
            assert!(text.contains(line), "{line} is not in {text}");
        }
        assert!(!text.contains("devices{request=\"http://d\"}"), "{text}");
        drop((one, two));
        assert!(!shown(&observed).contains("http://d"));
    }
}
