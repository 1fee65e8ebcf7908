//! The devices on the page, and the brokers that they come from.
//!
//! A device is a row. It belongs to a broker, and its name is the broker's for it; two brokers may mean different devices by
//! one name. A row whose broker has gone is taken over by the next broker that has a device of that name, if no other row has
//! that name: so a device that comes back with another broker goes on where it stopped.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use akri_daemon::one_line;
use tokio::{sync::watch, time::Instant};

use crate::row::{Outcome, Row, Source, State};

/// The most devices on the page, and the most watches.
pub(crate) const DEVICES: usize = 2_048;

/// How long a device stays on the page that has gone.
pub(crate) const GONE_FOR: Duration = Duration::from_secs(5 * 60);

/// All that is known. Whoever shows it looks again after [`Devices::changes`].
#[derive(Debug)]
pub(crate) struct Devices {
    known: Mutex<Known>,
    changes: watch::Sender<()>,
}

#[derive(Debug)]
struct Known {
    clock: Clock,
    /// Boxed, since half of the room in such a map is empty.
    rows: BTreeMap<u64, Box<Row>>,
    next_row: u64,
    ids: HashMap<Source, u64>,
    brokers: BTreeMap<SocketAddr, Broker>,
    /// Of the names of brokers, those that cannot be resolved, and why.
    unresolved: BTreeMap<String, String>,
    /// Since when there was no room for a device.
    full: Option<u64>,
}

#[derive(Debug)]
struct Broker {
    name: Arc<str>,
    answers: Answers,
}

/// Whether it does.
#[derive(Debug)]
enum Answers {
    NotYet,
    Yes,
    No(String),
}

/// How far somebody has seen everything: all changes after `since` and up to `upto` in the rows before `next`.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Seen {
    pub(crate) since: u64,
    pub(crate) upto: u64,
    next: u64,
}

/// How many brokers there are, and what is wrong, a line each.
#[derive(Debug, Default)]
pub(crate) struct Brokers {
    pub(crate) known: usize,
    pub(crate) answering: usize,
    pub(crate) problems: Vec<String>,
}

/// Milliseconds since 1970, which neither jump nor go backwards.
#[derive(Debug)]
struct Clock {
    started: Instant,
    at_start: u64,
    /// What somebody has seen is before this.
    not_before: u64,
}

impl Clock {
    fn now(&self) -> u64 {
        let elapsed = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.at_start.saturating_add(elapsed).max(self.not_before)
    }
}

impl Default for Devices {
    fn default() -> Self {
        let since_1970 = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
        let clock = Clock {
            started: Instant::now(),
            at_start: u64::try_from(since_1970.as_millis()).unwrap_or_default(),
            not_before: 1,
        };
        Self {
            known: Mutex::new(Known {
                clock,
                rows: BTreeMap::new(),
                next_row: 1,
                ids: HashMap::new(),
                brokers: BTreeMap::new(),
                unresolved: BTreeMap::new(),
                full: None,
            }),
            changes: watch::Sender::default(),
        }
    }
}

impl Devices {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change<T>(&self, change: impl FnOnce(&mut Known) -> T) -> T {
        let changed = change(&mut self.known());
        self.changes.send_replace(());
        changed
    }

    /// Tells of every change from now on.
    pub(crate) fn changes(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }

    /// A name of brokers can be resolved, or cannot for this reason.
    pub(crate) fn resolved(&self, name: &str, problem: Option<String>) {
        self.change(|known| match problem {
            Some(problem) => known.unresolved.insert(name.to_owned(), problem),
            None => known.unresolved.remove(name),
        });
    }

    /// A broker has come.
    pub(crate) fn come(&self, broker: SocketAddr, name: &str) {
        let name = one_line(name).into();
        let answers = Answers::NotYet;
        self.change(|known| known.brokers.insert(broker, Broker { name, answers }));
    }

    /// A broker answers, and these are its names for its devices; others of it have gone.
    pub(crate) fn answers(&self, broker: SocketAddr, names: &HashSet<Arc<str>>) {
        self.change(|known| {
            if let Some(broker) = known.brokers.get_mut(&broker) {
                broker.answers = Answers::Yes;
            }
            known.forget(|row| row.source.0 == broker && !names.contains(&row.source.1));
        });
    }

    /// A broker does not answer: so nobody reads its devices.
    pub(crate) fn does_not_answer(&self, broker: SocketAddr, why: &str) {
        self.change(|known| {
            let now = known.clock.now();
            if let Some(broker) = known.brokers.get_mut(&broker) {
                broker.answers = Answers::No(why.to_owned());
            }
            let rows = known.rows.values_mut();
            for row in rows.filter(|row| row.source.0 == broker && row.state != State::Gone) {
                row.fail(now, now, format!("the broker does not answer: {why}"));
            }
        });
    }

    /// A broker has gone, and its devices with it.
    pub(crate) fn gone(&self, broker: SocketAddr) {
        self.change(|known| {
            known.brokers.remove(&broker);
            known.forget(|row| row.source.0 == broker);
        });
    }

    /// Whether a broker answers now.
    pub(crate) fn is_answering(&self, broker: SocketAddr) -> bool {
        let known = self.known();
        let broker = known.brokers.get(&broker);
        broker.is_some_and(|broker| matches!(broker.answers, Answers::Yes))
    }

