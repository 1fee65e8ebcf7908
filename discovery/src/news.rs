//! What the log says about the lists of a request.

use std::{
    fmt::{self, Display},
    time::Duration,
};

use akri_daemon::{LineBudget, one_line};
use log::{Level, log};

use crate::{
    DiscoveryHandler,
    collisions::{Collision, collisions},
    grace::Kept,
    list::DeviceList,
};

/// How many devices a log line names.
const NAMED: usize = 3;

/// How many collisions are warned of at once.
const COLLISIONS_NAMED: usize = 2;

/// A request as the log calls it: in one line, whatever it was made of.
#[derive(Clone, Copy)]
pub(crate) struct Called<'a>(pub &'a (dyn Display + Sync));

impl Display for Called<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&one_line(&self.0.to_string()))
    }
}

pub(crate) struct News<'a, H: DiscoveryHandler> {
    handler: &'a H,
    shared: bool,
    request: Called<'a>,
    /// Bounded, since somebody else makes the lists.
    lines: LineBudget,
    /// Those that were warned of.
    collisions: Vec<Collision>,
}

impl<'a, H: DiscoveryHandler> News<'a, H> {
    /// `shared` is the setting.
    pub fn new(handler: &'a H, shared: bool, request: &'a H::Request, lines: LineBudget) -> Self {
        Self {
            handler,
            shared,
            request: Called(request),
            lines,
            collisions: Vec::new(),
        }
    }

    /// How many pairs of devices of the last list have one hash.
    pub fn collisions(&self) -> usize {
        self.collisions.len()
    }

    /// A list of a process that is no more.
    pub fn of_saved(&mut self, list: &DeviceList, age: Duration) {
        let (request, devices) = (self.request, list.len());
        self.line(
            Level::Info,
            format_args!("{request}: {devices} devices, saved {age:.0?} ago"),
        );
    }

    /// Which devices are missing and kept, and which are back.
    pub fn of_missing(&mut self, kept: &Kept<'_>, grace: Duration) {
        let (request, missing) = (self.request, kept.all.len());
        if !kept.new.is_empty() {
            let new = self.named("new", &kept.new);
            self.line(
                Level::Warn,
                format_args!(
                    "{request}: {missing} devices are missing and kept for {grace:?}{new}"
                ),
            );
        }
        if kept.back > 0 {
            let back = kept.back;
            self.line(
                Level::Info,
                format_args!("{request}: {back} devices that were missing are back"),
            );
        }
    }

    /// What is another in `list`.
    pub fn of_list(&mut self, known: Option<&DeviceList>, list: &DeviceList) {
        let (request, count) = (self.request, list.len());
        let Some(known) = known else {
            self.line(Level::Info, format_args!("{request}: {count} devices"));
            return self.warn_of_collisions(list);
        };
        let came: Vec<&str> = known.missing_from(list).collect();
        let gone: Vec<&str> = list.missing_from(known).collect();
        let changed: Vec<&str> = list.changed_from(known).collect();
        let (new, gone) = (self.named("new", &came), self.named("gone", &gone));
        let mut changed = self.named("changed", &changed);
        if !changed.is_empty() {
            // Rule 14.
            changed += "; brokers that run keep the old properties";
        }
        self.line(
            Level::Info,
            format_args!("{request}: {count} devices{new}{gone}{changed}"),
        );
        if !came.is_empty() {
            self.warn_of_collisions(list);
        }
    }

    fn named(&self, word: &str, ids: &[&str]) -> String {
        match ids.len() {
            0 => String::new(),
            1..=NAMED => {
                let shown: Vec<_> = ids.iter().map(|id| self.handler.shown(id)).collect();
                format!(", {word}: {}", shown.join(" "))
            }
            many => format!(", {word}: {many} devices"),
        }
    }

    fn warn_of_collisions(&mut self, list: &DeviceList) {
        if !self.shared {
            return;
        }
        let collisions = collisions(list);
        let new = |collision: &&Collision| !self.collisions.contains(collision);
        let new: Vec<Collision> = collisions.iter().filter(new).cloned().collect();
        let request = self.request;
        for Collision { hash, devices } in new.iter().take(COLLISIONS_NAMED) {
            let [one, other] = devices.each_ref().map(|id| self.handler.shown(id));
            self.line(
                Level::Warn,
                format_args!(
                    "{request}: {one} and {other} have the same Instance hash {hash}: Akri shows only one of them"
                ),
            );
        }
        let more = new.len().saturating_sub(COLLISIONS_NAMED);
        if more > 0 {
            self.line(
                Level::Warn,
                format_args!(
                    "{request}: {more} or more other pairs of devices have the same Instance hash"
                ),
            );
        }
        self.collisions = collisions;
    }

    pub fn line(&mut self, level: Level, line: std::fmt::Arguments<'_>) {
        if let Some(left_out) = self.lines.take() {
            log!(level, "{line}{left_out}");
        }
    }
}
