//! One path of one device: reads that callers share, and the newest outcome.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use akri_daemon::Outage;
use akri_device_http::HttpError;
use futures_util::{
    FutureExt,
    future::{BoxFuture, Shared, WeakShared},
};
use tokio::{
    sync::Semaphore,
    time::{Instant, timeout},
};
use tokio_util::task::AbortOnDropHandle;
use tonic::Code;

use crate::{
    metrics::DeviceMetrics,
    read::{ReadError, Reading, TIMEOUT},
};

/// Reads the device once.
pub(super) type Read =
    Box<dyn Fn() -> BoxFuture<'static, Result<Reading, ReadError>> + Send + Sync>;

type SharedRead = Shared<BoxFuture<'static, Arc<Outcome>>>;

/// What is read at one path.
pub(super) struct Sensor {
    read: Read,
    /// Each read holds a permit; all sensors of a device share them.
    reads: Arc<Semaphore>,
    /// Watches with the same interval count it from here, and so share their reads.
    pub(super) epoch: Instant,
    state: Mutex<State>,
}

struct State {
    under_way: Option<WeakShared<BoxFuture<'static, Arc<Outcome>>>>,
    newest: Option<Arc<Outcome>>,
    /// What is told of each outcome.
    told: Option<(Outage, DeviceMetrics)>,
}

/// How a read ended.
#[derive(Debug)]
pub(super) struct Outcome {
    /// When the read began.
    pub(super) started: Instant,
    /// When it ended.
    pub(super) ended: Instant,
    pub(super) result: Result<Reading, Failure>,
    /// When the last successful read ended, up to and including this one.
    pub(super) read_at: Option<SystemTime>,
}

/// Why a device cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) code: Code,
    /// One line.
    pub(super) message: String,
    /// When the first of the failed reads in a row ended.
    pub(super) since: SystemTime,
}

