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
use log::{Level, log};
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    Discovered, DiscoveryHandler, Request,
    collisions::{Collision, collisions},
    grace::{Kept, Missing},
    list::DeviceList,
    streams::PeerLog,
};

/// The first delay after a failed poll; it doubles up to the interval.
const FIRST_RETRY: Duration = Duration::from_secs(1);

/// How far from its time a poll may be, as a part of the delay: a cluster's nodes shall not ask in step.
const JITTER: f64 = 0.1;

/// How many devices a log line names.
const NAMED: usize = 3;

/// How many collisions are warned of at once.
const COLLISIONS_NAMED: usize = 10;

/// The newest list, or none before the first poll that succeeded.
pub(crate) type List = Option<Arc<DeviceList>>;

/// Follows the lists of a poller.
pub(crate) type Lists = watch::Receiver<List>;

/// The running pollers, one for each different request. Each has a stream, so streams bound their number.
pub(crate) struct Pollers<H: DiscoveryHandler> {
    handler: H,
    shared: bool,
    stop: CancellationToken,
    log: PeerLog,
    running: Mutex<HashMap<H::Request, watch::Sender<List>>>,
}

impl<H: DiscoveryHandler> Pollers<H> {
    /// None is running yet; all end when `stop` is cancelled. `shared` is the setting.
    pub fn new(handler: H, shared: bool, stop: CancellationToken) -> Arc<Self> {
        Arc::new(Self {
            handler,
            shared,
            stop,
            log: PeerLog::new(),
            running: Mutex::default(),
        })
    }

    pub fn handler(&self) -> &H {
        &self.handler
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
        let outage = Outage::with_budget(module_path!(), request.to_string(), budget());
        let mut poller = Poller {
            handler: &self.handler,
            shared: self.shared,
            request: &request,
            last: None,
            missing: Missing::default(),
            outage,
            lines: budget(),
            collisions: Vec::new(),
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
    handler: &'a H,
    shared: bool,
    request: &'a H::Request,
    /// What the last poll that was taken brought.
    last: Option<(Arc<DeviceList>, H::Reply)>,
    /// The devices of the last list that are missing and kept.
    missing: Missing,
    outage: Outage,
    /// For what the lists say, since somebody else makes them.
    lines: LineBudget,
    /// Those that were warned of.
    collisions: Vec<Collision>,
}

impl<H: DiscoveryHandler> Poller<'_, H> {
    /// Polls until dropped; each list that differs from the one before goes to `lists`.
    async fn poll(&mut self, lists: &watch::Sender<List>) {
        let mut schedule = Schedule::new(self.request.interval());
        loop {
            let started = Instant::now();
            let asked = self.ask().await;
            let good = asked.is_ok();
            match asked {
                Ok(Some(list)) => {
                    lists.send_replace(Some(list));
                }
                Ok(None) => {}
                Err(cause) => self.failed(&cause),
            }
            if good {
                self.outage.succeeded();
            }
            sleep_until(schedule.next(started, good)).await;
        }
    }

    /// One poll; the list, if it is another one than the last.
    async fn ask(&mut self) -> anyhow::Result<List> {
        // While a device is missing, a reply that has not changed counts too.
        let last = self.last.as_ref().filter(|_| self.missing.is_empty());
        let last = last.map(|(_, reply)| reply);
        let within = self.request.timeout();
        let discovered = timeout(within, self.handler.discover(self.request, last)).await;
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
        self.tell_missing(&kept, grace);
        if known.is_some() && *before == list {
            self.last = Some((before, reply));
            return Ok(None);
        }
        self.tell(known.as_deref(), &list);
        let list = Arc::new(list);
        self.last = Some((list.clone(), reply));
        Ok(Some(list))
    }

    fn tell_missing(&mut self, kept: &Kept<'_>, grace: Duration) {
        let (request, missing) = (self.request, kept.all.len());
        if !kept.new.is_empty() {
            let new = self.named("new", &kept.new);
            self.line(
                Level::Warn,
                format_args!(
                    "{request}: {missing} devices are missing and kept for {grace:?}{new}"
                ),
            );
        }
        if kept.back > 0 {
            let back = kept.back;
            self.line(
                Level::Info,
                format_args!("{request}: {back} devices that were missing are back"),
            );
        }
    }

    /// Logs what is another in `list`.
    fn tell(&mut self, known: Option<&DeviceList>, list: &DeviceList) {
        let (request, count) = (self.request, list.len());
        let Some(known) = known else {
            self.line(Level::Info, format_args!("{request}: {count} devices"));
            return self.warn_of_collisions(list);
        };
        let came: Vec<&str> = known.missing_from(list).collect();
        let gone: Vec<&str> = list.missing_from(known).collect();
        let (new, gone) = (self.named("new", &came), self.named("gone", &gone));
        self.line(
            Level::Info,
            format_args!("{request}: {count} devices{new}{gone}"),
        );
        if !came.is_empty() {
            self.warn_of_collisions(list);
        }
    }

    fn named(&self, word: &str, ids: &[&str]) -> String {
        match ids.len() {
            0 => String::new(),
            1..=NAMED => {
                let shown: Vec<_> = ids.iter().map(|id| self.handler.shown(id)).collect();
                format!(", {word}: {}", shown.join(" "))
            }
            many => format!(", {word}: {many} devices"),
        }
    }

    fn warn_of_collisions(&mut self, list: &DeviceList) {
        if !self.shared {
            return;
        }
        let collisions = collisions(list);
        let new = |collision: &&Collision| !self.collisions.contains(collision);
        let new: Vec<Collision> = collisions.iter().filter(new).cloned().collect();
        let request = self.request;
        for Collision { hash, devices } in new.iter().take(COLLISIONS_NAMED) {
            let [one, other] = devices.each_ref().map(|id| self.handler.shown(id));
            self.line(
                Level::Warn,
                format_args!(
                    "{request}: {one} and {other} have the same Instance hash {hash}: Akri shows only one of them"
                ),
            );
        }
        let more = new.len().saturating_sub(COLLISIONS_NAMED);
        if more > 0 {
            self.line(
                Level::Warn,
                format_args!(
                    "{request}: {more} or more other pairs of devices have the same Instance hash"
                ),
            );
        }
        self.collisions = collisions;
    }

    fn line(&mut self, level: Level, line: std::fmt::Arguments<'_>) {
        if let Some(left_out) = self.lines.take() {
            log!(level, "{line}{left_out}");
        }
    }

    fn failed(&mut self, cause: &anyhow::Error) {
        let consequence = match &self.last {
            Some((list, _)) => format!("the last list of {} devices stands", list.len()),
            None => "there is no list yet, and none is sent".into(),
        };
        self.outage.failed(format!("{cause:#}"), &consequence);
    }
}

#[cfg(test)]
mod tests;
