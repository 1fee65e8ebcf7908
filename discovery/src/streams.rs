//! What goes into a Discover stream: each list that differs from the one before, and the first one twice more, until the
//! Agent or our own end ends it.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use akri_daemon::LineBudget;
use bytes::{BufMut, Bytes, BytesMut};
use futures_util::{Stream, stream::unfold};
use http::HeaderMap;
use http_body::Frame;
use log::{Level, log};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::{
    list::DeviceList,
    observed::Observed,
    poll::{List, Lists},
};

/// How many lines about requests and streams may come at once; a further one may come every 10 s.
const LINES: u32 = 64;

/// How long after the first list of a stream the list is said again. The applies of the first one may have met Instances that
/// were being deleted, and are lost with them, up to 10 s later (rule 19).
const SAID_AGAIN: [Duration; 2] = [Duration::from_secs(15), Duration::from_secs(60)];

/// How long after a list the next one may come: of what changes in between, the Agent gets what came of it. Each list costs it an
/// apply for each device (rule 9).
const APART: Duration = Duration::from_secs(1);

/// What Discover streams there are and were.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Streams {
    /// Open now.
    pub open: usize,
    /// Opened so far.
    pub opened: u64,
    /// Ended so far.
    pub ended: u64,
}

/// Log lines that a peer can trigger. Over TCP that is anyone.
#[derive(Clone)]
pub(crate) struct PeerLog(Arc<Mutex<LineBudget>>);

impl PeerLog {
    pub fn new() -> Self {
        Self(Arc::new(Mutex::new(LineBudget::new(LINES))))
    }

    /// Logs a line, unless there were too many. Says whether it did.
    pub fn say(&self, level: Level, line: std::fmt::Arguments<'_>) -> bool {
        let left_out = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(left_out) = &left_out {
            log!(level, "{line}{left_out}");
        }
        left_out.is_some()
    }
}

/// Counts a stream as open until it is dropped.
pub(crate) struct OpenStream {
    request: String,
    observed: Arc<Observed>,
    log: PeerLog,
}

impl OpenStream {
    /// For `request` as the log calls it. `None` where `most` streams are open already.
    pub fn new(
        request: String,
        most: usize,
        observed: &Arc<Observed>,
        log: &PeerLog,
    ) -> Option<Self> {
        let opened = observed.streams.send_if_modified(|streams| {
            let opens = streams.open < most;
            streams.open += usize::from(opens);
            streams.opened += u64::from(opens);
            opens
        });
        opened.then(|| {
            log.say(
                Level::Info,
                format_args!("{request}: Discover stream opened"),
            );
            Self {
                request,
                observed: observed.clone(),
                log: log.clone(),
            }
        })
    }

    /// The list is on its way.
    fn sends(&self, list: &DeviceList) {
        self.observed.messages.inc();
        self.observed
            .message_bytes
            .inc_by(list.encoded_len() as u64);
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        let request = &self.request;
        self.log.say(
            Level::Info,
            format_args!("{request}: Discover stream ended"),
        );
        self.observed.streams.send_modify(|streams| {
            streams.open -= 1;
            streams.ended += 1;
        });
    }
}

/// The body of the answer to Discover: gRPC messages, and the trailers at our own end. `open` lives as long as it does.
///
/// All streams share the bytes of a list. By way of tonic's encoder each one would hold a copy, and a few copies of 4 MiB
/// are more than the 24 MiB that Akri's chart grants (rule 17).
pub(crate) fn messages(
    lists: Lists,
    open: OpenStream,
    stop: CancellationToken,
) -> impl Stream<Item = Result<Frame<Bytes>, Status>> + Send {
    let sending = Sending {
        lists,
        stop,
        list: None,
        part: 0,
        next_from: Instant::now(),
        said_again: Vec::new(),
        open,
    };
    unfold(Some(sending), async |sending| {
        let mut sending = sending?;
        Some(match sending.next().await {
            Some(data) => (Ok(Frame::data(data)), Some(sending)),
            None => (Ok(Frame::trailers(trailers())), None),
        })
    })
}

