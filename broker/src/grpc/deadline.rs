//! Ends a call that its service does not end: at the call's deadline, and a stream also when the broker stops. Bounds the
//! streams of health and reflection, which their services do not. Counts the calls, since nothing else sees how all of them end.

use std::{
    convert::Infallible,
    future::{Future, pending, ready},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use akri_daemon::Close;
use futures_util::stream::unfold;
use http_body::{Body as _, Frame};
use http_body_util::{BodyExt, StreamBody};
use tokio::{
    sync::Semaphore,
    time::{Instant, sleep_until, timeout_at},
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use tonic::{
    Code, Status,
    body::Body,
    codegen::{
        Bytes, Service,
        http::{HeaderMap, Request, Response},
    },
};

use super::untaken::Kept;
use crate::metrics::Calls;

const WATCH: &str = "/http.DeviceService/WatchSensor";
const HEALTH_WATCH: &str = "/grpc.health.v1.Health/Watch";

/// The largest piece of a message that is handed on, in bytes. The rest waits here as long as the caller does not read.
const PIECE: usize = 16 * 1024;

/// How long any call may take until its answer begins, whatever its own deadline.
const ANSWER: Duration = Duration::from_secs(15);

/// How long a caller may take to read the end of its stream.
const LATE: Duration = Duration::from_secs(2);

/// How many streams of health and reflection may be open at once.
pub(super) const STREAMS: usize = 64;

/// Wraps all services of the broker.
#[derive(Clone)]
pub(super) struct Deadlines<S> {
    services: S,
    stop: CancellationToken,
    streams: Arc<Semaphore>,
    calls: Arc<Calls>,
}

impl<S> Deadlines<S> {
    /// Once `stop` is cancelled, streams end with UNAVAILABLE. Other calls may still be answered.
    pub(super) fn new(services: S, stop: CancellationToken, calls: Arc<Calls>) -> Self {
        let streams = Arc::new(Semaphore::new(STREAMS));
        Self {
            services,
            stop,
            streams,
            calls,
        }
    }
}

impl<S, B> Service<Request<B>> for Deadlines<S>
where
    S: Service<Request<B>, Response = Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.services.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let path = request.uri().path();
        let call = self.calls.begin(path);
        let stream = path.starts_with("/grpc.reflection.") || path == HEALTH_WATCH;
        let permit = stream.then(|| self.streams.clone().try_acquire_owned());
        let Ok(permit) = permit.transpose() else {
            let full = Status::resource_exhausted("too many streams are open; try again later");
            return Box::pin(ready(Ok(full.into_http())));
        };
        let now = Instant::now();
        let deadline = timeout(request.headers()).and_then(|left| now.checked_add(left));
        let answer_by = deadline.map_or(now + ANSWER, |deadline| deadline.min(now + ANSWER));
        let connection = request.extensions().get().cloned();
        let insists = (deadline.zip(connection)).filter(|_| stream || path == WATCH);
        let insists = insists.map(|(deadline, connection)| insist(deadline, connection));
        let kept = Kept::default();
        request.extensions_mut().insert(kept.clone());
        let answer = self.services.call(request);
        let stop = self.stop.clone();
        Box::pin(async move {
            let answer = match timeout_at(answer_by, answer).await {
                Ok(Ok(answer)) => {
                    let held = (kept, permit, insists);
                    answer.map(|body| ended_by(body, end(deadline, stop), held))
                }
                Ok(Err(never)) => match never {},
                Err(_) => exceeded().into_http(),
            };
            if let Some(mut call) = call {
                // Where all is well, the status follows the body.
                let status = Status::from_header_map(answer.headers());
                call.code = status.map_or(Code::Ok, |status| status.code());
            }
            Ok(answer)
        })
    }
}

/// Closes the connection of a caller that does not read the end of its stream, which can then be told in no other way. Ends
/// when the value is dropped.
fn insist(deadline: Instant, connection: Close) -> AbortOnDropHandle<()> {
    AbortOnDropHandle::new(tokio::spawn(async move {
        sleep_until(deadline + LATE).await;
        connection.now();
    }))
}

fn exceeded() -> Status {
    Status::deadline_exceeded("the broker did not complete the call before its deadline")
}

async fn end(deadline: Option<Instant>, stop: CancellationToken) -> Status {
    let at_deadline = async {
        match deadline {
            Some(deadline) => sleep_until(deadline).await,
            None => pending().await,
        }
    };
    tokio::select! {
        () = at_deadline => exceeded(),
        () = stop.cancelled() => Status::unavailable("the broker is stopping"),
    }
}

