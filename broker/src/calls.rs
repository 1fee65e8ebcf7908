//! What ends a call other than its answer: its deadline, a limit, the broker's stop.

use std::{
    convert::Infallible,
    future::{Future, pending},
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Buf, Bytes};
use http_body::{Body as HttpBody, Frame};
use tokio::time::{Instant, sleep_until, timeout_at};
use tokio_util::sync::CancellationToken;
use tonic::{
    Status,
    body::Body,
    codegen::{
        BoxFuture, Service,
        http::{HeaderMap, Request, Response},
    },
};

use crate::callers::{Caller, Share};

/// How long a call may take until its answer begins, whatever its own deadline.
pub const TIMEOUT: Duration = Duration::from_secs(15);

/// The largest piece of a message that is handed on, in bytes; the rest waits here, where it is counted. A usual reading
/// is one piece.
const PIECE: usize = 4 * 1024;

/// Wraps all of the broker's services.
#[derive(Clone, Debug)]
pub struct Calls<S> {
    services: S,
    /// Cancelled when the broker stops.
    stop: CancellationToken,
}

impl<S> Calls<S> {
    /// Until `stop` is cancelled; then streams end, and what answers once may still do so.
    pub fn new(services: S, stop: CancellationToken) -> Self {
        Self { services, stop }
    }
}

impl<S> Service<Request<Body>> for Calls<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Response<Body>, Infallible>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.services.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let caller = request.extensions().get::<Caller>().cloned();
        let Some((caller, share)) = caller.and_then(|caller| {
            let share = caller.take_call()?;
            Some((caller, share))
        }) else {
            let status = Status::resource_exhausted("too many calls are under way");
            return Box::pin(async { Ok(status.into_http()) });
        };
        let now = Instant::now();
        let deadline = deadline(request.headers()).and_then(|left| now.checked_add(left));
        let answer_by = deadline.map_or(now + TIMEOUT, |deadline| deadline.min(now + TIMEOUT));
        let answer = self.services.call(request);
        let stop = self.stop.clone();
        Box::pin(async move {
            let Ok(answer) = timeout_at(answer_by, answer).await else {
                return Ok(late().into_http());
            };
            let answer = answer?;
            Ok(answer.map(|body| {
                Body::new(Answer {
                    body,
                    rest: Bytes::new(),
                    rest_share: None,
                    caller,
                    _share: share,
                    end: Some(Box::pin(end(deadline, stop))),
                })
            }))
        })
    }
}

fn late() -> Status {
    Status::deadline_exceeded("the deadline of the call is over")
}

async fn end(deadline: Option<Instant>, stop: CancellationToken) -> Status {
    let over = async {
        match deadline {
            Some(deadline) => sleep_until(deadline).await,
            None => pending().await,
        }
    };
    tokio::select! {
        () = over => late(),
        () = stop.cancelled() => Status::unavailable("the broker is stopping"),
    }
}