impl Sensor {
    /// A sensor without an outcome yet. The log and Prometheus are `told` of its outcomes, but not of those at a path that
    /// only a caller asks for, which may just be wrong.
    pub(super) fn new(
        read: Read,
        reads: Arc<Semaphore>,
        told: Option<(Outage, DeviceMetrics)>,
    ) -> Self {
        Self {
            read,
            reads,
            epoch: Instant::now(),
            state: Mutex::new(State {
                under_way: None,
                newest: None,
                told,
            }),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The outcome of the last read, if there was one.
    pub(super) fn newest(&self) -> Option<Arc<Outcome>> {
        self.state().newest.clone()
    }

    /// The outcome of the read that is under way, or of a new one if there is none. The read is cancelled when all who
    /// wait for it are gone.
    pub(super) async fn read(self: &Arc<Self>) -> Arc<Outcome> {
        let read = self.under_way();
        read.await
    }

    /// The newest outcome if that read ended after `after`; otherwise as [`Sensor::read`].
    pub(super) async fn newer_than(self: &Arc<Self>, after: Option<Instant>) -> Arc<Outcome> {
        match self.newest() {
            Some(newest) if Some(newest.ended) > after => newest,
            _ => self.read().await,
        }
    }

    fn under_way(self: &Arc<Self>) -> SharedRead {
        let mut state = self.state();
        let under_way = state.under_way.as_ref().and_then(WeakShared::upgrade);
        // One that has ended may still be held by a caller who has not taken its outcome yet.
        if let Some(read) = under_way.filter(|read| read.peek().is_none()) {
            return read;
        }
        // A task of its own, so that those who wait are woken once, at its end.
        let task = AbortOnDropHandle::new(tokio::spawn(self.clone().read_device()));
        let sensor = self.clone();
        let ended = async move {
            let panicked = |_| sensor.record(Instant::now(), Err(panicked()));
            task.await.unwrap_or_else(panicked)
        };
        let read = ended.boxed().shared();
        state.under_way = read.downgrade();
        read
    }

    async fn read_device(self: Arc<Self>) -> Arc<Outcome> {
        let started = Instant::now();
        let result = match timeout(TIMEOUT, self.reads.acquire()).await {
            Ok(_permit) => (self.read)()
                .await
                .map_err(|error| (code(&error), error.to_string())),
            Err(_) => Err((
                Code::ResourceExhausted,
                format!("other reads of the device kept this one waiting for {TIMEOUT:?}"),
            )),
        };
        self.record(started, result)
    }

    fn record(&self, started: Instant, result: Result<Reading, (Code, String)>) -> Arc<Outcome> {
        let mut state = self.state();
        let before = state.newest.as_deref();
        let result = result.map_err(|(code, message)| Failure {
            code,
            message,
            since: match before.map(|before| &before.result) {
                Some(Err(failure)) => failure.since,
                _ => SystemTime::now(),
            },
        });
        let read_at = match &result {
            Ok(reading) => Some(reading.read_at),
            Err(_) => before.and_then(|before| before.read_at),
        };
        let ended = Instant::now();
        if let Some((outage, metrics)) = &mut state.told {
            metrics.read(ended - started, result.as_ref().ok());
            match &result {
                Ok(_) => outage.succeeded(),
                Err(failure) => outage.failed(&failure.message, "calls fail until it works again"),
            }
        }
        let outcome = Arc::new(Outcome {
            started,
            ended,
            result,
            read_at,
        });
        state.newest = Some(outcome.clone());
        outcome
    }
}

/// A panic is a bug. It fails this read and nothing else.
fn panicked() -> (Code, String) {
    (Code::Internal, "the read panicked".to_owned())
}

/// The kind of an error, in gRPC's terms.
fn code(error: &ReadError) -> Code {
    match error {
        ReadError::Http(HttpError::TimedOut(_)) => Code::DeadlineExceeded,
        ReadError::Http(HttpError::TooLarge(_)) | ReadError::NotText => Code::FailedPrecondition,
        ReadError::Http(_) => Code::Unavailable,
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::{
        sync::atomic::{AtomicUsize, Ordering},
        time::Duration,
    };

    use tokio::time::sleep;

    use super::*;

    pub(in crate::grpc) const READ_TIME: Duration = Duration::from_millis(10);

    /// A sensor whose n-th read, counted from 0, takes [`READ_TIME`] and ends with `outcome(n)`; and how many have begun.
    pub(in crate::grpc) fn sensor(
        outcome: impl Fn(usize) -> Result<String, ReadError> + Send + Sync + Clone + 'static,
    ) -> (Arc<Sensor>, Arc<AtomicUsize>) {
        let begun = Arc::new(AtomicUsize::new(0));
        let counted = begun.clone();
        let read: Read = Box::new(move || {
            let (n, outcome) = (counted.fetch_add(1, Ordering::SeqCst), outcome.clone());
            let read = async move {
                sleep(READ_TIME).await;
                outcome(n).map(|value| Reading {
                    value,
                    content_type: String::new(),
                    read_at: SystemTime::now(),
                })
            };
            read.boxed()
        });
        let reads = Arc::new(Semaphore::new(1));
        (Arc::new(Sensor::new(read, reads, None)), begun)
    }

    pub(in crate::grpc) fn value(outcome: &Outcome) -> &str {
        &outcome.result.as_ref().unwrap().value
    }

    #[tokio::test(start_paused = true)]
    async fn calls_that_come_during_a_read_share_it_and_later_ones_do_not() {
        let (sensor, begun) = sensor(|n| Ok(n.to_string()));
        let (a, b) = (sensor.read(), async {
            sleep(READ_TIME / 2).await;
            sensor.read().await
        });
        let (a, b) = tokio::join!(a, b);
        assert!(Arc::ptr_eq(&a, &b) && value(&a) == "0");
        assert_eq!(value(&*sensor.read().await), "1");
        assert_eq!(begun.load(Ordering::SeqCst), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_who_leaves_takes_nothing_from_the_others() {
        let (sensor, begun) = sensor(|n| Ok(n.to_string()));
        let leaving = timeout(READ_TIME / 2, sensor.read());
        let (left, stayed) = tokio::join!(leaving, sensor.read());
        assert!(left.is_err());
        assert_eq!(value(&stayed), "0");
        assert_eq!(begun.load(Ordering::SeqCst), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_read_that_nobody_waits_for_is_cancelled_or_not_even_begun() {
        let (sensor, begun) = sensor(|n| Ok(n.to_string()));
        assert!(timeout(READ_TIME / 2, sensor.read()).await.is_err());
        assert_eq!(begun.load(Ordering::SeqCst), 1);
        let permit = sensor.reads.clone().acquire_owned().await.unwrap();
        assert!(timeout(READ_TIME, sensor.read()).await.is_err());
        drop(permit);
        assert_eq!(value(&*sensor.read().await), "1");
        assert_eq!(begun.load(Ordering::SeqCst), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_read_that_panics_fails_for_all_who_wait_and_the_next_one_begins() {
        let (sensor, _) = sensor(|n| match n {
            0 => panic!("a bug"),
            n => Ok(n.to_string()),
        });
        let (a, b) = tokio::join!(sensor.read(), sensor.read());
        assert!(Arc::ptr_eq(&a, &b));
        assert_eq!(a.result.as_ref().unwrap_err().code, Code::Internal);
        assert_eq!(value(&*sensor.read().await), "1");
    }

    #[tokio::test(start_paused = true)]
    async fn a_read_that_waits_too_long_for_its_turn_fails() {
        let (sensor, begun) = sensor(|n| Ok(n.to_string()));
        let _permit = sensor.reads.clone().acquire_owned().await.unwrap();
        let started = Instant::now();
        let failure = sensor.read().await.result.clone().unwrap_err();
        assert_eq!(failure.code, Code::ResourceExhausted);
        assert_eq!(started.elapsed(), TIMEOUT);
        assert_eq!(begun.load(Ordering::SeqCst), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_keeps_its_beginning_and_the_time_of_the_last_reading() {
        let (sensor, _) = sensor(|n| match n {
            1..=2 => Err(ReadError::NotText),
            n => Ok(n.to_string()),
        });
        let good = sensor.read().await;
        let first = sensor.read().await;
        let second = sensor.read().await;
        let since = |outcome: &Outcome| outcome.result.as_ref().unwrap_err().since;
        assert_eq!(since(&first), since(&second));
        assert!(good.read_at.is_some() && second.read_at == good.read_at);
        assert!(sensor.read().await.result.is_ok());
    }
}
