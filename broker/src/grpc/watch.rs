//! Readings at an interval, for one caller.

use std::{sync::Arc, time::Duration};

use futures_util::{Stream, stream::unfold};
use tokio::time::{Instant, sleep_until};

use super::sensor::{Failure, Outcome, Sensor};

/// What a caller wants of a sensor.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    /// From one outcome to the next, at least `min_interval`.
    pub(super) interval: Duration,
    /// If set, only outcomes that differ from the last one that was sent: two numbers by more than this, anything else
    /// at all.
    pub(super) min_change: Option<f64>,
    /// The shortest time between two reads for all watches of the sensor together.
    pub(super) min_interval: Duration,
}

/// Outcomes of reads of `sensor`, the first at once, then one for each interval.
///
/// Nothing is read until the caller takes the outcome before, so a slow caller misses outcomes and then gets a new one.
/// All watches with the same interval are due at the same times and share their reads. A watch that is due takes an
/// outcome that is not older than `min_interval`, whoever caused that read.
pub(super) fn watch(
    sensor: Arc<Sensor>,
    wanted: Wanted,
) -> impl Stream<Item = Arc<Outcome>> + Send {
    let watcher = Watcher {
        sensor,
        wanted,
        due: Instant::now(),
        taken: None,
        sent: None,
    };
    unfold(watcher, |mut watcher| async {
        let outcome = watcher.next().await;
        Some((outcome, watcher))
    })
}

struct Watcher {
    sensor: Arc<Sensor>,
    wanted: Wanted,
    due: Instant,
    taken: Option<Arc<Outcome>>,
    sent: Option<Arc<Outcome>>,
}

impl Watcher {
    async fn next(&mut self) -> Arc<Outcome> {
        loop {
            let outcome = self.take().await;
            self.taken = Some(outcome.clone());
            let differs = match (&self.sent, self.wanted.min_change) {
                (Some(sent), Some(min_change)) => differ(sent, &outcome, min_change),
                _ => true,
            };
            if differs {
                self.sent = Some(outcome.clone());
                return outcome;
            }
        }
    }

    async fn take(&mut self) -> Arc<Outcome> {
        let min_interval = self.wanted.min_interval;
        let taken = self.taken.as_deref();
        // The first interval may be a short one, see `next_due`.
        let soonest = taken.map(|taken| taken.started + min_interval);
        sleep_until(self.due.max(soonest.unwrap_or(self.due))).await;
        let recent = Instant::now().checked_sub(min_interval);
        let after = recent.max(taken.map(|taken| taken.ended));
        let outcome = self.sensor.newer_than(after).await;
        self.due = self.next_due();
        outcome
    }

    /// The next multiple of the interval, counted from the sensor's epoch. Multiples that have passed are left out.
    fn next_due(&self) -> Instant {
        let now = self.due.max(Instant::now());
        let interval = self.wanted.interval.as_nanos().max(1);
        let since_epoch = now.saturating_duration_since(self.sensor.epoch).as_nanos();
        let left = interval - since_epoch % interval;
        now + Duration::from_nanos(u64::try_from(left).unwrap_or(u64::MAX))
    }
}

