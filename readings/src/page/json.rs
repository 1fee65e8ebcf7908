//! Devices as JSON.

use std::{convert::Infallible, sync::Arc};

use axum::body::Bytes;
use serde::{Serialize, Serializer};

use crate::{
    devices::{Devices, Seen},
    row::{Row, State},
};

/// After so many bytes an answer goes on with another piece, so that no answer is in memory as a whole.
const PIECE: usize = 32 * 1024;

/// How many lines about brokers are shown.
const PROBLEMS: usize = 10;

/// One device, with the points of its history after a time and up to another.
#[derive(Serialize)]
struct Device<'a> {
    id: u64,
    device: &'a str,
    broker: &'a str,
    state: &'static str,
    /// When the state began. All times are in milliseconds since 1970.
    since: u64,
    /// Why the device is failing.
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<&'a str>,
    /// What it gave last, when, and as a number, if it is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    number: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    at: Option<u64>,
    /// Times and numbers; a gap is null.
    points: Points<'a>,
}

struct Points<'a>(&'a Row, Seen);

impl Serialize for Points<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self(row, seen) = self;
        serializer.collect_seq(row.history.between(seen.since, seen.upto))
    }
}

#[derive(Serialize)]
struct Brokers<'a> {
    known: usize,
    answering: usize,
    problems: &'a [String],
}

/// Appends the devices that have changed, with commas between them, until the piece is full. Whether that was all.
pub(super) fn devices(devices: &Devices, seen: &mut Seen, piece: &mut Vec<u8>) -> bool {
    let start = piece.len();
    devices.look(seen, |seen, row| {
        if piece.len() > start {
            piece.push(b',');
        }
        let newest = row.newest.as_ref();
        let (state, why) = match &row.state {
            State::Reading => ("reading", None),
            State::Failing(why) => ("failing", Some(why.as_str())),
            State::Gone => ("gone", None),
        };
        append(
            piece,
            &Device {
                id: row.id,
                device: &row.device,
                broker: &row.broker,
                state,
                since: row.since,
                why,
                value: newest.map(|newest| newest.text.as_str()),
                number: newest.and_then(|newest| newest.number),
                at: newest.map(|newest| newest.at),
                points: Points(row, seen),
            },
        );
        piece.len() < PIECE
    })
}

/// Appends how the brokers are, as an object.
pub(super) fn brokers(devices: &Devices, piece: &mut Vec<u8>) {
    let brokers = devices.brokers(PROBLEMS);
    let brokers = Brokers {
        known: brokers.known,
        answering: brokers.answering,
        problems: &brokers.problems,
    };
    append(piece, &brokers);
}

pub(super) fn append(piece: &mut Vec<u8>, value: &impl Serialize) {
    // Nothing here fails: the keys are strings, and memory takes every write.
    let _ = serde_json::to_writer(piece, value);
}

/// All devices in one object, piece by piece.
pub(super) struct Whole {
    devices: Arc<Devices>,
    seen: Seen,
    begun: bool,
    ended: bool,
    /// Whether the next device needs a comma before it.
    comma: bool,
}

impl Whole {
    pub(super) fn new(devices: Arc<Devices>) -> Self {
        Self {
            devices,
            seen: Seen::default(),
            begun: false,
            ended: false,
            comma: false,
        }
    }
}

impl Iterator for Whole {
    type Item = Result<Bytes, Infallible>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let mut piece = Vec::new();
        if !self.begun {
            self.begun = true;
            piece.extend_from_slice(
                format!(r#"{{"now":{},"brokers":"#, self.devices.now()).as_bytes(),
            );
            brokers(&self.devices, &mut piece);
            piece.extend_from_slice(br#","devices":["#);
        }
        let mut some = Vec::new();
        self.ended = devices(&self.devices, &mut self.seen, &mut some);
        if self.comma && !some.is_empty() {
            piece.push(b',');
        }
        self.comma |= !some.is_empty();
        piece.append(&mut some);
        if self.ended {
            piece.extend_from_slice(b"]}\n");
        }
        Some(Ok(piece.into()))
    }
}
