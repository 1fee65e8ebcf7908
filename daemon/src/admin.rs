//! What can be seen of a process from outside: `/livez`, `/readyz` and `/metrics` over HTTP, for probes and for Prometheus.

use std::{
    collections::{BTreeMap, VecDeque},
    convert::Infallible,
    fmt::{self, Debug, Formatter},
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::Context;
use bytes::Bytes;
use clap::Args;
use http::{
    Method, Request, Response, StatusCode,
    header::{ALLOW, CONTENT_TYPE, HeaderValue},
};
use http_body_util::Full;
use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus_client::{
    encoding::prometheus_text::{self, encode},
    metrics::info::Info,
    registry::Registry,
};
use tokio::{
    net::{TcpListener, TcpStream},
    time::{Instant, timeout},
};
use tokio_util::task::AbortOnDropHandle;

use crate::{connections::accept, listen, parse_listen_address, start::revision};

/// How many connections are open at once. One more takes the place of the oldest.
const CONNECTIONS: usize = 16;

/// How long a connection lasts. It serves one request.
const LASTS: Duration = Duration::from_secs(5);

/// The longest head of a request, in bytes.
const MAX_HEAD: usize = 8 * 1024;

/// How late a loop may be on a machine that has no time for it.
const LATE: Duration = Duration::from_secs(60);

/// Where a process can be watched; to be flattened into its settings.
#[derive(Args, Clone, Debug, Default, PartialEq, Eq)]
pub struct AdminSettings {
    /// Serve /livez, /readyz and /metrics on this address and port, such as :8081; nowhere where it is empty
    #[arg(long, env, default_value = "", hide_default_value = true, value_parser = address)]
    // By its whole name, since clap takes an `Option` for an argument that may be left out.
    pub admin_address: std::option::Option<SocketAddr>,
}

fn address(text: &str) -> Result<Option<SocketAddr>, String> {
    match text {
        "" => Ok(None),
        text => parse_listen_address(text).map(Some),
    }
}

/// A registry for metrics that begin with `akri_`. It has `akri_build_info` already.
pub fn registry() -> Registry {
    let mut registry = Registry::with_prefix("akri");
    let version = [
        ("version", env!("CARGO_PKG_VERSION")),
        ("revision", revision().unwrap_or("unknown")),
    ];
    registry.register("build", "What was built", Info::new(version));
    registry
}

/// What is watched.
pub struct Admin {
    /// Begin with [`registry`].
    pub metrics: Registry,
    /// `/livez` answers 503 where one of them does not turn.
    pub loops: Loops,
    /// Why the process is not ready, a line each; `/readyz` answers 503 where there is a reason.
    pub not_ready: Box<dyn Fn() -> Vec<String> + Send + Sync>,
}

impl Debug for Admin {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admin").finish_non_exhaustive()
    }
}

impl Admin {
    /// Serves it in the background until the value is dropped; nowhere without an address.
    ///
    /// # Errors
    /// The address cannot be listened on.
    pub async fn serve(
        self,
        settings: &AdminSettings,
    ) -> anyhow::Result<Option<AbortOnDropHandle<()>>> {
        let Some(address) = settings.admin_address else {
            return Ok(None);
        };
        let listener = listen(address).await;
        let listener =
            listener.with_context(|| format!("cannot listen on ADMIN_ADDRESS={address}"))?;
        if let Ok(address) = listener.local_addr() {
            log::info!("/livez, /readyz and /metrics are at http://{address}");
        }
        let serving = tokio::spawn(Arc::new(self).accept_from(listener));
        Ok(Some(AbortOnDropHandle::new(serving)))
    }

    async fn accept_from(self: Arc<Self>, mut listener: TcpListener) {
        let mut open = VecDeque::new();
        accept(&mut listener, |connection: TcpStream| {
            open.retain(|connection: &AbortOnDropHandle<_>| !connection.is_finished());
            if open.len() >= CONNECTIONS {
                // Dropping it closes it.
                open.pop_front();
            }
            let connection = tokio::spawn(self.clone().serve_one(connection));
            open.push_back(AbortOnDropHandle::new(connection));
        })
        .await;
    }

