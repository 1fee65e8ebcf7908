//! The `DiscoveryHandler` service: from the Agent's request to the stream that answers it. What peers can hold is bounded,
//! since on TCP anybody may be one, and no Agent comes near the bounds.

use std::{
    collections::VecDeque,
    convert::Infallible,
    error::Error,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use akri_daemon::{Limits, one_line};
use akri_proto::v0::{DiscoverRequest, discovery_handler_server::SERVICE_NAME};
use bytes::{Buf, Bytes, BytesMut};
use http::{Request, Response, header::CONTENT_TYPE};
use http_body_util::{BodyExt, StreamBody};
use log::Level;
use prost::Message;
use tokio::{sync::Semaphore, time::timeout};
use tokio_util::sync::CancellationToken;
use tonic::{Status, body::Body, codegen::BoxFuture, metadata::GRPC_CONTENT_TYPE};

use crate::{
    DiscoveryHandler, Properties,
    news::Called,
    poll::{Lists, Pollers},
    streams::{OpenStream, PeerLog, messages},
};

/// How many Discover streams are open at once; each is a Configuration, or one more of it (rule 5).
const MAX_STREAMS: usize = 64;

/// What peers may hold. An Agent opens one connection for each stream. One that vanished without a word is noticed within
/// the sum of the two times: long enough for one that only stalls, since giving it up withdraws its devices (rule 1).
/// However streams and arriving requests are spread over connections, one without either is among them and can make room.
pub(crate) const LIMITS: Limits = Limits {
    connections: MAX_STREAMS + MAX_ARRIVING + 16,
    calls_per_connection: MAX_STREAMS as u32,
    keep_alive: Duration::from_secs(20),
    keep_alive_answer: Duration::from_secs(40),
};

/// The longest `discoveryDetails`, in bytes.
const MAX_DETAILS: usize = 8 * 1024;

/// The largest `discoveryProperties`, in bytes and in number; certificates come that way.
const MAX_PROPERTIES_BYTES: usize = 256 * 1024;
const MAX_PROPERTIES: usize = 1_000;

/// The longest request, in bytes: both of them, and what protobuf adds.
const MAX_REQUEST: usize = MAX_DETAILS + MAX_PROPERTIES_BYTES + 16 * 1024;

/// How long a request may take to arrive.
const ARRIVAL: Duration = Duration::from_secs(10);

/// How many requests may be arriving at once. One more takes the place of the oldest. An Agent has one for each stream.
const MAX_ARRIVING: usize = 2 * MAX_STREAMS;

/// What of each request may arrive at any time, in bytes, and how many requests may be larger than that at once.
const SMALL: usize = 16 * 1024;
const MAX_LARGE: usize = 8;

/// Answers Discover.
pub(crate) struct Discover<H: DiscoveryHandler>(Arc<Inner<H>>);

impl<H: DiscoveryHandler> Clone for Discover<H> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

struct Inner<H: DiscoveryHandler> {
    pollers: Arc<Pollers<H>>,
    arriving: Arriving,
    stop: CancellationToken,
}

impl<H: DiscoveryHandler> Discover<H> {
    /// Every stream ends when `stop` is cancelled.
    pub fn new(pollers: Arc<Pollers<H>>, stop: CancellationToken) -> Self {
        Self(Arc::new(Inner {
            pollers,
            arriving: Arriving::new(),
            stop,
        }))
    }
}

impl<H, B> tower_service::Service<Request<B>> for Discover<H>
where
    H: DiscoveryHandler,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Response<Body>, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let discover = self.0.clone();
        Box::pin(async move {
            let answer = discover.answer(request).await;
            Ok(answer.unwrap_or_else(Status::into_http))
        })
    }
}

