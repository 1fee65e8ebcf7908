//! One path of one device: its newest outcome, and reads that callers share.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    panic::AssertUnwindSafe,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use futures_util::FutureExt;
use reqwest::Url;
use tokio::{
    sync::{Semaphore, SemaphorePermit, watch},
    time::{Instant, timeout},
};
use tonic::Code;

use crate::read::{ReadError, Reader, Reading, TIMEOUT};

/// At least this long between two lines that say that a device cannot be read: one that comes and
/// goes must not fill the log.
const LOG_PAUSE: Duration = Duration::from_secs(1);

/// What is read at one URL.
#[derive(Debug)]
pub struct Sensor {
    url: Url,
    /// How the device is called.
    device: Arc<str>,
    reader: Reader,
    /// A read holds one of these; all sensors of a device have them in common.
    reads: Arc<Semaphore>,
    /// Whether the log tells of failures: a path that only a caller asks for may just be wrong.
    logged: bool,
    state: watch::Sender<State>,
    /// The intervals at which it is watched, and how often each.
    intervals: Mutex<BTreeMap<Duration, usize>>,
}

#[derive(Debug, Default)]
struct State {
    /// Whether a read is under way whose outcome many may take.
    shared_read: bool,
    newest: Option<Arc<Outcome>>,
    log: Log,
}

/// How a read ended.
#[derive(Debug)]
pub struct Outcome {
    /// When the read began.
    pub started: Instant,
    /// When it ended.
    pub ended: Instant,
    /// What the device answered, or why there is nothing.
    pub result: Result<Reading, Failure>,
    /// When the device was read successfully the last time, up to this read.
    pub read_at: Option<SystemTime>,
}

/// Why a device cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The kind, in gRPC's terms.
    pub code: Code,
    /// One line.
    pub message: String,
    /// When the first of the reads that failed in a row had failed.
    pub since: SystemTime,
}

impl Sensor {
    /// What is read at `url` of `device`. `logged` tells whether its failures go to the log.
    pub fn new(
        url: Url,
        device: Arc<str>,
        reader: Reader,
        reads: Arc<Semaphore>,
        logged: bool,
    ) -> Self {
        Self {
            url,
            device,
            reader,
            reads,
            logged,
            state: watch::Sender::default(),
            intervals: Mutex::default(),
        }
    }

    /// How its device is called.
    pub fn device(&self) -> &str {
        &self.device
    }

    fn intervals(&self) -> MutexGuard<'_, BTreeMap<Duration, usize>> {
        self.intervals
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// The outcome of the read that ended last, if there was one.
    pub fn newest(&self) -> Option<Arc<Outcome>> {
        self.state.borrow().newest.clone()
    }

    /// The outcome of the read that is under way, or else of a new one. A caller that goes away takes
    /// nothing from the others: a read that has begun goes on, for at most [`TIMEOUT`].
    pub async fn shared_read(self: &Arc<Self>) -> Arc<Outcome> {
        // Before it begins: it may be over at once.
        let mut state = self.state.subscribe();
        let mut start = false;
        self.state.send_if_modified(|state| {
            start = !state.shared_read;
            state.shared_read = true;
            // Nothing that waits needs to know.
            false
        });
        if start {
            tokio::spawn(self.clone().read_for_all());
        }
        loop {
            // The sender is in `self`, so this waits for the end of a read.
            let _ = state.changed().await;
            if let Some(newest) = &state.borrow_and_update().newest {
                return newest.clone();
            }
        }
    }

    /// The newest outcome where that ended after `after`, or else as [`Sensor::shared_read`].
    pub async fn newer_than(self: &Arc<Self>, after: Instant) -> Arc<Outcome> {
        match self.newest() {
            Some(newest) if newest.ended > after => newest,
            _ => self.shared_read().await,
        }
    }

    /// The outcome of a read for this caller alone. Dropping the future gives the read up.
    pub async fn own_read(&self) -> Arc<Outcome> {
        let started = Instant::now();
        let room = self.room().await;
        let result = self.bounded_read(room).await;
        self.record(started, result, false)
    }

    async fn read_for_all(self: Arc<Self>) {
        let started = Instant::now();
        let mut room = pin!(self.room());
        let room = loop {
            tokio::select! {
                room = &mut room => break room,
                () = self.state.closed() => {
                    // Nobody waits any more, unless somebody came just now.
                    let mut wanted = false;
                    self.state.send_if_modified(|state| {
                        wanted = self.state.receiver_count() > 0;
                        state.shared_read = wanted;
                        false
                    });
                    if !wanted {
                        return;
                    }
                }
            }
        };
        // A panic is a bug, but must not leave all others waiting.
        let result = AssertUnwindSafe(self.bounded_read(room)).catch_unwind();
        let result = result
            .await
            .unwrap_or_else(|_| Err((Code::Internal, "the read ended in a panic".to_owned())));
        self.record(started, result, true);
    }