    async fn serve_one(self: Arc<Self>, connection: TcpStream) {
        let answer = service_fn(|request| {
            let answer = self.answer(&request);
            async { Ok::<_, Infallible>(answer) }
        });
        let serving = http1::Builder::new()
            .timer(TokioTimer::new())
            .keep_alive(false)
            .max_buf_size(MAX_HEAD)
            .serve_connection(TokioIo::new(connection), answer);
        // Whatever goes wrong is the peer's affair.
        let _ = timeout(LASTS, serving).await;
    }

    /// Answers `/livez`, `/readyz` and `/metrics`, for who serves them beside other paths.
    pub fn answer<B>(&self, request: &Request<B>) -> Response<Full<Bytes>> {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let mut refused = reply(StatusCode::METHOD_NOT_ALLOWED, "only GET\n".into());
            let methods = HeaderValue::from_static("GET, HEAD");
            refused.headers_mut().insert(ALLOW, methods);
            return refused;
        }
        match request.uri().path() {
            "/livez" => verdict(self.loops.stuck()),
            "/readyz" => verdict((self.not_ready)()),
            "/metrics" => {
                let mut text = String::new();
                if encode(&mut text, &self.metrics).is_err() {
                    return reply(StatusCode::INTERNAL_SERVER_ERROR, "no metrics".into());
                }
                let mut response = reply(StatusCode::OK, text);
                let format = HeaderValue::from_static(prometheus_text::CONTENT_TYPE);
                response.headers_mut().insert(CONTENT_TYPE, format);
                response
            }
            _ => reply(
                StatusCode::NOT_FOUND,
                "/livez, /readyz or /metrics\n".into(),
            ),
        }
    }
}

fn verdict(reasons: Vec<String>) -> Response<Full<Bytes>> {
    match reasons.is_empty() {
        true => reply(StatusCode::OK, "ok\n".into()),
        false => reply(StatusCode::SERVICE_UNAVAILABLE, reasons.join("\n") + "\n"),
    }
}

fn reply(status: StatusCode, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(text.into());
    *response.status_mut() = status;
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, plain);
    response
}

/// The loops that have to turn as long as a process lives. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Loops(Arc<Mutex<Known>>);

#[derive(Debug, Default)]
struct Known {
    begun: u64,
    /// When each one has to have turned again, and what it is called.
    due: BTreeMap<u64, (Instant, String)>,
}

/// A loop, until it is dropped.
#[derive(Debug)]
pub struct Loop {
    number: u64,
    loops: Loops,
}

impl Loops {
    /// A loop that begins now, as `/livez` calls it.
    pub fn begin(&self, name: impl Into<String>) -> Loop {
        let mut known = self.known();
        let number = known.begun;
        known.begun += 1;
        known
            .due
            .insert(number, (Instant::now() + LATE, name.into()));
        Loop {
            number,
            loops: self.clone(),
        }
    }

    /// A line for each one that does not turn.
    pub fn stuck(&self) -> Vec<String> {
        let now = Instant::now();
        let known = self.known();
        let late = known.due.values().filter(|(due, _)| *due < now);
        late.map(|(due, name)| format!("{name}: stuck, and {:.0?} late", LATE + (now - *due)))
            .collect()
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Loop {
    /// It turns, and does so again within `next`. A minute more is forgiven.
    pub fn turns(&self, next: Duration) {
        if let Some((due, _)) = self.loops.known().due.get_mut(&self.number) {
            *due = Instant::now() + next + LATE;
        }
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        self.loops.known().due.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_loop_that_does_not_turn_is_named_and_one_that_has_ended_is_not() {
        let loops = Loops::default();
        let (quick, slow) = (loops.begin("quick"), loops.begin("slow"));
        quick.turns(Duration::from_secs(1));
        slow.turns(Duration::from_secs(100));
        tokio::time::advance(Duration::from_secs(60)).await;
        assert!(loops.stuck().is_empty());
        tokio::time::advance(Duration::from_secs(10)).await;
        assert_eq!(loops.stuck(), ["quick: stuck, and 69s late"]);
        quick.turns(Duration::from_secs(1));
        assert!(loops.stuck().is_empty());
        tokio::time::advance(Duration::from_secs(200)).await;
        drop(quick);
        assert_eq!(loops.stuck(), ["slow: stuck, and 170s late"]);
    }
}
