//! When to ask the handler, and what to make of its answer: equal requests share one poller. Knows timers, and no protocol.

use std::{
    collections::HashMap,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use akri_daemon::{LineBudget, Outage};
use anyhow::anyhow;
use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use log::Level;
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    Discovered, DiscoveryHandler, Request,
    grace::Missing,
    list::DeviceList,
    news::News,
    observed::{Observed, Report, Shown},
    saved::{Saved, Saver},
    settings::Settings,
    streams::PeerLog,
};

/// The first delay after a failed poll; it doubles up to the interval.
const FIRST_RETRY: Duration = Duration::from_secs(1);

/// How much later than at once the first poll may be, where the interval is not shorter than ten times that: many nodes may
/// start together. Where a list is known already, it is as late as any other one.
const FIRST_POLL: Duration = Duration::from_secs(1);

/// How far from its time a poll may be, as a part of the delay: a cluster's nodes shall not ask in step.
const JITTER: f64 = 0.1;

/// The newest list, or none before the first poll that succeeded.
pub(crate) type List = Option<Arc<DeviceList>>;

/// Follows the lists of a poller.
pub(crate) type Lists = watch::Receiver<List>;

/// The running pollers, one for each different request. Each has a stream, so streams bound their number.
pub(crate) struct Pollers<H: DiscoveryHandler> {
    handler: H,
    shared: bool,
    saved: Option<Arc<Saved>>,
    observed: Arc<Observed>,
    stop: CancellationToken,
    log: PeerLog,
    running: Mutex<HashMap<H::Request, watch::Sender<List>>>,
}

impl<H: DiscoveryHandler> Pollers<H> {
    /// None is running yet; all end when `stop` is cancelled.
    pub fn new(
        handler: H,
        settings: &Settings,
        observed: Arc<Observed>,
        stop: CancellationToken,
    ) -> Arc<Self> {
        Arc::new(Self {
            handler,
            shared: settings.shared,
            saved: Saved::new(settings),
            observed,
            stop,
            log: PeerLog::new(),
            running: Mutex::default(),
        })
    }

    pub fn handler(&self) -> &H {
        &self.handler
    }

    pub fn observed(&self) -> &Arc<Observed> {
        &self.observed
    }

    pub fn log(&self) -> &PeerLog {
        &self.log
    }

    /// The lists for `request`, from a poller that runs already or from a new one. A poller ends when the last receiver of
    /// its lists is dropped.
    pub fn subscribe(self: &Arc<Self>, request: &H::Request) -> Lists {
        let mut running = self.running();
        if let Some(lists) = running.get(request) {
            return lists.subscribe();
        }
        let (lists, receiver) = watch::channel(None);
        running.insert(request.clone(), lists.clone());
        tokio::spawn(self.clone().keep_running(request.clone(), lists));
        receiver
    }

    /// A handler that panics is a bug, and no reason to leave its streams without a poller.
    async fn keep_running(self: Arc<Self>, request: H::Request, lists: watch::Sender<List>) {
        let mut outage = Outage::new(module_path!(), request.to_string());
        while let Err(bug) = tokio::spawn(self.clone().run(request.clone(), lists.clone())).await {
            outage.failed(bug, "this is a bug; the poller is started again");
            sleep(request.interval().max(FIRST_RETRY)).await;
        }
    }