    /// Room for one more read of the device; none where that takes too long.
    async fn room(&self) -> Option<SemaphorePermit<'_>> {
        timeout(TIMEOUT, self.reads.acquire()).await.ok()?.ok()
    }

    async fn bounded_read(
        &self,
        room: Option<SemaphorePermit<'_>>,
    ) -> Result<Reading, (Code, String)> {
        let Some(_room) = room else {
            return Err((
                Code::ResourceExhausted,
                format!("other reads of the device were under way for {TIMEOUT:?}"),
            ));
        };
        let read = self.reader.read(&self.url).await;
        read.map_err(|error| (code(&error), error.to_string()))
    }

    /// Makes it the newest outcome, and tells it to who waits. `shared` tells whether the read was for all.
    fn record(
        &self,
        started: Instant,
        result: Result<Reading, (Code, String)>,
        shared: bool,
    ) -> Arc<Outcome> {
        let before = self.newest();
        let result = result.map_err(|(code, message)| Failure {
            code,
            message,
            since: match before.as_deref().map(|before| &before.result) {
                Some(Err(failure)) => failure.since,
                _ => SystemTime::now(),
            },
        });
        let read_at = match &result {
            Ok(reading) => Some(reading.read_at),
            Err(_) => before.and_then(|before| before.read_at),
        };
        let outcome = Arc::new(Outcome {
            started,
            ended: Instant::now(),
            result,
            read_at,
        });
        self.state.send_modify(|state| {
            if self.logged {
                state.log.tell(&self.device, &outcome.result);
            }
            state.newest = Some(outcome.clone());
            state.shared_read &= !shared;
        });
        outcome
    }
}

/// That somebody wants outcomes of a sensor at an interval, until dropped.
#[derive(Debug)]
pub struct Interest {
    sensor: Arc<Sensor>,
    interval: Duration,
}

impl Interest {
    /// Makes the interest known to all others in the sensor.
    pub fn new(sensor: Arc<Sensor>, interval: Duration) -> Self {
        *sensor.intervals().entry(interval).or_insert(0) += 1;
        Self { sensor, interval }
    }

    /// What it is about.
    pub fn sensor(&self) -> &Arc<Sensor> {
        &self.sensor
    }

    /// The shortest interval at which anybody wants outcomes.
    pub fn shortest(&self) -> Duration {
        let intervals = self.sensor.intervals();
        intervals
            .first_key_value()
            .map_or(self.interval, |(interval, _)| *interval)
    }
}

impl Drop for Interest {
    fn drop(&mut self) {
        let mut intervals = self.sensor.intervals();
        if let Entry::Occupied(mut interested) = intervals.entry(self.interval) {
            *interested.get_mut() -= 1;
            if *interested.get() == 0 {
                interested.remove();
            }
        }
    }
}

/// What the log said about a device.
#[derive(Debug, Default)]
struct Log {
    /// The failure that it was last told to have, with the time.
    failing: Option<String>,
    failing_told: Option<Instant>,
}

impl Log {
    fn tell(&mut self, device: &str, result: &Result<Reading, Failure>) {
        match result {
            Ok(_) if self.failing.take().is_some() => log::info!("{device} can be read again"),
            Ok(_) => {}
            Err(failure) if self.failing.as_ref() == Some(&failure.message) => {}
            Err(failure) => {
                if self
                    .failing_told
                    .is_none_or(|told| told.elapsed() >= LOG_PAUSE)
                {
                    log::warn!("{device} cannot be read: {}", failure.message);
                    self.failing = Some(failure.message.clone());
                    self.failing_told = Some(Instant::now());
                }
            }
        }
    }
}

/// The kind of an error, in gRPC's terms.
fn code(error: &ReadError) -> Code {
    match error {
        ReadError::TimedOut => Code::DeadlineExceeded,
        ReadError::NoConnection(_)
        | ReadError::NoAnswer(_)
        | ReadError::Redirect(_)
        | ReadError::Status(_) => Code::Unavailable,
        ReadError::TooLarge | ReadError::NotText => Code::FailedPrecondition,
    }
}
