//! Asks the handler again and again for one request.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use akri_daemon::{LineBudget, Loop};
use anyhow::bail;
use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use log::Level;
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until, timeout},
};

use crate::{
    DiscoveryHandler, Found, Times,
    news::Called,
    poll::{List, Pollers},
    saved::Loading,
    taken::Taken,
};

/// The first delay after a failed poll; it doubles up to the interval.
pub(crate) const FIRST_RETRY: Duration = Duration::from_secs(1);

/// How much later than at once the first poll may be, where the interval is not shorter than ten times that: many nodes may
/// start together. Where a saved list is still young, the first poll is as late as the next one would have been.
const FIRST_POLL: Duration = Duration::from_secs(1);

/// How long the first poll waits for a saved list, which may come later still.
const LOAD: Duration = Duration::from_secs(5);

/// How often it is looked at least at what a handler that is told has said last, and how late one may be asked for the first time:
/// it has an interval that says nothing of when it tells something.
pub(crate) const MOST: Duration = Duration::from_secs(60);

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
    times: Times,
    taken: Mutex<Taken<'a, H>>,
    /// Until it is read, or a poll was quicker.
    loading: Option<Loading>,
}

impl<'a, H: DiscoveryHandler> Poller<'a, H> {
    /// Its lists go to `lists`; `budget` is for its log lines.
    pub fn new(
        pollers: &'a Pollers<H>,
        request: &'a H::Request,
        lists: &'a watch::Sender<List>,
        budget: impl Fn() -> LineBudget,
    ) -> Self {
        let name = Called(request).to_string();
        let loading = pollers.saved().map(|saved| {
            let path = saved.path(|list| pollers.handler().identify(request, list));
            saved.load(path, &name, pollers.log())
        });
        Self {
            pollers,
            request,
            times: pollers.times(request),
            taken: Mutex::new(Taken::new(pollers, request, lists, budget)),
            loading,
        }
    }

    /// Polls until dropped.
    pub async fn poll(&mut self) {
        let loops = &self.pollers.observed().loops;
        let interval = self.times.interval;
        let turning = loops.begin(format!("polling {}", Called(self.request)));
        let age = self.begin().await;
        let spread = (interval / 10).min(FIRST_POLL);
        let due_in = age.map_or(spread, |age| {
            interval.saturating_sub(age).min(MOST).max(spread)
        });
        turning.turns(due_in);
        sleep(due_in.mul_f64(fastrand::f64())).await;
        let mut schedule = Schedule::new(interval);
        loop {
            let started = Instant::now();
            let outcome = self.discover(&turning, &mut schedule).await;
            let good = outcome.is_ok();
            if let Err(cause) = outcome {
                self.taken().failed(&cause);
            }
            let next = schedule.next(started, good);
            let wait = next.saturating_duration_since(Instant::now());
            turning.turns(wait);
            self.load(wait).await;
            sleep_until(next).await;
        }
    }

    /// Asks the handler once, which takes as long as it has something to tell.
    async fn discover(&self, turning: &Loop, schedule: &mut Schedule) -> anyhow::Result<()> {
        let Times {
            interval,
            timeout,
            grace,
        } = self.times;
        // What is missing is given up on time, and the saved list stays young.
        let again = match grace {
            Duration::ZERO => interval.min(MOST),
            grace => interval.min(MOST).min(grace.max(FIRST_RETRY)),
        };
        self.taken().begins();
        let take = |devices| self.taken().take(devices);
        let found = Found(&take);
        let mut discovering = self.pollers.handler().discover(self.request, &found);
        let mut within = timeout;
        loop {
            turning.turns(within);
            match tokio::time::timeout(within, &mut discovering).await {
                Ok(outcome) => return outcome.and_then(|()| self.taken().ended()),
                Err(_) if self.taken().is_asked() => bail!("no complete reply within {timeout:?}"),
                Err(_) => {}
            }
            self.taken().same()?;
            *schedule = Schedule::new(interval);
            within = again;
        }
    }

    /// What is known before the first poll: the list of a poller that panicked, or of a process that is no more; how old it
    /// is.
    async fn begin(&mut self) -> Option<Duration> {
        if self.taken().knows_the_last() {
            self.loading = None;
            return Some(self.times.interval);
        }
        let age = self.load(LOAD).await;
        if self.loading.is_some() {
            let request = Called(self.request);
            self.taken().line(
                Level::Warn,
                format_args!(
                    "{request}: the saved list could not be read within {LOAD:?}; polling meanwhile"
                ),
            );
        }
        age
    }

    /// Takes the saved list and sends it, where it is there within this time and nothing newer is; how old it is.
    async fn load(&mut self, within: Duration) -> Option<Duration> {
        if self.taken().has_list() {
            self.loading = None;
        }
        let loaded = timeout(within, self.loading.as_mut()?).await.ok()?;
        self.loading = None;
        self.taken().loaded(loaded.ok().flatten())
    }

    fn taken(&self) -> MutexGuard<'_, Taken<'a, H>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
