//! Mock HTTP devices, and a discovery service to find them by.
//!
//! [`serve`] answers each request by its path:
//! - one of [`Devices::paths`]: a random number in [0, 1);
//! - [`DISCOVERY_PATH`]: the listed devices, one a line; `PUT` replaces the list if [`Devices::writable`], and with
//!   `?status=500` the status that comes with it;
//! - anything else: 404, and 405 for another method.

use std::{future::Future, net::SocketAddr, pin::pin, sync::Arc, time::Duration};

use akri_daemon::parse_listen_address;
use anyhow::{Context, anyhow};
use axum::{
    Router,
    body::{Body, Bytes},
    extract::{Request, State},
    http::{Method, StatusCode, header},
    response::{IntoResponse, Response},
};
use clap::{Args, Parser, builder::BoolishValueParser};
use tokio::{
    net::TcpListener,
    sync::{oneshot, watch},
    time::timeout,
};

/// Where the discovery service answers. No device can have this path.
pub const DISCOVERY_PATH: &str = "/discovery";

/// The largest list that `PUT /discovery` takes: the discovery handler's default limit.
pub const MAX_LIST_BYTES: usize = 4 * 1024 * 1024;

/// How long a client may take to send a new list.
const LIST_TIMEOUT: Duration = Duration::from_secs(30);

/// How long an open request may take after the shutdown began.
const DRAIN: Duration = Duration::from_secs(2);

/// The settings of the `mock-device` binary.
#[derive(Parser, Clone, Debug)]
#[command(
    name = "mock-device",
    version = akri_daemon::version(),
    about = "Mock HTTP devices and a discovery service to find them by"
)]
#[command(after_help = "RUST_LOG sets what is logged (default info; debug shows each request).")]
pub struct Settings {
    /// Address and port to listen on
    #[arg(
        long,
        env = "LISTEN",
        value_name = "LISTEN",
        default_value = "0.0.0.0:8080",
        value_parser = parse_listen_address
    )]
    pub listen: SocketAddr,

    /// What to serve there.
    #[command(flatten)]
    pub devices: Devices,
}

/// The devices and the list that [`serve`] answers with.
#[derive(Args, Clone, Debug)]
pub struct Devices {
    /// Path of a device, which answers with a random number in [0, 1); repeat for more devices
    #[arg(long = "path", value_name = "PATH", default_value = "/", value_parser = device_path)]
    pub paths: Vec<String>,

    /// Device that /discovery lists, as HOST:PORT or URL; repeat for more devices
    #[arg(long = "device", value_name = "DEVICE")]
    pub discovered: Vec<String>,

    /// Let `PUT /discovery` replace the list of devices with the body's lines, and `PUT /discovery?status=500` its status too
    #[arg(long, env = "WRITABLE", value_parser = BoolishValueParser::new())]
    pub writable: bool,
}

impl Default for Devices {
    /// One device on `/`, and an empty list that is not writable.
    fn default() -> Self {
        Self {
            paths: vec!["/".to_owned()],
            discovered: Vec::new(),
            writable: false,
        }
    }
}

/// Serves `devices` on `listener` until `shutdown` is ready. Then idle connections close at once, and open requests have 2 s
/// to end. Dropping the future closes the listener and idle connections; open requests end on their own.
///
/// # Errors
/// A device path is not allowed (see `--path`), or the listener failed.
pub async fn serve(
    listener: TcpListener,
    devices: Devices,
    shutdown: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    for path in &devices.paths {
        device_path(path).map_err(|rule| anyhow!("the device path {path:?}: {rule}"))?;
    }
    log::info!(
        "listening on {} for {} device(s){}; {DISCOVERY_PATH} lists {}",
        listener.local_addr().context("the listening socket")?,
        devices.paths.len(),
        (devices.paths.iter().map(|path| format!(" {path}"))).collect::<String>(),
        devices.discovered.len(),
    );
    let service = Arc::new(Service {
        reply: watch::Sender::new(Reply {
            status: StatusCode::OK,
            list: lines(devices.discovered.iter().map(String::as_str)),
        }),
        paths: devices.paths,
        writable: devices.writable,
    });
    // Dropping the sender stops the server.
    let (stop, stopped) = oneshot::channel::<()>();
    // The paths are matched in `answer`, because axum's router would read `{` and `*` as patterns.
    let mut server = pin!(
        axum::serve(listener, Router::new().fallback(answer).with_state(service))
            .with_graceful_shutdown(async {
                let _ = stopped.await;
            })
            .into_future()
    );
    tokio::select! {
        ended = &mut server => return ended.context("the server failed"),
        () = shutdown => drop(stop),
    }
    match timeout(DRAIN, server).await {
        Ok(ended) => ended.context("the server failed"),
        Err(_) => {
            log::warn!("a request is still open {DRAIN:?} after the shutdown began");
            Ok(())
        }
    }
}

/// What all connections share.
struct Service {
    paths: Vec<String>,
    reply: watch::Sender<Reply>,
    writable: bool,
}

/// What the discovery service answers.
#[derive(Clone)]
struct Reply {
    status: StatusCode,
    list: Bytes,
}