/// The time that a caller gives: `grpc-timeout` of gRPC over HTTP/2, up to 8 digits and a unit.
fn deadline(headers: &HeaderMap) -> Option<Duration> {
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

/// The body of an answer, which holds the call's share until it is taken.
struct Answer {
    body: Body,
    /// What is left of a large message.
    rest: Bytes,
    rest_share: Option<Share>,
    caller: Caller,
    _share: Share,
    /// Ready with the status that ends a stream which waits; `None` after the end.
    end: Option<Pin<Box<dyn Future<Output = Status> + Send>>>,
}

impl Answer {
    fn piece(&mut self) -> Frame<Bytes> {
        // Copied, since a slice would keep the whole message.
        let piece = Bytes::copy_from_slice(self.rest.get(..PIECE).unwrap_or(&self.rest));
        self.rest.advance(piece.len());
        if self.rest.is_empty() {
            self.rest = Bytes::new();
            self.rest_share = None;
        }
        Frame::data(piece)
    }

    fn end_with(&mut self, status: Status) -> Frame<Bytes> {
        self.end = None;
        let mut trailers = HeaderMap::new();
        // The texts of this file are fit for a header.
        let _ = status.add_header(&mut trailers);
        Frame::trailers(trailers)
    }
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if !self.rest.is_empty() {
            return Poll::Ready(Some(Ok(self.piece())));
        }
        let this = &mut *self;
        let Some(end) = &mut this.end else {
            return Poll::Ready(None);
        };
        // What is there is sent, also after the end.
        let frame = match Pin::new(&mut this.body).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                Ok(data) if data.len() > PIECE => match this.caller.take_bytes(data.len()) {
                    Some(share) => {
                        (this.rest, this.rest_share) = (data, Some(share));
                        this.piece()
                    }
                    None => this.end_with(Status::resource_exhausted(
                        "too many large answers wait to be taken",
                    )),
                },
                Ok(data) => Frame::data(data),
                Err(trailers) => trailers,
            },
            Poll::Pending => match end.as_mut().poll(cx) {
                Poll::Ready(status) => this.end_with(status),
                Poll::Pending => return Poll::Pending,
            },
            ended => return ended,
        };
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && (self.end.is_none() || self.body.is_end_stream())
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::poll_fn,
        sync::{Arc, Mutex},
    };

    use super::*;
    use crate::callers::{CALLS, WAITING_BYTES};

    #[test]
    fn a_deadline_is_digits_and_a_unit() {
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
            let mut headers = HeaderMap::new();
            headers.insert("grpc-timeout", text.parse().unwrap());
            assert_eq!(deadline(&headers), expected, "{text:?}");
        }
        assert_eq!(deadline(&HeaderMap::new()), None);
    }

    /// Answers with a body of these frames that then goes on for ever, or not at all.
    #[derive(Clone)]
    struct Answers(Option<Arc<Mutex<Vec<Bytes>>>>);

    impl Answers {
        fn with(frames: impl IntoIterator<Item = Vec<u8>>) -> Self {
            let frames = frames.into_iter().map(Bytes::from).collect();
            Self(Some(Arc::new(Mutex::new(frames))))
        }
    }

    impl Service<Request<Body>> for Answers {
        type Response = Response<Body>;
        type Error = Infallible;
        type Future = BoxFuture<Response<Body>, Infallible>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, _: Request<Body>) -> Self::Future {
            let answers = self.clone();
            Box::pin(async move {
                if answers.0.is_none() {
                    pending::<()>().await;
                }
                Ok(Response::new(Body::new(answers)))
            })
        }
    }

    impl HttpBody for Answers {
        type Data = Bytes;
        type Error = Status;

        fn poll_frame(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
            match self
                .0
                .as_ref()
                .and_then(|frames| frames.lock().unwrap().pop())
            {
                Some(data) => Poll::Ready(Some(Ok(Frame::data(data)))),
                None => Poll::Pending,
            }
        }
    }

    async fn call(
        answers: Answers,
        stop: &CancellationToken,
        caller: &Caller,
        timeout: &str,
    ) -> Response<Body> {
        let mut request = Request::new(Body::empty());
        request.extensions_mut().insert(caller.clone());
        if !timeout.is_empty() {
            let timeout = timeout.parse().unwrap();
            request.headers_mut().insert("grpc-timeout", timeout);
        }
        let mut calls = Calls::new(answers, stop.clone());
        calls.call(request).await.unwrap()
    }

    async fn frame(response: &mut Response<Body>) -> Frame<Bytes> {
        let frame = poll_fn(|cx| Pin::new(response.body_mut()).poll_frame(cx)).await;
        frame.unwrap().unwrap()
    }

    fn status(headers: &HeaderMap) -> i32 {
        headers["grpc-status"].to_str().unwrap().parse().unwrap()
    }

    const DEADLINE_EXCEEDED: i32 = 4;
    const RESOURCE_EXHAUSTED: i32 = 8;
    const UNAVAILABLE: i32 = 14;

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_does_not_come_is_over_at_the_deadline() {
        let stop = CancellationToken::new();
        for (timeout, seconds) in [("2S", 2), ("1H", 15), ("", 15)] {
            let started = Instant::now();
            let answer = call(Answers(None), &stop, &Caller::alone(), timeout).await;
            assert_eq!(status(answer.headers()), DEADLINE_EXCEEDED);
            assert_eq!(started.elapsed().as_secs(), seconds);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_is_over_at_the_deadline_or_the_stop_but_what_is_there_is_sent() {
        let stop = CancellationToken::new();
        let caller = Caller::alone();
        let mut answer = call(Answers::with([vec![1]]), &stop, &caller, "2S").await;
        tokio::time::sleep(Duration::from_secs(3)).await;
        assert_eq!(frame(&mut answer).await.into_data().unwrap(), [1][..]);
        let trailers = frame(&mut answer).await.into_trailers().unwrap();
        assert_eq!(status(&trailers), DEADLINE_EXCEEDED);
        assert!(answer.body().is_end_stream());

        let mut answer = call(Answers::with([vec![1]]), &stop, &caller, "").await;
        stop.cancel();
        assert_eq!(frame(&mut answer).await.into_data().unwrap(), [1][..]);
        let trailers = frame(&mut answer).await.into_trailers().unwrap();
        assert_eq!(status(&trailers), UNAVAILABLE);
    }

    #[tokio::test]
    async fn a_caller_has_so_many_calls_until_their_answers_are_taken() {
        let stop = CancellationToken::new();
        let caller = Caller::alone();
        let mut answers = Vec::new();
        for _ in 0..CALLS / 2 {
            answers.push(call(Answers::with([]), &stop, &caller, "").await);
        }
        let refused = call(Answers::with([]), &stop, &caller, "").await;
        assert_eq!(status(refused.headers()), RESOURCE_EXHAUSTED);
        answers.pop();
        let admitted = call(Answers::with([]), &stop, &caller, "").await;
        assert!(admitted.headers().is_empty());
    }

    #[tokio::test]
    async fn a_large_message_goes_in_pieces_that_are_counted() {
        let stop = CancellationToken::new();
        let caller = Caller::alone();
        let message: Vec<u8> = (0..100_000_u32).map(|n| n as u8).collect();
        let mut answer = call(Answers::with([message.clone()]), &stop, &caller, "").await;
        let mut whole = Vec::new();
        while whole.len() < message.len() {
            let piece = frame(&mut answer).await.into_data().unwrap();
            assert!(piece.len() <= PIECE);
            whole.extend(piece);
        }
        assert_eq!(whole, message);

        let largest = vec![0; WAITING_BYTES as usize / 2];
        let mut waits = call(Answers::with([largest]), &stop, &caller, "").await;
        frame(&mut waits).await.into_data().unwrap();
        let mut refused = call(Answers::with([message.clone()]), &stop, &caller, "").await;
        let trailers = frame(&mut refused).await.into_trailers().unwrap();
        assert_eq!(status(&trailers), RESOURCE_EXHAUSTED);
        drop(waits);
        let mut answer = call(Answers::with([message]), &stop, &caller, "").await;
        frame(&mut answer).await.into_data().unwrap();
    }
}
