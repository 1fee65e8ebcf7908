//! When to ask, and what to make of the answer: equal requests share one poller. Knows timers, and no HTTP.

use std::{
    collections::HashMap,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use log::{Level, info, log_enabled, warn};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use crate::{
    collisions::{Collision, InstanceHashes},
    details::DiscoveryDetails,
    devices::DeviceList,
    fetch::Fetcher,
    lines::{ListError, ListReader},
    outage::Outage,
};

/// The first delay after a failed poll; it doubles up to the interval.
const FIRST_RETRY: Duration = Duration::from_secs(1);

/// How far from its time a poll may be, as a part of the delay: a cluster's nodes shall not ask in step.
const JITTER: f64 = 0.1;

/// How many devices a log line names.
const NAMED: usize = 3;

/// How many collisions are warned of at once.
const COLLISIONS_NAMED: usize = 10;

/// How many different requests are polled at once. An Agent has one for each Configuration.
const MAX_POLLERS: usize = 1_000;

/// The newest list, or none before the first poll that succeeded.
pub type Lists = watch::Receiver<Option<Arc<DeviceList>>>;

/// The running pollers, one for each different request.
pub struct Pollers {
    fetcher: Arc<Fetcher>,
    max_message: usize,
    shared: bool,
    stop: CancellationToken,
    running: Mutex<HashMap<DiscoveryDetails, watch::Sender<Option<Arc<DeviceList>>>>>,
}

impl Pollers {
    /// None is running yet; all end when `stop` is cancelled. `shared` is the setting, `max_message` is in bytes.
    pub fn new(
        fetcher: Fetcher,
        max_message: usize,
        shared: bool,
        stop: CancellationToken,
    ) -> Arc<Self> {
        Arc::new(Self {
            fetcher: Arc::new(fetcher),
            max_message,
            shared,
            stop,
            running: Mutex::default(),
        })
    }

    /// The lists for `details`, from a poller that runs already or from a new one.
    /// A poller ends when the last receiver of its lists is dropped.
    ///
    /// # Errors
    /// `None` when too many different requests are polled already.
    pub fn subscribe(self: &Arc<Self>, details: &DiscoveryDetails) -> Option<Lists> {
        let mut running = self.running();
        if let Some(lists) = running.get(details) {
            return Some(lists.subscribe());
        }
        if running.len() >= MAX_POLLERS {
            return None;
        }
        let (lists, receiver) = watch::channel(None);
        running.insert(details.clone(), lists.clone());
        tokio::spawn(self.clone().run(details.clone(), lists));
        Some(receiver)
    }

    async fn run(
        self: Arc<Self>,
        details: DiscoveryDetails,
        lists: watch::Sender<Option<Arc<DeviceList>>>,
    ) {
        let (interval, timeout) = (details.interval, details.timeout);
        info!("{details}: polling every {interval:?}, each poll within {timeout:?}");
        let mut poller = Poller::new(&details, self.max_message, self.shared);
        let mut schedule = Schedule::new(interval);
        let mut polling = pin!(async {
            loop {
                let started = Instant::now();
                let good = poller.poll(&self.fetcher, &details, &lists).await;
                sleep_until(schedule.next(started, good)).await;
            }
        });
        loop {
            tokio::select! {
                () = &mut polling => {}
                () = self.stop.cancelled() => break,
                () = lists.closed() => {
                    // A request may have come in the meantime; under the lock none can.
                    let mut running = self.running();
                    if lists.is_closed() {
                        running.remove(&details);
                        break;
                    }
                }
            }
        }
        info!("{details}: polling ended");
    }

    fn running(
        &self,
    ) -> MutexGuard<'_, HashMap<DiscoveryDetails, watch::Sender<Option<Arc<DeviceList>>>>> {
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

/// What one poller remembers from one reply to the next.
pub struct Poller {
    max_message: usize,
    shared: bool,
    /// The last good reply, byte for byte: the same bytes again need no parsing. None when it was too large to keep.
    body: Option<Vec<u8>>,
    list: Option<Arc<DeviceList>>,
    hashes: InstanceHashes,
    /// Those that were warned of.
    collisions: Vec<Collision>,
    outage: Outage,
    name: String,
}

impl Poller {
    /// For messages of up to `max_message` bytes; collisions are looked for among `shared` devices.
    pub fn new(details: &DiscoveryDetails, max_message: usize, shared: bool) -> Self {
        let name = details.to_string();
        Self {
            max_message,
            shared,
            body: None,
            list: None,
            hashes: InstanceHashes::default(),
            collisions: Vec::new(),
            outage: Outage::new(&name),
            name,
        }
    }

    /// One poll; a list that differs goes to `lists`. Says whether there was a good reply.
    async fn poll(
        &mut self,
        fetcher: &Fetcher,
        details: &DiscoveryDetails,
        lists: &watch::Sender<Option<Arc<DeviceList>>>,
    ) -> bool {
        match self.ask(fetcher, details).await {
            Ok(changed) => {
                self.outage.succeeded();
                if let Some(list) = changed {
                    lists.send_replace(Some(list));
                }
                true
            }
            Err(cause) => {
                let consequence = match &self.list {
                    Some(list) => format!("the last list of {} devices stands", list.len()),
                    None => "there is no list yet, and none is sent".into(),
                };
                self.outage.failed(cause, &consequence);
                false
            }
        }
    }

    async fn ask(
        &mut self,
        fetcher: &Fetcher,
        details: &DiscoveryDetails,
    ) -> anyhow::Result<Option<Arc<DeviceList>>> {
        let mut reply = fetcher.get(&details.url, details.timeout).await?;
        let mut reading = self.reading();
        while let Some(chunk) = reply.chunk().await? {
            reading.push(&chunk)?;
        }
        Ok(reading.finish()?)
    }

    /// Starts to read a reply.
    pub fn reading(&mut self) -> Reading<'_> {
        Reading {
            same: 0,
            changed: None,
            poller: self,
        }
    }

    fn accept(&mut self, list: DeviceList) -> Option<Arc<DeviceList>> {
        if self.list.as_deref() == Some(&list) {
            return None;
        }
        self.log_change(&list);
        if self.shared {
            self.warn_of_collisions(&list);
        }
        let list = Arc::new(list);
        self.list = Some(list.clone());
        Some(list)
    }

    fn log_change(&self, list: &DeviceList) {
        if !log_enabled!(Level::Info) {
            return;
        }
        let count = list.len();
        let Some(last) = &self.list else {
            info!("{}: {count} devices", self.name);
            return;
        };
        let named = |word, endpoints: Vec<&str>| match endpoints.as_slice() {
            [] => String::new(),
            few if few.len() <= NAMED => format!(", {word}: {}", few.join(" ")),
            many => format!(", {word}: {} devices", many.len()),
        };
        let came = named("new", last.missing_from(list).collect());
        let went = named("gone", list.missing_from(last).collect());
        info!("{}: {count} devices{came}{went}", self.name);
    }

    fn warn_of_collisions(&mut self, list: &DeviceList) {
        self.hashes
            .update(self.list.as_deref().unwrap_or(&DeviceList::default()), list);
        let collisions = self.hashes.collisions(list);
        let new = (collisions.iter()).filter(|collision| !self.collisions.contains(collision));
        for Collision { hash, devices } in new.clone().take(COLLISIONS_NAMED) {
            let [one, other] = devices;
            warn!(
                "{}: {one} and {other} have the same Instance hash {hash}: Akri shows only one of them",
                self.name
            );
        }
        let more = new.count().saturating_sub(COLLISIONS_NAMED);
        if more > 0 {
            warn!(
                "{}: {more} more pairs of devices have the same Instance hash",
                self.name
            );
        }
        self.collisions = collisions;
    }
}

/// A reply as it arrives. As long as it is the last one, byte for byte, nothing is parsed and nothing is held.
/// Dropping it unfinished leaves the last list standing.
pub struct Reading<'a> {
    poller: &'a mut Poller,
    /// How many bytes were the last reply's.
    same: usize,
    changed: Option<Changed>,
}