struct Sending {
    lists: Lists,
    stop: CancellationToken,
    /// The list that is or was on its way, and the part of it that goes next.
    list: Option<Arc<DeviceList>>,
    part: usize,
    /// When the next one may follow.
    next_from: Instant,
    /// When it is said again, the next time last.
    said_again: Vec<Instant>,
    open: OpenStream,
}

impl Sending {
    /// The next bytes; `None` at our own end.
    async fn next(&mut self) -> Option<Bytes> {
        if let Some(part) = self.list.as_ref().and_then(|list| list.encoded(self.part)) {
            self.part += 1;
            return Some(part);
        }
        let again = self.said_again.last().copied();
        let list = tokio::select! {
            // What is newer need not be preceded by what was sent.
            biased;
            () = self.stop.cancelled() => return None,
            list = newer(&mut self.lists, self.list.as_deref(), self.next_from) => list,
            Some(list) = said(&self.list, again) => {
                self.said_again.pop();
                list
            }
        };
        let now = Instant::now();
        self.next_from = now + APART;
        if self.list.is_none() {
            self.said_again = SAID_AGAIN.iter().rev().map(|after| now + *after).collect();
        }
        self.open.sends(&list);
        let begin = begin(&list);
        (self.list, self.part) = (Some(list), 0);
        Some(begin)
    }
}

/// The list that was sent, once it is time to say it again; `None` where it never is.
async fn said(sent: &List, again: Option<Instant>) -> List {
    sleep_until(again?).await;
    sent.clone()
}

/// The newest list, `from` then on and once it differs from `sent`: a slow reader gets no queue, and the Agent no needless message (rule 9).
async fn newer(lists: &mut Lists, sent: Option<&DeviceList>, from: Instant) -> Arc<DeviceList> {
    sleep_until(from).await;
    let newer = |list: &List| list.is_some() && list.as_deref() != sent;
    if let Ok(list) = lists.wait_for(newer).await
        && let Some(list) = list.as_ref()
    {
        return list.clone();
    }
    // The poller is gone, as it is at our own end: the stream waits for that, and withdraws nothing (rule 1).
    std::future::pending().await
}

/// What precedes each gRPC message: that it is not compressed, and its length, which is far below 4 GiB.
fn begin(list: &DeviceList) -> Bytes {
    let mut begin = BytesMut::with_capacity(5);
    begin.put_u8(0);
    begin.put_u32(list.encoded_len() as u32);
    begin.freeze()
}

fn trailers() -> HeaderMap {
    let mut trailers = HeaderMap::new();
    // The status OK has no text that could be unfit for a header.
    let _ = Status::ok("").add_header(&mut trailers);
    trailers
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures_util::StreamExt;
    use tokio::sync::watch;

    use super::*;
    use crate::{Device, Devices};

    fn list(devices: usize) -> List {
        let device = |n: usize| Device {
            id: n.to_string(),
            ..Device::default()
        };
        let devices = Devices::from((0..devices).map(device).collect::<Vec<_>>());
        Some(Arc::new(DeviceList::default().next(&devices).unwrap()))
    }

    #[tokio::test(start_paused = true)]
    async fn rule_9_of_lists_that_follow_each_other_closely_the_agent_gets_the_last_one() {
        let (lists, receiver) = watch::channel(list(1));
        let open = OpenStream::new("test".into(), 1, &Observed::new(), &PeerLog::new());
        let mut messages = pin!(messages(receiver, open.unwrap(), CancellationToken::new()));
        let mut next = async || messages.next().await.unwrap().unwrap().into_data().unwrap();
        let started = Instant::now();
        assert_eq!(next().await, begin(&list(1).unwrap()));
        next().await;
        assert_eq!(started.elapsed(), Duration::ZERO);
        for devices in 2..10 {
            lists.send_replace(list(devices));
        }
        assert_eq!(next().await, begin(&list(9).unwrap()));
        assert_eq!(started.elapsed().as_secs(), 1);
    }
}