    /// A device could not be watched, since there are too many.
    pub(crate) fn left_out(&self) {
        self.change(|known| known.full = Some(known.clock.now()));
    }

    /// A broker has read a device of this name, well or not.
    pub(crate) fn read(&self, broker: SocketAddr, name: &Arc<str>, outcome: Outcome) {
        self.change(|known| {
            let now = known.clock.now();
            let Some(row) = known.row(broker, name) else {
                return;
            };
            match outcome {
                Outcome::Value { text, number } => row.succeed(now, &text, number),
                Outcome::Failure { why, since } => row.fail(now, since.unwrap_or(now), why),
            }
        });
    }

    /// Shows `show` the rows that somebody has not seen as they are now, until it has enough. Whether that was all; then the
    /// next look is for what has changed since this one began.
    pub(crate) fn look(&self, seen: &mut Seen, mut show: impl FnMut(Seen, &Row) -> bool) -> bool {
        let mut known = self.known();
        if seen.next == 0 {
            known.remove_old();
            seen.upto = known.clock.now();
            known.clock.not_before = seen.upto + 1;
        }
        for (&id, row) in known.rows.range(seen.next..) {
            if row.changed > seen.since && !show(*seen, row) {
                seen.next = id + 1;
                return false;
            }
        }
        (seen.since, seen.next) = (seen.upto, 0);
        true
    }

    /// The time, in milliseconds since 1970.
    pub(crate) fn now(&self) -> u64 {
        self.known().clock.now()
    }

    /// How the brokers are, with at most `most` lines about what is wrong.
    pub(crate) fn brokers(&self, most: usize) -> Brokers {
        self.known().brokers(most)
    }
}

impl Known {
    /// The row of a device, which may be new to us. `None` where there is no room.
    fn row(&mut self, broker: SocketAddr, name: &Arc<str>) -> Option<&mut Box<Row>> {
        let source = (broker, name.clone());
        let id = match self.ids.get(&source) {
            Some(id) => *id,
            None => self.place(&source)?,
        };
        self.rows.get_mut(&id)
    }

    fn place(&mut self, source: &Source) -> Option<u64> {
        let shown = self.brokers.get(&source.0)?.name.clone();
        let mut same = self.rows.values().filter(|row| row.source.1 == source.1);
        let id = match (same.next(), same.next()) {
            (Some(row), None) if self.is_free(row) => row.id,
            _ => {
                self.make_room()?;
                let id = self.next_row;
                self.next_row += 1;
                let row = Row::new(id, source.clone(), self.clock.now());
                self.rows.insert(id, Box::new(row));
                id
            }
        };
        let row = self.rows.get_mut(&id)?;
        self.ids.remove(&row.source);
        row.source = source.clone();
        row.broker = shown;
        self.ids.insert(source.clone(), id);
        Some(id)
    }

    /// Nobody reads it.
    fn is_free(&self, row: &Row) -> bool {
        let broker = self.brokers.get(&row.source.0);
        row.state == State::Gone || !broker.is_some_and(|it| matches!(it.answers, Answers::Yes))
    }

    /// Where there is none, that of the row that nobody has read for the longest time.
    fn make_room(&mut self) -> Option<()> {
        self.remove_old();
        if self.rows.len() >= DEVICES {
            self.full = Some(self.clock.now());
            let free = self.rows.values().filter(|row| self.is_free(row));
            let oldest = free.min_by_key(|row| row.since)?.id;
            self.remove(oldest);
        }
        Some(())
    }

    fn remove_old(&mut self) {
        let now = self.clock.now();
        let gone_for = |row: &Row| now - row.since.min(now);
        let old: Vec<u64> = (self.rows.values())
            .filter(|row| row.state == State::Gone && gone_for(row) > millis(GONE_FOR))
            .map(|row| row.id)
            .collect();
        old.into_iter().for_each(|id| self.remove(id));
        self.full = self.full.filter(|since| now - since < millis(GONE_FOR));
    }

    fn remove(&mut self, id: u64) {
        if let Some(row) = self.rows.remove(&id) {
            self.ids.remove(&row.source);
        }
    }

    /// These rows have gone; they stay on the page for a while.
    fn forget(&mut self, gone: impl Fn(&Row) -> bool) {
        let now = self.clock.now();
        let rows = self.rows.values_mut();
        for row in rows.filter(|row| row.state != State::Gone && gone(row)) {
            row.go(now);
        }
    }

    fn brokers(&self, most: usize) -> Brokers {
        let mut brokers = Brokers {
            known: self.brokers.len(),
            ..Brokers::default()
        };
        let unresolved = self
            .unresolved
            .iter()
            .map(|(name, why)| format!("{name}: {why}"));
        let full = "there are too many devices, and some are left out".to_owned();
        let mut lines: Vec<_> = (self.full.map(|_| full).into_iter())
            .chain(unresolved)
            .collect();
        for broker in self.brokers.values() {
            match &broker.answers {
                Answers::NotYet => {}
                Answers::Yes => brokers.answering += 1,
                Answers::No(why) => lines.push(format!("{}: {why}", broker.name)),
            }
        }
        let more = lines.len().saturating_sub(most);
        lines.truncate(most);
        if more > 0 {
            lines.push(format!("and {more} more"));
        }
        brokers.problems = lines;
        brokers
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