/// A reply that differs from the last one.
struct Changed {
    reader: ListReader,
    /// What may become [`Poller::body`]; given up when it grows past any list that could be sent.
    body: Option<Vec<u8>>,
}

impl Reading<'_> {
    /// Takes the next bytes, cut anywhere.
    ///
    /// # Errors
    /// At the first line that is no endpoint.
    pub fn push(&mut self, chunk: &[u8]) -> Result<(), ListError> {
        if self.changed.is_none() && self.rest_of_last().is_some_and(|r| r.starts_with(chunk)) {
            self.same += chunk.len();
            return Ok(());
        }
        let max_message = self.poller.max_message;
        let changed = self.changed()?;
        changed.body = changed
            .body
            .take()
            .filter(|body| body.len() + chunk.len() <= max_message);
        if let Some(body) = &mut changed.body {
            body.extend_from_slice(chunk);
        }
        changed.reader.push(chunk)
    }

    /// Ends the reply: the list if it is another one than the last.
    ///
    /// # Errors
    /// When the last line is no endpoint, or the list does not fit into one message.
    pub fn finish(mut self) -> Result<Option<Arc<DeviceList>>, ListError> {
        if self.changed.is_none() && self.rest_of_last().is_some_and(<[u8]>::is_empty) {
            return Ok(None);
        }
        self.changed()?;
        let Some(Changed { reader, mut body }) = self.changed else {
            return Ok(None);
        };
        let list = reader.finish()?;
        if let Some(body) = &mut body {
            body.shrink_to_fit();
        }
        self.poller.body = body;
        Ok(self.poller.accept(list))
    }

    fn rest_of_last(&self) -> Option<&[u8]> {
        self.poller.body.as_deref()?.get(self.same..)
    }

    /// From here on the reply is parsed, from its beginning.
    fn changed(&mut self) -> Result<&mut Changed, ListError> {
        let changed = match self.changed.take() {
            Some(changed) => changed,
            None => {
                let last = self.poller.body.as_deref().unwrap_or_default();
                let same = last.get(..self.same).unwrap_or_default();
                let mut reader = ListReader::new(self.poller.max_message);
                reader.push(same)?;
                Changed {
                    reader,
                    body: Some(same.to_vec()),
                }
            }
        };
        Ok(self.changed.insert(changed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: usize = 4 * 1024 * 1024;

    fn poller() -> Poller {
        let details = DiscoveryDetails::parse("http://d", FIRST_RETRY, FIRST_RETRY).unwrap();
        Poller::new(&details, LIMIT, true)
    }

    fn reply(poller: &mut Poller, chunks: &[&str]) -> Result<Option<usize>, ListError> {
        let mut reading = poller.reading();
        for chunk in chunks {
            reading.push(chunk.as_bytes())?;
        }
        Ok(reading.finish()?.map(|list| list.len()))
    }

    #[test]
    fn only_a_set_that_differs_is_a_change_however_the_reply_is_cut() {
        let mut poller = poller();
        assert_eq!(
            reply(&mut poller, &[]),
            Ok(Some(0)),
            "the first list, also when empty"
        );
        assert_eq!(reply(&mut poller, &[]), Ok(None));
        assert_eq!(reply(&mut poller, &["a:1\nb:1\n"]), Ok(Some(2)));
        assert_eq!(reply(&mut poller, &["a:1\n", "b:1\n"]), Ok(None));
        assert_eq!(reply(&mut poller, &["a:1\nb", ":1\n"]), Ok(None));
        assert_eq!(
            reply(&mut poller, &["b:1\n", "a:1\nb:1"]),
            Ok(None),
            "another order"
        );
        assert_eq!(reply(&mut poller, &["b:1\n", "a:1\nb:2"]), Ok(Some(3)));
        assert_eq!(
            reply(&mut poller, &["b:1\n", "a:1\nb:"]).map_err(|_| ()),
            Err(())
        );
        assert_eq!(reply(&mut poller, &["b:1\na:1\nb:2"]), Ok(None), "it stood");
        assert_eq!(
            reply(&mut poller, &["b:1\n"]),
            Ok(Some(1)),
            "the beginning of the last"
        );
        assert_eq!(
            reply(&mut poller, &["b:1\nc:1\n"]),
            Ok(Some(2)),
            "more than the last"
        );
        assert_eq!(reply(&mut poller, &[]), Ok(Some(0)));
    }

    #[test]
    fn a_reply_that_is_large_only_by_its_blanks_is_taken_and_not_kept() {
        let mut poller = poller();
        let blanks = "\n".repeat(LIMIT);
        assert_eq!(reply(&mut poller, &[&blanks, "a:1"]), Ok(Some(1)));
        assert_eq!(poller.body, None);
        assert_eq!(reply(&mut poller, &[&blanks, "a:1"]), Ok(None));
        assert_eq!(reply(&mut poller, &[]), Ok(Some(0)));
    }

    /// Polls for `time` and tells after how many seconds each poll came; `good` says how the n-th one went.
    async fn times(interval: Duration, time: Duration, good: impl Fn(usize) -> bool) -> Vec<f64> {
        let began = Instant::now();
        let mut schedule = Schedule::new(interval);
        let mut times = Vec::new();
        while began.elapsed() <= time {
            let started = Instant::now();
            times.push(began.elapsed().as_secs_f64());
            sleep_until(schedule.next(started, good(times.len()))).await;
        }
        times
    }

    fn gaps(times: &[f64]) -> Vec<f64> {
        times.windows(2).map(|pair| pair[1] - pair[0]).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_poll_comes_at_once_and_then_every_interval_within_ten_percent() {
        let times = times(Duration::from_secs(10), Duration::from_secs(1_000), |_| {
            true
        })
        .await;
        assert_eq!(times.first(), Some(&0.0));
        assert!((90..=112).contains(&times.len()), "{}", times.len());
        let gaps = gaps(&times);
        assert!(
            gaps.iter().all(|gap| (8.99..=11.01).contains(gap)),
            "{gaps:?}"
        );
        assert!(gaps.iter().any(|gap| *gap < 9.9) && gaps.iter().any(|gap| *gap > 10.1));
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_failure_the_tries_come_from_one_second_doubling_up_to_the_interval() {
        let minute = Duration::from_secs(60);
        let times = times(minute, 6 * minute, |poll| poll == 1).await;
        let expected = [60.0, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0];
        let gaps = gaps(&times);
        assert!(gaps.len() >= 8, "{gaps:?}");
        for (gap, expected) in gaps.iter().zip(expected) {
            assert!((gap - expected).abs() <= 0.1 * expected + 0.01, "{gaps:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_recovery_starts_the_delays_anew_and_short_intervals_are_never_exceeded() {
        let times_60 = times(Duration::from_secs(60), Duration::from_secs(200), |n| {
            n % 2 == 0
        })
        .await;
        let gaps_60 = gaps(&times_60);
        assert!(gaps_60[0] < 1.2 && gaps_60[2] < 1.2, "{gaps_60:?}");
        let times_short = times(Duration::from_millis(200), Duration::from_secs(4), |_| {
            false
        })
        .await;
        assert!(
            gaps(&times_short)
                .iter()
                .all(|gap| (0.17..=0.23).contains(gap))
        );
    }
}
