//! A connection to a broker. There may be a thousand of them, so it is HTTP/2 without what tonic's channel adds: a queue for
//! calls, and connecting again, which the broker's loop does.

use std::{
    future::Future,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use akri_daemon::innermost;
use hyper::{body::Incoming, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::{net::TcpStream, time::timeout};
use tokio_util::task::AbortOnDropHandle;
use tonic::{
    body::Body,
    codegen::http::{Request, Response},
};
use tower_service::Service;

/// How long connecting may take.
const CONNECT: Duration = Duration::from_secs(5);

/// How often a silent broker is asked whether it is still there (HTTP/2 PING), and how long it may take to answer.
const KEEP_ALIVE: Duration = Duration::from_secs(30);

/// What a broker may send before it is read, in bytes, for each call and for each connection.
const WINDOWS: (u32, u32) = (64 * 1024, 256 * 1024);

/// The longest headers of an answer, in bytes.
const MAX_HEADERS: u32 = 16 * 1024;

/// Clones are the same connection, which closes with the last of them.
#[derive(Clone)]
pub(crate) struct Connection {
    calls: http2::SendRequest<Body>,
    _connection: Arc<AbortOnDropHandle<()>>,
}

impl Connection {
    /// Connects; the error says why that failed.
    pub(crate) async fn open(address: SocketAddr) -> Result<Self, String> {
        let opening = async {
            let stream = TcpStream::connect(address).await;
            let stream = stream.map_err(|error| innermost(&error).to_string())?;
            // A connection that refuses it works all the same.
            let _ = stream.set_nodelay(true);
            let opened = http2::Builder::new(TokioExecutor::new())
                .timer(TokioTimer::new())
                .initial_stream_window_size(WINDOWS.0)
                .initial_connection_window_size(WINDOWS.1)
                .max_header_list_size(MAX_HEADERS)
                .keep_alive_interval(KEEP_ALIVE)
                .keep_alive_timeout(KEEP_ALIVE)
                .handshake(TokioIo::new(stream))
                .await;
            opened.map_err(|error| innermost(&error).to_string())
        };
        // On the heap, since it is large, and only for a moment.
        let (calls, connection) = match timeout(CONNECT, Box::pin(opening)).await {
            Ok(opened) => opened.map_err(|why| format!("cannot connect: {why}"))?,
            Err(_) => return Err(format!("cannot connect within {CONNECT:?}")),
        };
        let connection = tokio::spawn(async {
            // Its calls say what went wrong.
            let _ = connection.await;
        });
        Ok(Self {
            calls,
            _connection: Arc::new(AbortOnDropHandle::new(connection)),
        })
    }

    /// Whether it can take calls.
    pub(crate) fn is_open(&self) -> bool {
        !self.calls.is_closed()
    }
}

impl Service<Request<Body>> for Connection {
    type Response = Response<Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.calls.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        Box::pin(self.calls.send_request(request))
    }
}
