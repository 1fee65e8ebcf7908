//! Asks the handler again and again for one request, and makes lists of its answers.

use std::{sync::Arc, time::Duration};

use akri_daemon::{LineBudget, Outage};
use anyhow::anyhow;
use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use log::Level;
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until, timeout},
};

use crate::{
    Discovered, DiscoveryHandler, Request,
    grace::Missing,
    list::DeviceList,
    news::News,
    observed::{Report, Shown},
    poll::{List, Pollers},
    saved::{Loading, Saver},
};

/// The first delay after a failed poll; it doubles up to the interval.
pub(crate) const FIRST_RETRY: Duration = Duration::from_secs(1);

/// How much later than at once the first poll may be, where the interval is not shorter than ten times that: many nodes may
/// start together. Where a saved list is still young, the first poll is as late as the next one would have been.
const FIRST_POLL: Duration = Duration::from_secs(1);

/// How long the first poll waits for a saved list, which may come later still.
const LOAD: Duration = Duration::from_secs(5);

/// How far from its time a poll may be, as a part of the delay: a cluster's nodes shall not ask in step.
const JITTER: f64 = 0.1;

/// When the next poll is due: every interval, and sooner after a failure.
struct Schedule {
    interval: Duration,
    retries: ExponentialBackoff,
}

impl Schedule {
    fn new(interval: Duration) -> Self {
        let retries = ExponentialBuilder::new()
            .with_min_delay(FIRST_RETRY.min(interval))
            .with_max_delay(interval)
            .without_max_times()
            .build();
        Self { interval, retries }
    }

    /// After a poll that `started` then and has just ended, with a good reply or without.
    fn next(&mut self, started: Instant, good: bool) -> Instant {
        if good {
            *self = Self::new(self.interval);
            return started + jittered(self.interval);
        }
        Instant::now() + jittered(self.retries.next().unwrap_or(self.interval))
    }
}

fn jittered(delay: Duration) -> Duration {
    delay.mul_f64(1.0 - JITTER + 2.0 * JITTER * fastrand::f64())
}

/// Asks the handler again and again for one request.
pub(crate) struct Poller<'a, H: DiscoveryHandler> {
    pollers: &'a Pollers<H>,
    request: &'a H::Request,
    /// The list that stands, and what the poll that brought it wants to hand to the next one.
    last: Option<(Arc<DeviceList>, Option<H::Reply>)>,
    /// The devices of that list that are missing and kept.
    missing: Missing,
    outage: Outage,
    news: News<'a, H>,
    report: Report,
    /// Until it is read, or a poll was quicker.
    loading: Option<Loading>,
    saver: Option<Saver>,
}

impl<'a, H: DiscoveryHandler> Poller<'a, H> {
    /// `budget` is for its log lines.
    pub fn new(
        pollers: &'a Pollers<H>,
        request: &'a H::Request,
        budget: impl Fn() -> LineBudget,
    ) -> Self {
        let name = request.to_string();
        let report = pollers.observed().report(&name);
        let saved = pollers.saved();
        report.update(|polled| polled.loading = saved.is_some());
        Self {
            pollers,
            request,
            last: None,
            missing: Missing::default(),
            outage: Outage::with_budget(module_path!(), name, budget()),
            news: News::new(pollers.handler(), pollers.shared(), request, budget()),
            report,
            loading: saved.map(|saved| saved.load(request, pollers.log())),
            saver: saved.map(|saved| saved.keep(request, budget())),
        }
    }

    /// Polls until dropped; each list that differs from the one before goes to `lists`.
    pub async fn poll(&mut self, lists: &watch::Sender<List>) {
        let observed = self.pollers.observed();
        let (interval, within) = (self.request.interval(), self.request.timeout());
        let turning = observed.loops.begin(format!("polling {}", self.request));
        let age = self.begin(lists).await;
        let spread = (interval / 10).min(FIRST_POLL);
        let due_in = age.map_or(spread, |age| interval.saturating_sub(age).max(spread));
        turning.turns(due_in);
        sleep(due_in.mul_f64(fastrand::f64())).await;
        let mut schedule = Schedule::new(interval);
        loop {
            turning.turns(within);
            let started = Instant::now();
            let asked = self.ask().await;
            let took = started.elapsed().as_secs_f64();
            observed.poll_seconds.observe(took);
            let good = asked.is_ok();
            match asked {
                Ok(Some(list)) => {
                    self.report.update(|polled| polled.changed += 1);
                    lists.send_replace(Some(list));
                }
                Ok(None) => self.report.update(|polled| polled.unchanged += 1),
                Err(cause) => self.failed(&cause),
            }
            if good {
                self.succeeded();
            }
            let next = schedule.next(started, good);
            let wait = next.saturating_duration_since(Instant::now());
            turning.turns(wait);
            self.load(wait, lists).await;
            sleep_until(next).await;
        }
    }

