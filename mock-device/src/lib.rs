//! Mock HTTP devices, and a discovery service to find them by.
//!
//! The flow of a request:
//! 1. [`serve`] accepts connections until its stop comes, then lets them end;
//! 2. a request for one of [`Devices::paths`] is answered with a random number in [0, 1);
//! 3. a request for [`DISCOVERY_PATH`] with the discovered devices, one a line;
//! 4. `PUT` on it replaces that list, when [`Devices::writable`];
//! 5. anything else is 404 or 405.

use std::{future::Future, net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context, anyhow};
use axum::{
    Router,
    body::{Body, Bytes},
    extract::{Request, State},
    http::{Method, StatusCode, header},
    response::{IntoResponse, Response},
};
use clap::{Args, Parser, builder::BoolishValueParser};
use tokio::{net::TcpListener, sync::watch};
use tokio_util::sync::CancellationToken;

/// Where the discovery service answers. No device can have this path.
pub const DISCOVERY_PATH: &str = "/discovery";

/// The largest list that `PUT /discovery` takes: the discovery handler reads no larger one.
pub const MAX_LIST_BYTES: usize = 16 * 1024 * 1024;

/// How long a client may take to send a new list.
const LIST_TIMEOUT: Duration = Duration::from_secs(30);

/// How long open requests may go on after the stop. Idle connections are closed at once.
const DRAIN: Duration = Duration::from_secs(2);

/// The settings of the `mock-device` binary.
#[derive(Parser, Clone, Debug)]
#[command(
    name = "mock-device",
    version,
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
        value_parser = listen_address
    )]
    pub listen: SocketAddr,

    /// What is served there.
    #[command(flatten)]
    pub devices: Devices,
}

/// What [`serve`] answers with.
#[derive(Args, Clone, Debug)]
pub struct Devices {
    /// Path of a device, which answers with a random number in [0, 1); repeat for more devices
    #[arg(long = "path", value_name = "PATH", default_value = "/", value_parser = device_path)]
    pub paths: Vec<String>,

    /// Device that /discovery lists, as HOST:PORT or URL; repeat for more devices
    #[arg(long = "device", value_name = "DEVICE")]
    pub discovered: Vec<String>,

    /// Let `PUT /discovery` replace the list of devices with the body's lines
    #[arg(long, env = "WRITABLE", value_parser = BoolishValueParser::new())]
    pub writable: bool,
}

impl Default for Devices {
    /// One device on `/`, nothing to discover, not writable.
    fn default() -> Self {
        Self {
            paths: vec!["/".to_owned()],
            discovered: Vec::new(),
            writable: false,
        }
    }
}

/// Serves `devices` on `listener` until `shutdown` is ready, then closes idle connections at once
/// and gives open requests 2 s to end. Dropping the future stops accepting; requests that are being
/// answered then end by themselves.
///
/// # Errors
/// A path that no request could ask for, or that is [`DISCOVERY_PATH`].
pub async fn serve(
    listener: TcpListener,
    devices: Devices,
    shutdown: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    for path in &devices.paths {
        device_path(path).map_err(|rule| anyhow!("the device path {path:?}: {rule}"))?;
    }
    let address = listener
        .local_addr()
        .context("the listening socket has no address")?;
    log::info!(
        "listening on {address} for {} device(s) {}; {DISCOVERY_PATH} lists {}",
        devices.paths.len(),
        devices.paths.join(" "),
        devices.discovered.len(),
    );

    let service = Arc::new(Service {
        list: watch::Sender::new(lines(devices.discovered.iter().map(String::as_str))),
        paths: devices.paths,
        writable: devices.writable,
    });
    let stop = CancellationToken::new();
    let stop_on_drop = stop.clone().drop_guard();
    // The paths are matched here and not by the router, to which `{` and `*` would be patterns.
    let server = axum::serve(listener, Router::new().fallback(answer).with_state(service))
        .with_graceful_shutdown(stop.cancelled_owned());
    let mut server = tokio::spawn(server.into_future());

    tokio::select! {
        ended = &mut server => ended.context("the server's task")?.context("the server")?,
        () = shutdown => {
            drop(stop_on_drop);
            match tokio::time::timeout(DRAIN, server).await {
                Ok(ended) => ended.context("the server's task")?.context("the server")?,
                Err(_) => log::warn!("a request was still open {DRAIN:?} after the stop"),
            }
        }
    }
    Ok(())
}

/// What all connections share.
struct Service {
    paths: Vec<String>,
    /// The body of the discovery service's answer.
    list: watch::Sender<Bytes>,
    writable: bool,
}

async fn answer(State(service): State<Arc<Service>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let (method, path) = (parts.method, parts.uri.path());
    let response = if path == DISCOVERY_PATH {
        match method {
            Method::GET | Method::HEAD => text(service.list.borrow().clone()),
            Method::PUT if service.writable => replace(&service.list, body).await,
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

/// Makes the body's lines the new list, or leaves the list as it is and says why.
async fn replace(list: &watch::Sender<Bytes>, body: Body) -> Response {
    let body = match tokio::time::timeout(LIST_TIMEOUT, axum::body::to_bytes(body, MAX_LIST_BYTES))
        .await
    {
        Ok(Ok(body)) => body,
        Ok(Err(_)) => {
            return refused(
                StatusCode::PAYLOAD_TOO_LARGE,
                "the list is cut, or larger than 16 MiB",
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
    list.send_replace(lines(body.lines()));
    log::info!(
        "{DISCOVERY_PATH} now lists {} device(s)",
        body.lines().count()
    );
    StatusCode::NO_CONTENT.into_response()
}

/// The discovery service's answer: a newline at the end of each line, so that no device is no byte.
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

fn listen_address(text: &str) -> Result<SocketAddr, String> {
    text.parse()
        .map_err(|_| "expected ADDRESS:PORT, such as 0.0.0.0:8080 or [::]:8080".to_owned())
}

/// A path that a request can ask for as it is written, and that is not the discovery service's.
fn device_path(path: &str) -> Result<String, String> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@/%".contains(&byte);
    if !path.starts_with('/') {
        Err("a path begins with /".to_owned())
    } else if !path.bytes().all(allowed) {
        Err("a path holds only characters that need no escape in a URL".to_owned())
    } else if path == DISCOVERY_PATH {
        Err("this path is the discovery service's".to_owned())
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