fn differ(sent: &Outcome, new: &Outcome, min_change: f64) -> bool {
    match (&sent.result, &new.result) {
        (Ok(sent), Ok(new)) => match (sent.number(), new.number()) {
            (Some(sent), Some(new)) => (new - sent).abs() > min_change,
            _ => sent.value != new.value,
        },
        (sent, new) => {
            let message = |failure: &Failure| failure.message.clone();
            sent.as_ref().err().map(message) != new.as_ref().err().map(message)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use futures_util::{
        StreamExt,
        future::join_all,
        stream::{BoxStream, select_all},
    };
    use tokio::time::{advance, sleep};

    use super::*;
    use crate::{
        grpc::sensor::tests::{READ_TIME, sensor, value},
        read::ReadError,
    };

    const SECOND: Duration = Duration::from_secs(1);

    fn every(interval: Duration) -> Wanted {
        Wanted {
            interval,
            min_change: None,
            min_interval: SECOND,
        }
    }

    fn watched(sensor: &Arc<Sensor>, wanted: Wanted) -> BoxStream<'static, Arc<Outcome>> {
        watch(sensor.clone(), wanted).boxed()
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_outcome_comes_at_once_and_then_one_for_each_interval() {
        let (sensor, begun) = sensor(|n| Ok(n.to_string()));
        let started = Instant::now();
        let mut stream = watched(&sensor, every(10 * SECOND));
        for n in 0..4 {
            assert_eq!(value(&stream.next().await.unwrap()), n.to_string());
            assert_eq!(started.elapsed(), n * 10 * SECOND + READ_TIME);
        }
        assert_eq!(begun.load(Ordering::SeqCst), 4);
    }

    #[tokio::test(start_paused = true)]
    async fn watches_with_the_same_interval_share_their_reads_whenever_they_began() {
        let (sensor, begun) = sensor(|n| Ok(n.to_string()));
        let mut streams = Vec::new();
        for _ in 0..20 {
            let mut stream = watched(&sensor, every(10 * SECOND));
            stream.next().await.unwrap();
            streams.push(stream);
            sleep(Duration::from_millis(370)).await;
        }
        let begun_before = begun.load(Ordering::SeqCst);
        for n in 1..=5 {
            let outcomes = join_all(streams.iter_mut().map(StreamExt::next)).await;
            let outcomes: Vec<_> = outcomes.into_iter().map(Option::unwrap).collect();
            assert!(outcomes.iter().all(|it| Arc::ptr_eq(it, &outcomes[0])));
            assert_eq!(begun.load(Ordering::SeqCst), begun_before + n);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn all_watches_together_read_no_more_often_than_the_minimum() {
        let (sensor, _) = sensor(|n| Ok(n.to_string()));
        let mut streams = Vec::new();
        for n in 0..30 {
            let interval = SECOND + n * Duration::from_millis(37);
            streams.push(watched(&sensor, every(interval)));
            sleep(Duration::from_millis(71)).await;
        }
        let mut all = select_all(streams);
        let mut starts = Vec::new();
        while starts.len() < 1_000 {
            starts.push(all.next().await.unwrap().started);
        }
        starts.sort();
        starts.dedup();
        assert!(starts.len() > 10);
        assert!(starts.windows(2).all(|pair| pair[1] - pair[0] >= SECOND));
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_caller_misses_outcomes_and_then_gets_a_new_one() {
        let (sensor, _) = sensor(|n| Ok(n.to_string()));
        let mut slow = watched(&sensor, every(SECOND));
        let mut quick = watched(&sensor, every(SECOND));
        slow.next().await.unwrap();
        let mut newest = quick.next().await.unwrap();
        for _ in 0..40 {
            newest = quick.next().await.unwrap();
        }
        assert!(Arc::ptr_eq(&slow.next().await.unwrap(), &newest));

        // Alone, it does not get an old one either.
        drop(quick);
        advance(100 * SECOND).await;
        let outcome = slow.next().await.unwrap();
        assert!(outcome.started.elapsed() <= READ_TIME);
    }

    #[tokio::test(start_paused = true)]
    async fn with_a_least_change_only_changes_are_sent() {
        let values = ["1", "1.5", "2", "2.0", "x", "x", "y", "1", "1", "end"];
        let (sensor, _) = sensor(move |n| Ok(values[n].to_owned()));
        let stream = watched(
            &sensor,
            Wanted {
                min_change: Some(0.9),
                ..every(SECOND)
            },
        );
        let seen: Vec<_> = stream.take(6).collect().await;
        let seen: Vec<_> = seen.iter().map(|outcome| value(outcome)).collect();
        assert_eq!(seen, ["1", "2", "x", "y", "1", "end"]);
    }

    #[tokio::test(start_paused = true)]
    async fn with_a_least_change_a_failure_is_sent_when_it_begins_or_changes() {
        use akri_device_http::HttpError::{NoReply, PerhapsCut};
        let (sensor, _) = sensor(|n| match n {
            0..5 => Err(ReadError::Http(PerhapsCut)),
            5..10 => Err(ReadError::Http(NoReply("gone".to_owned()))),
            n => Ok(n.to_string()),
        });
        let mut stream = watched(
            &sensor,
            Wanted {
                min_change: Some(1000.0),
                ..every(SECOND)
            },
        );
        for message in ["the reply may be truncated", "no complete reply: gone"] {
            let outcome = stream.next().await.unwrap();
            let failure = outcome.result.as_ref().unwrap_err();
            assert!(failure.message.starts_with(message), "{failure:?}");
        }
        assert_eq!(value(&stream.next().await.unwrap()), "10");
    }
}
