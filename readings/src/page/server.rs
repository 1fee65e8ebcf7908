//! A bounded number of connections to browsers.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use akri_daemon::accept;
use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use rustix::net::sockopt::{set_socket_send_buffer_size, set_tcp_user_timeout};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::task::AbortOnDropHandle;

/// How many there may be. One more takes the place of the oldest that has no stream of events.
const CONNECTIONS: usize = 128;

/// How long a browser may take to send the head of a request, or to send another request.
const HEAD: Duration = Duration::from_secs(10);

/// The longest head, in bytes, and so much of an answer is kept for a browser that does not read.
const KEPT: usize = 16 * 1024;

/// So much more is kept by the system, in bytes. What waits there for a slow browser grows old.
const SENDING: usize = 64 * 1024;

/// How long a browser may take nothing that is sent to it.
const TAKES_NOTHING: Duration = Duration::from_secs(30);

/// Whether a connection has a stream of events.
#[derive(Clone, Default)]
pub(super) struct Streams(Arc<AtomicBool>);

impl Streams {
    pub(super) fn begin(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Serves `routes` for ever.
pub(super) async fn serve(mut listener: TcpListener, routes: Router) {
    let mut open: VecDeque<(Streams, AbortOnDropHandle<()>)> = VecDeque::new();
    accept(&mut listener, |connection: TcpStream| {
        open.retain(|(_, connection)| !connection.is_finished());
        if open.len() >= CONNECTIONS {
            // Dropping it closes it.
            let idle = open
                .iter()
                .position(|(it, _)| !it.0.load(Ordering::Relaxed));
            idle.and_then(|oldest| open.remove(oldest));
        }
        let streams = Streams::default();
        let routes = routes.clone().layer(Extension(streams.clone()));
        let connection = tokio::spawn(serve_one(connection, routes));
        open.push_back((streams, AbortOnDropHandle::new(connection)));
    })
    .await;
}

async fn serve_one(connection: TcpStream, routes: Router) {
    // A connection that refuses these works all the same.
    let _ = connection.set_nodelay(true);
    let _ = set_socket_send_buffer_size(&connection, SENDING);
    let timeout = u32::try_from(TAKES_NOTHING.as_millis()).unwrap_or(u32::MAX);
    let _ = set_tcp_user_timeout(&connection, timeout);
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(KEPT)
        .serve_connection(TokioIo::new(connection), TowerToHyperService::new(routes));
    // Whatever goes wrong is the browser's affair.
    let _ = serving.await;
}