    /// What is known before the first poll: the list of a poller that panicked, or of a process that is no more; how old it
    /// is.
    async fn begin(&mut self, lists: &watch::Sender<List>) -> Option<Duration> {
        let known = lists.borrow().clone();
        if let Some(list) = known {
            self.loading = None;
            self.knows(list, Duration::ZERO);
            return Some(self.request.interval());
        }
        let age = self.load(LOAD, lists).await;
        if self.loading.is_some() {
            let request = self.request;
            self.news.line(
                Level::Warn,
                format_args!(
                    "{request}: the saved list could not be read within {LOAD:?}; polling meanwhile"
                ),
            );
        }
        age
    }

    /// Takes the saved list and sends it, where it is there within this time; how old it is.
    async fn load(&mut self, within: Duration, lists: &watch::Sender<List>) -> Option<Duration> {
        let loaded = timeout(within, self.loading.as_mut()?).await.ok()?;
        self.loading = None;
        self.report.update(|polled| polled.loading = false);
        let (list, age) = loaded.ok().flatten()?;
        let (request, devices) = (self.request, list.len());
        self.news.line(
            Level::Info,
            format_args!("{request}: {devices} devices, saved {age:.0?} ago"),
        );
        let list = Arc::new(list);
        lists.send_replace(Some(list.clone()));
        self.knows(list, age);
        Some(age)
    }

    fn knows(&mut self, list: Arc<DeviceList>, age: Duration) {
        let shown = Shown {
            good: Instant::now().checked_sub(age).unwrap_or_else(Instant::now),
            devices: list.len(),
            missing: 0,
            collisions: 0,
        };
        self.report.update(|polled| polled.list = Some(shown));
        self.last = Some((list, None));
    }

    /// One poll; the list, if it is another one than the last.
    async fn ask(&mut self) -> anyhow::Result<List> {
        // While a device is missing, a reply that has not changed counts too.
        let last = self.last.as_ref().filter(|_| self.missing.is_empty());
        let last = last.and_then(|(_, reply)| reply.as_ref());
        let within = self.request.timeout();
        let handler = self.pollers.handler();
        let discovered = timeout(within, handler.discover(self.request, last)).await;
        let discovered =
            discovered.map_err(|_| anyhow!("no complete reply within {within:?}"))??;
        let Discovered::Devices(devices, reply) = discovered else {
            return Ok(None);
        };
        let known = self.last.as_ref().map(|(list, _)| list.clone());
        let before = known.clone().unwrap_or_default();
        let grace = self.request.grace();
        let kept = (self.missing).keep(&before, &devices, Instant::now(), grace);
        self.news.of_missing(&kept);
        let list = before.next(&devices.with(&kept.all, &before));
        let list = list.map_err(|error| match kept.all.len() {
            0 => anyhow!(error),
            kept => anyhow!("{error}; {kept} of them are missing and kept"),
        })?;
        let list = Arc::new(list);
        self.last = Some((list.clone(), Some(reply)));
        if known.as_ref() == Some(&list) {
            return Ok(None);
        }
        self.news.of_list(known.as_deref(), &list);
        Ok(Some(list))
    }

    fn succeeded(&mut self) {
        self.outage.succeeded();
        let Some((list, _)) = &self.last else {
            return;
        };
        let shown = Shown {
            good: Instant::now(),
            devices: list.len(),
            missing: self.missing.len(),
            collisions: self.news.collisions(),
        };
        self.loading = None;
        self.report.update(|polled| {
            polled.list = Some(shown);
            polled.loading = false;
        });
        if let Some(saver) = &mut self.saver {
            saver.save(list);
        }
    }

    fn failed(&mut self, cause: &anyhow::Error) {
        self.report.update(|polled| polled.failed += 1);
        let consequence = match &self.last {
            Some((list, _)) => format!("the last list of {} devices stands", list.len()),
            None => "there is no list yet, and none is sent".into(),
        };
        self.outage.failed(format!("{cause:#}"), &consequence);
    }
}
