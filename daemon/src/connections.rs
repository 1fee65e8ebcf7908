//! A gRPC server (HTTP/2) over a bounded number of connections. Idle connections are closed to make room for active ones.

use std::{
    collections::VecDeque,
    error::Error,
    future::{pending, poll_fn},
    pin::pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use http::{Request, Response};
use http_body::Body;
use http_body_util::BodyExt;
use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use log::{debug, warn};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    task::{AbortHandle, yield_now},
    time::{sleep, timeout},
};
use tokio_util::{net::Listener, sync::CancellationToken, task::TaskTracker};
use tower_service::Service;

use crate::Outage;

/// How long a connection may take until its first call.
const FIRST_CALL: Duration = Duration::from_secs(10);

/// After a connection could not be accepted, most likely for want of file descriptors.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// What a peer may send before it is read, in bytes, for each call and for each connection: requests are small.
const WINDOW: u32 = 64 * 1024;

/// What is kept of answers that a peer does not take, in bytes, for each call, and besides that one message.
const UNTAKEN: usize = 16 * 1024;

/// The most bytes that the headers of a call may have.
const MAX_HEADERS: u32 = 16 * 1024;

/// What peers may hold.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections at once. One more takes the place of the oldest that never called, or else of the oldest without an open
    /// call. Where every connection has one, the new one is closed.
    pub connections: usize,
    /// Calls at once of one connection.
    pub calls_per_connection: u32,
    /// How often a peer is asked whether it is still there (HTTP/2 PING).
    pub keep_alive: Duration,
    /// How long it may take to say so, until its connection is closed.
    pub keep_alive_answer: Duration,
}

/// The open connections, all served by `S`. Dropping it cuts them off; [`Connections::end`] lets them end.
pub struct Connections<S> {
    service: S,
    limits: Limits,
    open: Mutex<VecDeque<Open>>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

struct Open {
    calls: Arc<Calls>,
    task: AbortHandle,
}

/// Closes the connection that a request came by; among the extensions of each request.
#[derive(Clone, Debug, Default)]
pub struct Close(CancellationToken);

impl Close {
    /// Cuts off all of its calls at once.
    pub fn now(&self) {
        self.0.cancel();
    }

    /// Whether that was done.
    pub fn is_closed(&self) -> bool {
        self.0.is_cancelled()
    }
}

/// Held by a connection twice, by its entry in [`Connections::open`], and by each of its calls.
#[derive(Default)]
struct Calls {
    any: AtomicBool,
}

impl Open {
    fn is_silent(&self) -> bool {
        !self.calls.any.load(Ordering::Relaxed)
    }

    fn is_idle(&self) -> bool {
        Arc::strong_count(&self.calls) <= 3
    }
}

impl<S, B> Connections<S>
where
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<Box<dyn Error + Send + Sync>>,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    /// None yet. At the end of `stop` calls may still end, and no new one begins.
    pub fn new(service: S, limits: Limits, stop: CancellationToken) -> Self {
        Self {
            service,
            limits,
            open: Mutex::default(),
            tasks: TaskTracker::new(),
            stop,
        }
    }

