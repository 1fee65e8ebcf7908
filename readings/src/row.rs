//! One device: what it gave last, and how it is.

use std::{mem::discriminant, net::SocketAddr, sync::Arc};

use akri_daemon::one_line;

use crate::history::History;

/// A broker, and its name for a device.
pub(crate) type Source = (SocketAddr, Arc<str>);

/// One device.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) id: u64,
    /// As it is shown.
    pub(crate) device: String,
    /// As it is shown.
    pub(crate) broker: Arc<str>,
    pub(crate) state: State,
    /// When this state began.
    pub(crate) since: u64,
    pub(crate) newest: Option<Reading>,
    pub(crate) history: History,
    pub(crate) source: Source,
    /// When anything of it changed last.
    pub(crate) changed: u64,
}

/// What is to be said of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Reading,
    /// And why.
    Failing(String),
    Gone,
}

/// A value that a device gave.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Reading {
    /// In one line, and not longer than a line of a log.
    pub(crate) text: String,
    pub(crate) number: Option<f64>,
    /// When it came, by our clock: those of the brokers may differ.
    pub(crate) at: u64,
}

/// What a read of a device gave.
#[derive(Clone, Debug)]
pub(crate) enum Outcome {
    Value {
        text: String,
        number: Option<f64>,
    },
    /// Why it failed, and since when, in milliseconds since 1970, if the broker says so.
    Failure {
        why: String,
        since: Option<u64>,
    },
}

impl Row {
    pub(crate) fn new(id: u64, source: Source, now: u64) -> Self {
        Self {
            id,
            device: one_line(&source.1),
            broker: Arc::default(),
            state: State::Gone,
            since: now,
            newest: None,
            history: History::default(),
            source,
            changed: now,
        }
    }

    fn enter(&mut self, state: State, now: u64, since: u64) {
        if discriminant(&self.state) != discriminant(&state) {
            self.since = since.min(now);
        }
        self.state = state;
        self.changed = now;
    }

    pub(crate) fn succeed(&mut self, now: u64, text: &str, number: Option<f64>) {
        let number = number.filter(|number| number.is_finite());
        self.enter(State::Reading, now, now);
        self.history.push(now, number);
        let text = one_line(text);
        self.newest = Some(Reading {
            text,
            number,
            at: now,
        });
    }

    pub(crate) fn go(&mut self, now: u64) {
        self.enter(State::Gone, now, now);
        self.history.push(now, None);
    }

    pub(crate) fn fail(&mut self, now: u64, since: u64, why: String) {
        self.enter(State::Failing(one_line(&why)), now, since);
        self.history.push(now, None);
    }
}
