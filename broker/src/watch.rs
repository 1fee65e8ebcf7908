//! Readings at an interval, for one caller.

use std::{sync::Arc, time::Duration};

use futures_util::{Stream, stream::unfold};
use tokio::time::{Instant, sleep_until};

use crate::{
    number,
    sensor::{Interest, Outcome, Sensor},
};

/// What a caller wants of a sensor.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// From one outcome to the next.
    pub interval: Duration,
    /// Where set, only outcomes that differ from the one before: two numbers by more than this,
    /// anything else at all.
    pub min_change: Option<f64>,
    /// How old the first outcome may be.
    pub first_age: Duration,
}

/// Outcomes of reads of `sensor`, the first at once, as long as somebody takes them.
///
/// Nothing is read ahead of who takes: a slow taker gets the newest outcome, later. Watchers of one
/// sensor need no poller: each takes what another has read within the shortest interval that any
/// of them has, and else reads for all. Those with that interval count on from the begin of that
/// read, and so fall into step.
pub fn watch(sensor: Arc<Sensor>, wanted: Wanted) -> impl Stream<Item = Arc<Outcome>> + Send {
    let watcher = Watcher {
        interest: Interest::new(sensor, wanted.interval),
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
    interest: Interest,
    wanted: Wanted,
    /// When the next outcome is wanted.
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
        sleep_until(self.due).await;
        let shortest = self.interest.shortest();
        let (age, newer_than) = match &self.taken {
            Some(taken) => (shortest, Some(taken.ended)),
            None => (self.wanted.first_age, None),
        };
        let after = self.due.checked_sub(age).max(newer_than);
        let sensor = self.interest.sensor();
        let outcome = sensor.newer_than(after.unwrap_or(self.due)).await;
        self.due = if self.wanted.interval <= shortest {
            outcome.started + self.wanted.interval
        } else {
            // What is late does not have to be made up for.
            (self.due + self.wanted.interval).max(Instant::now())
        };
        outcome
    }
}

fn differ(sent: &Outcome, new: &Outcome, min_change: f64) -> bool {
    match (&sent.result, &new.result) {
        (Ok(sent), Ok(new)) => match (number(&sent.value), number(&new.value)) {
            (Some(sent), Some(new)) => (new - sent).abs() > min_change,
            _ => sent.value != new.value,
        },
        (sent, new) => {
            let cause = |result: &Result<_, crate::sensor::Failure>| {
                result.as_ref().err().map(|failure| failure.message.clone())
            };
            cause(sent) != cause(new)
        }
    }
}