impl<H: DiscoveryHandler> Inner<H> {
    /// Answers at once and polls afterwards (rule 7); refuses only what can never work, and logs why (rule 8).
    async fn answer<B>(&self, request: Request<B>) -> Result<Response<Body>, Status>
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn Error + Send + Sync>>,
    {
        let method = request.uri().path().strip_prefix('/');
        let method = method.and_then(|path| path.strip_prefix(SERVICE_NAME));
        if method != Some("/Discover") {
            return Err(Status::unimplemented("this service has only Discover"));
        }
        let (lists, open) = async {
            let request = self.arriving.whole(request.into_body()).await?;
            self.subscribe(request)
        }
        .await
        .inspect_err(|status| {
            let why = one_line(status.message());
            self.pollers.observed().refused.inc();
            self.log()
                .say(Level::Warn, format_args!("Discover refused: {why}"));
        })?;
        let messages = messages(lists, open, self.stop.clone());
        let mut response = Response::new(Body::new(StreamBody::new(messages)));
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, GRPC_CONTENT_TYPE);
        Ok(response)
    }

    fn subscribe(&self, request: DiscoverRequest) -> Result<(Lists, OpenStream), Status> {
        let details = &request.discovery_details;
        if details.len() > MAX_DETAILS {
            return Err(Status::invalid_argument(format!(
                "discoveryDetails have {} bytes, more than {MAX_DETAILS}",
                details.len()
            )));
        }
        let properties: Properties = (request.discovery_properties.into_iter())
            .map(|(name, value)| (name, value.vec.unwrap_or_default()))
            .collect();
        let bytes: usize = (properties.iter())
            .map(|(name, value)| name.len() + value.len())
            .sum();
        if bytes > MAX_PROPERTIES_BYTES || properties.len() > MAX_PROPERTIES {
            return Err(Status::invalid_argument(format!(
                "{} discoveryProperties have {bytes} bytes: at most {MAX_PROPERTIES} of them may have \
                 {MAX_PROPERTIES_BYTES} bytes together",
                properties.len()
            )));
        }
        let request = (self.pollers.handler().request(details, &properties))
            .map_err(|error| Status::invalid_argument(format!("{error:#}")))?;
        let open = OpenStream::new(
            Called(&request).to_string(),
            MAX_STREAMS,
            self.pollers.observed(),
            self.log(),
        );
        let open = open.ok_or_else(|| {
            Status::resource_exhausted(format!("{MAX_STREAMS} streams are open already"))
        })?;
        Ok((self.pollers.subscribe(&request), open))
    }

    fn log(&self) -> &PeerLog {
        self.pollers.log()
    }
}

/// The requests that are arriving.
struct Arriving {
    /// Oldest first.
    queue: Mutex<VecDeque<Arc<CancellationToken>>>,
    large: Semaphore,
}

impl Arriving {
    fn new() -> Self {
        Self {
            queue: Mutex::default(),
            large: Semaphore::new(MAX_LARGE),
        }
    }

    fn queue(&self) -> MutexGuard<'_, VecDeque<Arc<CancellationToken>>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The request, once all of it is there.
    async fn whole<B>(&self, body: B) -> Result<DiscoverRequest, Status>
    where
        B: http_body::Body<Data = Bytes>,
        B::Error: Into<Box<dyn Error + Send + Sync>>,
    {
        let place = self.enter();
        let message = tokio::select! {
            message = timeout(ARRIVAL, self.message(body)) => message,
            () = place.given_up.cancelled() => {
                return Err(Status::resource_exhausted("dropped in favor of newer requests"));
            }
        };
        let message = message.map_err(|_| {
            Status::deadline_exceeded(format!("the request did not arrive within {ARRIVAL:?}"))
        })??;
        DiscoverRequest::decode(message)
            .map_err(|error| Status::invalid_argument(format!("not a DiscoverRequest: {error}")))
    }

    /// The one gRPC message of a call: a byte that says whether it is compressed, four with its length, and itself.
    async fn message<B>(&self, body: B) -> Result<Bytes, Status>
    where
        B: http_body::Body<Data = Bytes>,
        B::Error: Into<Box<dyn Error + Send + Sync>>,
    {
        let mut body = pin!(body.map_err(|error| Status::from_error(error.into())));
        let mut arrived = BytesMut::new();
        let mut large = None;
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame?.into_data() else {
                break;
            };
            let len = arrived.len() + data.len();
            if len > MAX_REQUEST {
                return Err(Status::out_of_range(format!(
                    "the request has more than {MAX_REQUEST} bytes"
                )));
            }
            if len > SMALL && large.is_none() {
                // Until there is room the rest waits at the sender. An error would mean that there never is.
                large = self.large.acquire().await.ok();
            }
            arrived.extend_from_slice(&data);
        }
        if arrived.len() < 5 {
            return Err(Status::invalid_argument("there is no request"));
        }
        let (compressed, len) = (arrived.get_u8(), arrived.get_u32() as usize);
        if compressed != 0 || len != arrived.len() {
            return Err(Status::invalid_argument(
                "the request is not one uncompressed message",
            ));
        }
        Ok(arrived.freeze())
    }

    fn enter(&self) -> Place<'_> {
        let given_up = Arc::new(CancellationToken::new());
        let mut queue = self.queue();
        if queue.len() >= MAX_ARRIVING
            && let Some(oldest) = queue.pop_front()
        {
            oldest.cancel();
        }
        queue.push_back(given_up.clone());
        Place {
            arriving: self,
            given_up,
        }
    }
}

/// A place among the arriving requests, until dropped.
struct Place<'a> {
    arriving: &'a Arriving,
    given_up: Arc<CancellationToken>,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut queue = self.arriving.queue();
        queue.retain(|place| !Arc::ptr_eq(place, &self.given_up));
    }
}
