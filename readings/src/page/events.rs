//! The changes of all devices for one page, as server-sent events.
//!
//! There is no queue. An event is made when the browser has taken the one before it, of all that has changed until then. So a
//! slow browser gets fewer events, and the newest state in each.

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::body::Bytes;
use futures_util::stream::{Stream, unfold};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until, timeout},
};

use super::json;
use crate::devices::{Devices, GONE_FOR, Seen};

/// The shortest time from one look at all devices to the next.
const PAUSE: Duration = Duration::from_millis(250);

/// The longest time without an event, so that a page knows whether it is still connected.
const SILENCE: Duration = Duration::from_secs(5);

/// How soon a browser connects again, in milliseconds.
const RETRY: &str = "retry: 1000\n";

/// What one page has seen.
pub(super) struct Events {
    devices: Arc<Devices>,
    changes: watch::Receiver<()>,
    note: watch::Receiver<String>,
    seen: Seen,
    step: Step,
    looked: Instant,
}

/// What the next event is.
#[derive(Clone, Copy, PartialEq)]
enum Step {
    /// The first: the page may have older devices, of another connection.
    Begin,
    /// More of the same look at all devices; whether it is the first.
    GoOn { first: bool },
    /// What has changed since then.
    Wait,
}

impl Events {
    pub(super) fn new(devices: Arc<Devices>, note: watch::Receiver<String>) -> Self {
        Self {
            changes: devices.changes(),
            devices,
            note,
            seen: Seen::default(),
            step: Step::Begin,
            looked: Instant::now(),
        }
    }

    pub(super) fn stream(self) -> impl Stream<Item = Result<Bytes, Infallible>> + Send {
        unfold(self, |mut events| async {
            let event = events.next().await;
            Some((Ok(event), events))
        })
    }

    async fn next(&mut self) -> Bytes {
        if self.step == Step::Wait {
            let note = self.note.clone();
            tokio::select! {
                _ = timeout(SILENCE, self.changes.changed()) => {}
                () = changed(note) => {}
            }
            sleep_until(self.looked + PAUSE).await;
        }
        if !matches!(self.step, Step::GoOn { .. }) {
            self.looked = Instant::now();
            self.changes.mark_unchanged();
            self.note.mark_unchanged();
        }
        self.event()
    }

    /// One line, since JSON has no line breaks of its own: `now`, `begin`, `devices`, `complete`, `brokers` and `note`.
    fn event(&mut self) -> Bytes {
        let first = matches!(self.step, Step::Begin | Step::GoOn { first: true });
        let retry = if self.step == Step::Begin { RETRY } else { "" };
        let mut event = format!(r#"{retry}data: {{"now":{}"#, self.devices.now()).into_bytes();
        if self.step == Step::Begin {
            let gone_for = format!(r#","begin":{{"goneFor":{}}}"#, GONE_FOR.as_millis());
            event.extend_from_slice(gone_for.as_bytes());
        }
        event.extend_from_slice(br#","devices":["#);
        let complete = json::devices(&self.devices, &mut self.seen, &mut event);
        event.push(b']');
        if complete && first {
            event.extend_from_slice(br#","complete":true"#);
        }
        event.extend_from_slice(br#","brokers":"#);
        json::brokers(&self.devices, &mut event);
        event.extend_from_slice(br#","note":"#);
        json::append(&mut event, &*self.note.borrow());
        event.extend_from_slice(b"}\n\n");
        self.step = match complete {
            true => Step::Wait,
            false => Step::GoOn { first },
        };
        event.into()
    }
}

/// Ready when there is another note; never, if nobody writes any.
async fn changed(mut note: watch::Receiver<String>) {
    if note.changed().await.is_err() {
        std::future::pending().await
    }
}