    async fn run(self: Arc<Self>, request: H::Request, lists: watch::Sender<List>) {
        let (interval, timeout) = (request.interval(), request.timeout());
        let told = self.log.say(
            Level::Info,
            format_args!("{request}: polling every {interval:?}, each poll within {timeout:?}"),
        );
        // Of many requests that come and go, those that are not told of shall not fill the log by what they bring.
        let budget = || match told {
            true => LineBudget::default(),
            false => LineBudget::spent(),
        };
        let name = request.to_string();
        let mut poller = Poller {
            request: &request,
            last: None,
            missing: Missing::default(),
            outage: Outage::with_budget(module_path!(), name.as_str(), budget()),
            news: News::new(&self.handler, self.shared, &request, budget()),
            report: self.observed.report(&name),
            saver: self.saved.as_ref().map(|saved| saved.keep(&request)),
            pollers: &self,
        };
        let mut polling = pin!(poller.poll(&lists));
        loop {
            tokio::select! {
                () = &mut polling => {}
                () = self.stop.cancelled() => break,
                () = lists.closed() => {
                    // A request may have come in the meantime; under the lock none can.
                    let mut running = self.running();
                    if lists.is_closed() {
                        running.remove(&request);
                        break;
                    }
                }
            }
        }
        self.log
            .say(Level::Info, format_args!("{request}: polling ended"));
    }

    fn running(&self) -> MutexGuard<'_, HashMap<H::Request, watch::Sender<List>>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

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
struct Poller<'a, H: DiscoveryHandler> {
    pollers: &'a Pollers<H>,
    request: &'a H::Request,
    /// The list that stands, and what the poll that brought it wants to hand to the next one.
    last: Option<(Arc<DeviceList>, Option<H::Reply>)>,
    /// The devices of that list that are missing and kept.
    missing: Missing,
    outage: Outage,
    news: News<'a, H>,
    report: Report,
    saver: Option<Saver>,
}

impl<H: DiscoveryHandler> Poller<'_, H> {
    /// Polls until dropped; each list that differs from the one before goes to `lists`.
    async fn poll(&mut self, lists: &watch::Sender<List>) {
        let observed = &self.pollers.observed;
        let interval = self.request.interval();
        let within = match self.begin(lists).await {
            true => interval,
            false => (interval / 10).min(FIRST_POLL),
        };
        sleep(within.mul_f64(fastrand::f64())).await;
        let turning = observed.loops.begin(format!("polling {}", self.request));
        let mut schedule = Schedule::new(interval);
        loop {
            let started = Instant::now();
            let asked = self.ask().await;
            observed
                .poll_seconds
                .observe(started.elapsed().as_secs_f64());
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
            turning.turns(next - Instant::now() + self.request.timeout());
            sleep_until(next).await;
        }
    }

    /// What is known before the first poll: the list of a poller that panicked, or of a process that is no more. Says whether
    /// there is one.
    async fn begin(&mut self, lists: &watch::Sender<List>) -> bool {
        let mut age = Duration::ZERO;
        let mut known = lists.borrow().clone();
        if known.is_none()
            && let Some(saved) = &self.pollers.saved
            && let Some(saved) = saved.load(self.request, &self.pollers.log).await
        {
            let (request, devices) = (self.request, saved.0.len());
            age = saved.1;
            self.news.line(
                Level::Info,
                format_args!("{request}: {devices} devices, saved {age:.0?} ago"),
            );
            known = Some(Arc::new(saved.0));
            lists.send_replace(known.clone());
        }
        let Some(list) = known else {
            return false;
        };
        let shown = Shown {
            good: Instant::now().checked_sub(age).unwrap_or_else(Instant::now),
            devices: list.len(),
            missing: 0,
            collisions: 0,
        };
        self.report.update(|polled| polled.list = Some(shown));
        self.last = Some((list, None));
        true
    }

    /// One poll; the list, if it is another one than the last.
    async fn ask(&mut self) -> anyhow::Result<List> {
        // While a device is missing, a reply that has not changed counts too.
        let last = self.last.as_ref().filter(|_| self.missing.is_empty());
        let last = last.and_then(|(_, reply)| reply.as_ref());
        let within = self.request.timeout();
        let handler = &self.pollers.handler;
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
        let list = before.next(&devices.with(&kept.all, &before))?;
        self.news.of_missing(&kept);
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
        self.report.update(|polled| polled.list = Some(shown));
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

#[cfg(test)]
mod tests;