    /// Serves what connects to `listener`, until the future is dropped; connections live on.
    pub async fn accept_from<L: Listener>(&self, mut listener: L)
    where
        L::Io: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        accept(&mut listener, |connection| self.admit(connection)).await;
    }

    fn admit<C>(&self, connection: C)
    where
        C: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|connection| !connection.task.is_finished());
        if open.len() >= self.limits.connections {
            // One that never called goes before one that is between two calls.
            let silent = open.iter().position(Open::is_silent);
            let Some(oldest) = silent.or_else(|| open.iter().position(Open::is_idle)) else {
                debug!("a connection is refused: all {} have calls", open.len());
                return;
            };
            if let Some(idle) = open.remove(oldest) {
                idle.task.abort();
            }
        }
        let calls = Arc::new(Calls::default());
        let serving = self.serve(connection, calls.clone());
        let task = self.tasks.spawn(serving).abort_handle();
        open.push_back(Open { calls, task });
    }

    /// One connection, to its end. Dropping the future closes it.
    fn serve<C>(
        &self,
        connection: C,
        calls: Arc<Calls>,
    ) -> impl Future<Output = ()> + Send + use<C, S, B>
    where
        C: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let (service, of_connection) = (self.service.clone(), calls.clone());
        let close = Close::default();
        let closed = close.0.clone();
        let answer = service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(close.clone());
            of_connection.any.store(true, Ordering::Relaxed);
            let (call, mut service) = (of_connection.clone(), service.clone());
            async move {
                poll_fn(|cx| service.poll_ready(cx)).await?;
                let response = service.call(request).await?;
                // The call lasts as long as its body does.
                Ok::<_, S::Error>(response.map(|body| {
                    body.map_frame(move |frame| {
                        let _ = &call;
                        frame
                    })
                }))
            }
        });
        let serving = http2(self.limits).serve_connection(TokioIo::new(connection), answer);
        let stop = self.stop.clone();
        async move {
            let mut serving = pin!(serving);
            let silent = async {
                sleep(FIRST_CALL).await;
                if calls.any.load(Ordering::Relaxed) {
                    pending::<()>().await;
                }
            };
            tokio::select! {
                // An error is the peer's way of going.
                _ = serving.as_mut() => return,
                () = silent => return,
                () = closed.cancelled() => return,
                () = stop.cancelled() => serving.as_mut().graceful_shutdown(),
            }
            if !calls.any.load(Ordering::Relaxed) {
                return;
            }
            let _ = serving.await;
        }
    }

    /// Waits until the connections have ended, as they do after `stop`, and cuts off what is left after `drain`.
    pub async fn end(&self, drain: Duration) {
        self.tasks.close();
        if timeout(drain, self.tasks.wait()).await.is_ok() {
            return;
        }
        warn!("calls were still open {drain:?} after the stop, and are cut off");
        self.cut_off();
    }
}

impl<S> Connections<S> {
    fn cut_off(&self) {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.iter().for_each(|connection| connection.task.abort());
    }
}

impl<S> Drop for Connections<S> {
    fn drop(&mut self) {
        self.cut_off();
    }
}

/// Gives what connects to `listener` to `admit`, until the future is dropped.
pub async fn accept<L: Listener>(listener: &mut L, mut admit: impl FnMut(L::Io)) {
    let mut outage = Outage::new(module_path!(), "accepting connections");
    loop {
        match listener.accept().await {
            Ok((connection, _)) => {
                outage.succeeded();
                admit(connection);
                // Each gets its turn before so many come that it has to make room.
                yield_now().await;
            }
            Err(error) => {
                outage.failed(error, "callers have to wait");
                sleep(ACCEPT_AGAIN).await;
            }
        }
    }
}

/// HTTP/2 as all connections speak it.
fn http2(limits: Limits) -> http2::Builder<TokioExecutor> {
    let mut http2 = http2::Builder::new(TokioExecutor::new());
    http2
        .timer(TokioTimer::new())
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .max_header_list_size(MAX_HEADERS)
        .max_concurrent_streams(limits.calls_per_connection)
        .max_send_buf_size(UNTAKEN)
        // gRPC has no use for it.
        .auto_date_header(false)
        .keep_alive_interval(limits.keep_alive)
        .keep_alive_timeout(limits.keep_alive_answer);
    http2
}

/// A TCP listener whose connections send small messages at once.
pub struct Tcp(
    /// Where they come in.
    pub TcpListener,
);

impl Listener for Tcp {
    type Io = TcpStream;
    type Addr = std::net::SocketAddr;

    fn poll_accept(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<std::io::Result<(TcpStream, Self::Addr)>> {
        self.0.poll_accept(cx).map_ok(|(stream, address)| {
            // A connection that refuses it works all the same.
            let _ = stream.set_nodelay(true);
            (stream, address)
        })
    }

    fn local_addr(&self) -> std::io::Result<Self::Addr> {
        self.0.local_addr()
    }
}
