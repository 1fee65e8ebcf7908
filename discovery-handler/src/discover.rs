//! The `DiscoveryHandler` service: from a request to a stream of lists that only the Agent, or our own end, ends.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use akri_http_proto::v0::{
    DiscoverRequest, DiscoverResponse, discovery_handler_server::DiscoveryHandler,
};
use async_trait::async_trait;
use futures_util::stream;
use log::{Level, log};
use tokio::sync::watch;
use tokio_stream::Pending;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use crate::{
    body::{Answer, ListStream},
    details::DiscoveryDetails,
    devices::DeviceList,
    outage::LineBudget,
    poll::{Lists, Pollers},
};

/// How many Discover streams are open at once; each is a Configuration, or one more of it (rule 5).
const MAX_STREAMS: usize = 512;

/// What Discover streams there are and were.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Streams {
    /// Open now.
    pub open: usize,
    /// Opened so far.
    pub opened: u64,
    /// Ended so far.
    pub ended: u64,
}

/// Answers Discover.
pub struct Discovery {
    pollers: Arc<Pollers>,
    streams: watch::Sender<Streams>,
    stop: CancellationToken,
    interval: Duration,
    timeout: Duration,
    log: Log,
}

/// What the clients make us say, which on TCP may be anybody.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<LineBudget>>);

impl Log {
    fn say(&self, level: Level, line: std::fmt::Arguments<'_>) {
        let left_out = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(left_out) = left_out {
            log!(level, "{line}{left_out}");
        }
    }
}

impl Discovery {
    /// `interval` and `timeout` are for details that give none; every stream ends when `stop` is cancelled.
    pub fn new(
        pollers: Arc<Pollers>,
        stop: CancellationToken,
        interval: Duration,
        timeout: Duration,
    ) -> Self {
        let streams = watch::Sender::default();
        Self {
            pollers,
            streams,
            stop,
            interval,
            timeout,
            log: Log::default(),
        }
    }

    fn refused(&self, status: Status) -> Status {
        self.log.say(
            Level::Warn,
            format_args!("Discover refused: {}", status.message()),
        );
        status
    }

    /// Follows the streams: registering again depends on them.
    pub fn streams(&self) -> watch::Receiver<Streams> {
        self.streams.subscribe()
    }
}

#[async_trait]
impl DiscoveryHandler for Discovery {
    /// Never polled: the lists go to [`crate::body`].
    type DiscoverStream = Pending<Result<DiscoverResponse, Status>>;

    /// Answers at once and polls afterwards (rule 7); refuses only what can never work, and logs why (rule 8).
    async fn discover(
        &self,
        request: Request<DiscoverRequest>,
    ) -> Result<Response<Self::DiscoverStream>, Status> {
        let details = &request.get_ref().discovery_details;
        let details = DiscoveryDetails::parse(details, self.interval, self.timeout)
            .map_err(|error| self.refused(Status::invalid_argument(error.to_string())))?;
        let too_many = || self.refused(Status::resource_exhausted("too many requests at once"));
        if self.streams.borrow().open >= MAX_STREAMS {
            return Err(too_many());
        }
        let lists = self.pollers.subscribe(&details).ok_or_else(too_many)?;
        let open = OpenStream::new(details, self.streams.clone(), self.log.clone());
        let lists = lists_to_send(lists, open, self.stop.clone());
        let mut response = Response::new(tokio_stream::pending());
        response.extensions_mut().insert(Answer::new(lists));
        Ok(response)
    }
}

/// Each list that differs from the one before, until `stop`; `open` lives as long as the stream does.
fn lists_to_send(lists: Lists, open: OpenStream, stop: CancellationToken) -> ListStream {
    Box::pin(stream::unfold(
        (lists, None, open, stop),
        |(mut lists, sent, open, stop)| async move {
            let list = tokio::select! {
                () = stop.cancelled() => return None,
                list = next(&mut lists, sent.as_deref()) => list,
            };
            Some((list.clone(), (lists, Some(list), open, stop)))
        },
    ))
}

/// The newest list, once it is another one than `sent`: a slow reader gets no queue, and rule 9 no needless message.
async fn next(lists: &mut Lists, sent: Option<&DeviceList>) -> Arc<DeviceList> {
    let newer = |list: &Option<Arc<DeviceList>>| list.is_some() && list.as_deref() != sent;
    if let Ok(list) = lists.wait_for(newer).await
        && let Some(list) = list.as_ref()
    {
        return list.clone();
    }
    // The poller is gone, as it is at our own end: the stream waits for that, and withdraws nothing (rule 1).
    std::future::pending().await
}

/// Counts a stream as open until it is dropped, by whomever.
struct OpenStream {
    details: DiscoveryDetails,
    streams: watch::Sender<Streams>,
    log: Log,
}

impl OpenStream {
    fn new(details: DiscoveryDetails, streams: watch::Sender<Streams>, log: Log) -> Self {
        log.say(
            Level::Info,
            format_args!("{details}: Discover stream opened"),
        );
        streams.send_modify(|streams| {
            streams.open += 1;
            streams.opened += 1;
        });
        Self {
            details,
            streams,
            log,
        }
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.log.say(
            Level::Info,
            format_args!("{}: Discover stream ended", self.details),
        );
        self.streams.send_modify(|streams| {
            streams.open -= 1;
            streams.ended += 1;
        });
    }
}