/// `body`, or what is there of it when `end` is ready, and then the status that `end` gives. It holds `held` to its end.
fn ended_by<T: Send + 'static>(
    body: Body,
    end: impl Future<Output = Status> + Send + 'static,
    held: T,
) -> Body {
    // An answer that is only a status has no body, and must not get one.
    if body.is_end_stream() {
        return body;
    }
    let open = Some((body, Box::pin(end), held, Bytes::new()));
    let frames = unfold(open, |open| async {
        let (mut body, mut end, held, mut rest) = open?;
        if !rest.is_empty() {
            let piece = next_piece(&mut rest);
            return Some((Ok(piece), Some((body, end, held, rest))));
        }
        tokio::select! {
            // A message that is ready is sent before the end.
            biased;
            frame = body.frame() => {
                let frame = match frame?.map(Frame::into_data) {
                    Ok(Ok(data)) if data.len() > PIECE => {
                        rest = data;
                        Ok(next_piece(&mut rest))
                    }
                    Ok(Ok(data)) => Ok(Frame::data(data)),
                    Ok(Err(trailers)) => Ok(trailers),
                    Err(error) => Err(error),
                };
                Some((frame, Some((body, end, held, rest))))
            }
            status = &mut end => {
                let mut trailers = HeaderMap::new();
                // The messages above are valid in a header.
                let _ = status.add_header(&mut trailers);
                Some((Ok(Frame::trailers(trailers)), None))
            }
        }
    });
    Body::new(StreamBody::new(frames))
}

/// The next piece of a large message. A copy, since a part of the message would keep all of it.
fn next_piece(rest: &mut Bytes) -> Frame<Bytes> {
    let part = rest.split_to(rest.len().min(PIECE));
    Frame::data(Bytes::copy_from_slice(&part))
}

/// The time that the caller allows: `grpc-timeout` in gRPC over HTTP/2 is up to 8 digits and a unit.
fn timeout(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let count: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(count * 60 * 60),
        "M" => Duration::from_secs(count * 60),
        "S" => Duration::from_secs(count),
        "m" => Duration::from_millis(count),
        "u" => Duration::from_micros(count),
        "n" => Duration::from_nanos(count),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use std::future::ready;

    use futures_util::{FutureExt, StreamExt, stream};
    use prometheus_client::registry::Registry;
    use tonic::codegen::http::HeaderValue;

    use super::*;

    #[test]
    fn a_timeout_is_digits_and_a_unit() {
        for (text, expected) in [
            ("2H", Some(Duration::from_secs(7200))),
            ("3M", Some(Duration::from_secs(180))),
            ("15S", Some(Duration::from_secs(15))),
            ("200m", Some(Duration::from_millis(200))),
            ("99999999u", Some(Duration::from_micros(99_999_999))),
            ("0n", Some(Duration::ZERO)),
            ("", None),
            ("S", None),
            ("15", None),
            ("15s", None),
            ("-1S", None),
            ("+1S", None),
            ("999999999S", None),
            ("1\u{e4}", None),
        ] {
            let value = HeaderValue::from_str(text).unwrap();
            let headers = HeaderMap::from_iter([("grpc-timeout".parse().unwrap(), value)]);
            assert_eq!(timeout(&headers), expected, "{text:?}");
        }
        assert_eq!(timeout(&HeaderMap::new()), None);
    }

    /// Answers with this body, or not at all.
    struct Answers(Option<Body>);

    impl Service<Request<()>> for Answers {
        type Response = Response<Body>;
        type Error = Infallible;
        type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, _: Request<()>) -> Self::Future {
            match self.0.take() {
                Some(body) => ready(Ok(Response::new(body))).boxed(),
                None => pending().boxed(),
            }
        }
    }

    async fn call(answer: Option<Body>, stop: &CancellationToken, timeout: &str) -> Response<Body> {
        let mut request = Request::new(());
        if !timeout.is_empty() {
            let timeout = timeout.parse().unwrap();
            request.headers_mut().insert("grpc-timeout", timeout);
        }
        let counted = Calls::new(&mut Registry::default());
        let mut calls = Deadlines::new(Answers(answer), stop.clone(), counted);
        calls.call(request).await.unwrap()
    }

    /// One message, and then nothing, without an end.
    fn stream_of_one() -> Body {
        let message = Frame::data(Bytes::from_static(&[1]));
        let frames = stream::iter([Ok::<_, Status>(message)]).chain(stream::pending());
        Body::new(StreamBody::new(frames))
    }

    fn code(headers: &HeaderMap) -> Code {
        Status::from_header_map(headers).unwrap().code()
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_without_an_answer_ends_at_its_deadline_and_after_15_s_at_the_latest() {
        for (timeout, seconds) in [("2S", 2), ("1H", 15), ("", 15)] {
            let started = Instant::now();
            let answer = call(None, &CancellationToken::new(), timeout).await;
            assert_eq!(code(answer.headers()), Code::DeadlineExceeded);
            assert_eq!(started.elapsed().as_secs(), seconds);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_ends_at_its_deadline_or_the_stop_after_what_is_ready() {
        for (timeout, end) in [("20S", Code::DeadlineExceeded), ("", Code::Unavailable)] {
            let stop = CancellationToken::new();
            let mut body = call(Some(stream_of_one()), &stop, timeout)
                .await
                .into_body();
            tokio::time::sleep(Duration::from_secs(21)).await;
            if timeout.is_empty() {
                stop.cancel();
            }
            let message = body.frame().await.unwrap().unwrap();
            assert_eq!(message.into_data().unwrap(), [1][..]);
            let trailers = body.frame().await.unwrap().unwrap();
            assert_eq!(code(&trailers.into_trailers().unwrap()), end);
            assert!(body.frame().await.is_none());
        }
    }

    #[tokio::test]
    async fn an_answer_without_a_body_stays_one() {
        let answer = call(Some(Body::empty()), &CancellationToken::new(), "").await;
        assert!(answer.body().is_end_stream());
    }
}
