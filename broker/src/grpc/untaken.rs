//! Readings that callers have not taken yet. When they need too much memory, further ones are refused, and the connections of
//! those who have not read for long are closed: a caller that reads takes its answer within milliseconds.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

use akri_daemon::Close;
use tokio::time::Instant;
use tonic::Status;

/// How much memory they may need, in bytes. On their way they need about three times as much.
const MOST: usize = 16 * 1024 * 1024;

/// What a reading needs besides its value, in bytes.
const BESIDES: usize = 1024;

/// How long a caller may take, once there is no room.
const LONG: Duration = Duration::from_secs(2);

#[derive(Clone, Default)]
pub(super) struct Untaken(Arc<Mutex<Readings>>);

#[derive(Default)]
struct Readings {
    bytes: usize,
    next: u64,
    oldest_first: BTreeMap<u64, Reading>,
}

struct Reading {
    bytes: usize,
    since: Instant,
    connection: Close,
}

impl Untaken {
    fn readings(&self) -> MutexGuard<'_, Readings> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Room for one more, with a value of this many bytes, for a caller whose connection this is; until it is dropped.
    ///
    /// # Errors
    /// There is none.
    pub(super) fn hold(&self, bytes: usize, connection: &Close) -> Result<Held, Status> {
        let mut readings = self.readings();
        let (bytes, since) = (bytes + BESIDES, Instant::now());
        if readings.bytes + bytes > MOST {
            let slow = (readings.oldest_first.values())
                .take_while(|reading| reading.since.elapsed() > LONG);
            slow.for_each(|reading| reading.connection.now());
            return Err(Status::resource_exhausted(
                "callers have not taken earlier readings; try again later",
            ));
        }
        let number = readings.next;
        readings.next += 1;
        readings.bytes += bytes;
        let reading = Reading {
            bytes,
            since,
            connection: connection.clone(),
        };
        readings.oldest_first.insert(number, reading);
        Ok(Held {
            untaken: self.clone(),
            number,
        })
    }
}

/// Held until the answer is taken, or its connection has ended.
pub(super) struct Held {
    untaken: Untaken,
    number: u64,
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut readings = self.untaken.readings();
        if let Some(reading) = readings.oldest_first.remove(&self.number) {
            readings.bytes -= reading.bytes;
        }
    }
}

/// What lives as long as the body of the answer to a call does; among the extensions of each request.
#[derive(Clone, Default)]
pub(super) struct Kept(Arc<OnceLock<Held>>);

impl Kept {
    pub(super) fn keep(&self, held: Held) {
        // A call has one answer.
        let _ = self.0.set(held);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_does_not_read_for_long_has_to_go_when_there_is_no_room() {
        let untaken = Untaken::default();
        let (slow, quick) = (Close::default(), Close::default());
        let slow_one = untaken.hold(MOST / 2, &slow).unwrap();
        for _ in 0..10 {
            drop(untaken.hold(MOST / 3, &quick).unwrap());
        }
        let _quick_one = untaken.hold(MOST / 3, &quick).unwrap();
        assert!(untaken.hold(MOST / 3, &quick).is_err());
        assert!(!slow.is_closed(), "it may still read");
        tokio::time::sleep(LONG * 2).await;
        let _small = untaken.hold(10, &quick).unwrap();
        assert!(!slow.is_closed(), "there is room");
        assert!(untaken.hold(MOST / 3, &quick).is_err());
        assert!(slow.is_closed());
        drop(slow_one);
        assert!(untaken.hold(MOST / 3, &quick).is_ok());
    }
}