async fn answer(State(service): State<Arc<Service>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let (method, path) = (parts.method, parts.uri.path());
    let response = if path == DISCOVERY_PATH {
        match method {
            Method::GET | Method::HEAD => {
                let Reply { status, list } = service.reply.borrow().clone();
                (status, text(list)).into_response()
            }
            Method::PUT if service.writable => {
                replace(&service.reply, parts.uri.query(), body).await
            }
            _ if service.writable => not_allowed("GET, HEAD, PUT"),
            _ => not_allowed("GET, HEAD"),
        }
    } else if service.paths.iter().any(|device| device == path) {
        match method {
            Method::GET | Method::HEAD => text(fastrand::f64().to_string()),
            _ => not_allowed("GET, HEAD"),
        }
    } else {
        refused(StatusCode::NOT_FOUND, "no device has this path")
    };
    log::debug!("{method} {path} {}", response.status().as_u16());
    response
}

/// Makes the body's lines the new list, and the query's status or 200 the status that comes with it. A refused query or body
/// leaves both as they are.
async fn replace(reply: &watch::Sender<Reply>, query: Option<&str>, body: Body) -> Response {
    let Some(status) = query.map_or(Some(StatusCode::OK), final_status) else {
        return refused(
            StatusCode::BAD_REQUEST,
            "the query must be empty or status=200 to status=599",
        );
    };
    let body = match timeout(LIST_TIMEOUT, axum::body::to_bytes(body, MAX_LIST_BYTES)).await {
        Ok(Ok(body)) => body,
        // The other error is a broken connection, over which no response comes.
        Ok(Err(_)) => {
            return refused(
                StatusCode::PAYLOAD_TOO_LARGE,
                "the list is larger than 4 MiB",
            );
        }
        Err(_) => {
            return refused(
                StatusCode::REQUEST_TIMEOUT,
                "the list did not arrive within 30 s",
            );
        }
    };
    let Ok(body) = std::str::from_utf8(&body) else {
        return refused(StatusCode::BAD_REQUEST, "the list is not UTF-8");
    };
    reply.send_replace(Reply {
        status,
        list: lines(body.lines()),
    });
    log::info!(
        "{DISCOVERY_PATH} now answers {} and lists {} device(s)",
        status.as_u16(),
        body.lines().count()
    );
    StatusCode::NO_CONTENT.into_response()
}

/// The status of `status=500`. One below 200 would not end the response.
fn final_status(query: &str) -> Option<StatusCode> {
    let status = query.strip_prefix("status=")?.parse().ok()?;
    (200..600)
        .contains(&status)
        .then(|| StatusCode::from_u16(status).ok())?
}

/// The devices as the discovery service's body. Each line ends with a newline, so an empty list is an empty body.
fn lines<'a>(devices: impl Iterator<Item = &'a str>) -> Bytes {
    devices
        .flat_map(|device| [device, "\n"])
        .collect::<String>()
        .into()
}

fn text(body: impl Into<Body>) -> Response {
    (
        [(header::CONTENT_TYPE, "text/plain; charset=utf-8")],
        body.into(),
    )
        .into_response()
}

fn not_allowed(methods: &'static str) -> Response {
    (StatusCode::METHOD_NOT_ALLOWED, [(header::ALLOW, methods)]).into_response()
}

fn refused(status: StatusCode, reason: &str) -> Response {
    (status, format!("{reason}\n")).into_response()
}

/// Checks that a request can ask for the path as it is written, and that it is not the discovery service's.
fn device_path(path: &str) -> Result<String, String> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@/%".contains(&byte);
    if !path.starts_with('/') {
        Err("a path must begin with /".to_owned())
    } else if !path.bytes().all(allowed) {
        Err("a path must not hold characters that a URL escapes; write them as %XX".to_owned())
    } else if path == DISCOVERY_PATH {
        Err("this path belongs to the discovery service; choose another one".to_owned())
    } else {
        Ok(path.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_path_is_one_that_a_request_can_ask_for() {
        for good in [
            "/",
            "/sensor",
            "/a/b",
            "/discovery/1",
            "/*",
            "/50%25",
            "/x:y@z",
        ] {
            assert_eq!(device_path(good), Ok(good.to_owned()));
        }
        for bad in [
            "",
            "sensor",
            "/discovery",
            "/{id}",
            "/a b",
            "/a?b",
            "/a#b",
            "/ä",
            "/a\n",
        ] {
            assert!(device_path(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn every_line_of_the_list_ends_with_a_newline() {
        assert_eq!(lines([].into_iter()), "");
        assert_eq!(lines(["a:1"].into_iter()), "a:1\n");
        assert_eq!(lines(["<a>", "b&c"].into_iter()), "<a>\nb&c\n");
    }

    #[test]
    fn the_settings_default_to_one_device() {
        let settings = Settings::try_parse_from(["mock-device"]).unwrap();
        assert_eq!(settings.listen.port(), 8080);
        assert_eq!(settings.devices.paths, Devices::default().paths);
        assert!(settings.devices.discovered.is_empty() && !settings.devices.writable);
    }
}
