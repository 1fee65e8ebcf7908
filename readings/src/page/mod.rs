//! What is served over HTTP: the page and its files, all devices as JSON, their changes as events, metrics and probes.

mod events;
mod json;
mod metrics;
mod server;

use std::sync::Arc;

use akri_daemon::{Admin, Loops, registry};
use axum::{
    Router,
    body::{Body, Bytes},
    extract::{Request, State},
    http::{HeaderValue, StatusCode, header},
    middleware::map_response,
    response::{IntoResponse, Response},
    routing::get,
};
use futures_util::stream;
use tokio::{
    net::TcpListener,
    sync::{OwnedSemaphorePermit, Semaphore, watch},
};

use self::{events::Events, metrics::Metrics, server::Streams};
use crate::devices::Devices;

/// How many pages may be open at once.
const PAGES: usize = 64;

/// How many large answers may be under way at once.
const ANSWERS: usize = 8;

/// What the page may load: its own files, and no others.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
    img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const FILES: [(&str, &str, &str); 4] = [
    ("/", "text/html; charset=utf-8", include_str!("page.html")),
    (
        "/page.css",
        "text/css; charset=utf-8",
        include_str!("page.css"),
    ),
    (
        "/page.js",
        "text/javascript; charset=utf-8",
        include_str!("page.js"),
    ),
    ("/icon.svg", "image/svg+xml", include_str!("icon.svg")),
];

/// What all requests share.
pub(crate) struct Page {
    devices: Arc<Devices>,
    note: watch::Receiver<String>,
    admin: Admin,
    pages: Arc<Semaphore>,
    answers: Arc<Semaphore>,
}

impl Page {
    pub(crate) fn new(devices: Arc<Devices>, loops: Loops, note: watch::Receiver<String>) -> Self {
        let mut metrics = registry();
        let of_devices = Box::new(Metrics(devices.clone()));
        let http = metrics.sub_registry_with_prefix("http");
        http.register_collector(of_devices);
        let admin = Admin {
            metrics,
            loops,
            // It has something to show as soon as it listens.
            not_ready: Box::new(Vec::new),
        };
        Self {
            devices,
            note,
            admin,
            pages: Arc::new(Semaphore::new(PAGES)),
            answers: Arc::new(Semaphore::new(ANSWERS)),
        }
    }

    /// For ever.
    pub(crate) async fn serve(self, listener: TcpListener) {
        let mut routes = Router::new()
            .route("/api/devices", get(devices))
            .route("/api/events", get(events));
        for (path, kind, text) in FILES {
            let file = ([(header::CONTENT_TYPE, kind)], text);
            routes = routes.route(path, get(async || file));
        }
        for path in ["/livez", "/readyz", "/metrics"] {
            routes = routes.route(path, get(admin));
        }
        let routes = routes.layer(map_response(with_headers));
        server::serve(listener, routes.with_state(Arc::new(self))).await;
    }
}

/// All devices, with their histories.
async fn devices(State(page): State<Arc<Page>>) -> Response {
    let Ok(permit) = page.answers.clone().try_acquire_owned() else {
        return busy("too many requests at once");
    };
    let kind = [(header::CONTENT_TYPE, "application/json")];
    let pieces = stream::iter(json::Whole::new(page.devices.clone()));
    (kind, held(permit, pieces)).into_response()
}

/// The changes of all devices, for ever.
async fn events(State(page): State<Arc<Page>>, streams: axum::Extension<Streams>) -> Response {
    let Ok(permit) = page.pages.clone().try_acquire_owned() else {
        return busy("too many pages are open");
    };
    streams.begin();
    let kind = [(header::CONTENT_TYPE, "text/event-stream")];
    let events = Events::new(page.devices.clone(), page.note.clone());
    (kind, held(permit, events.stream())).into_response()
}

async fn admin(State(page): State<Arc<Page>>, request: Request) -> Response {
    let Ok(permit) = page.answers.clone().try_acquire_owned() else {
        return busy("too many requests at once");
    };
    let (parts, body) = page.admin.answer(&request).into_parts();
    let body = Body::new(body).into_data_stream();
    Response::from_parts(parts, held(permit, body))
}

/// A body that holds its permit to its end.
fn held<S, E>(permit: OwnedSemaphorePermit, pieces: S) -> Body
where
    S: futures_util::Stream<Item = Result<Bytes, E>> + Send + 'static,
    E: Into<axum::BoxError> + 'static,
{
    use futures_util::StreamExt;
    Body::from_stream(pieces.map(move |piece| {
        let _ = &permit;
        piece
    }))
}

fn busy(why: &'static str) -> Response {
    (
        StatusCode::SERVICE_UNAVAILABLE,
        format!("{why}; try again later\n"),
    )
        .into_response()
}

async fn with_headers(mut response: Response) -> Response {
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-cache"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}
