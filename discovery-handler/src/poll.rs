//! When to ask, and what to make of the answer: equal requests share one poller. Knows timers, and no HTTP.

use std::{
    collections::HashMap,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use log::{error, info};
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;

use crate::{
    details::DiscoveryDetails, devices::DeviceList, fetch::Fetcher, outage::Outage,
    reading::LastReply,
};

/// The first delay after a failed poll; it doubles up to the interval.
const FIRST_RETRY: Duration = Duration::from_secs(1);

/// How far from its time a poll may be, as a part of the delay: a cluster's nodes shall not ask in step.
const JITTER: f64 = 0.1;

/// How many different requests are polled at once. An Agent has one for each Configuration.
const MAX_POLLERS: usize = 128;

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
        tokio::spawn(self.clone().keep_running(details.clone(), lists));
        Some(receiver)
    }

    /// A poller that panics is a bug, and no reason to leave its streams without a poller.
    async fn keep_running(
        self: Arc<Self>,
        details: DiscoveryDetails,
        lists: watch::Sender<Option<Arc<DeviceList>>>,
    ) {
        while let Err(bug) = tokio::spawn(self.clone().run(details.clone(), lists.clone())).await {
            error!("{details}: the poller failed and is started again: {bug}");
            sleep(details.interval).await;
        }
    }

    async fn run(
        self: Arc<Self>,
        details: DiscoveryDetails,
        lists: watch::Sender<Option<Arc<DeviceList>>>,
    ) {
        let (interval, timeout) = (details.interval, details.timeout);
        info!("{details}: polling every {interval:?}, each poll within {timeout:?}");
        let mut poller = Poller {
            last: LastReply::new(&details, self.max_message, self.shared),
            outage: Outage::new(details.to_string()),
        };
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

/// What asks one discovery service again and again.
struct Poller {
    last: LastReply,
    outage: Outage,
}

impl Poller {
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
                let consequence = match self.last.list() {
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
        let mut reading = self.last.reading();
        while let Some(chunk) = reply.chunk().await? {
            reading.push(&chunk)?;
        }
        Ok(reading.finish()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
