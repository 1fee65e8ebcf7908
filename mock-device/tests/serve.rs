//! What mock devices and their discovery service answer, over real sockets.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::{future::pending, net::SocketAddr};

use akri_http_mock_device::{Devices, MAX_LIST_BYTES, serve};
use reqwest::{Client, Method, Response};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::oneshot,
};

struct Mock {
    address: SocketAddr,
    client: Client,
}

impl Mock {
    async fn start(devices: Devices) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async { serve(listener, devices, pending()).await.unwrap() });
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = Client::builder()
            .no_proxy()
            .tls_certs_only([])
            .build()
            .unwrap();
        Self { address, client }
    }

    async fn ask(&self, method: Method, path: &str, body: impl Into<reqwest::Body>) -> Response {
        let url = format!("http://{}{path}", self.address);
        self.client
            .request(method, url)
            .body(body)
            .send()
            .await
            .unwrap()
    }

    async fn get(&self, path: &str) -> Response {
        self.ask(Method::GET, path, "").await
    }

    async fn list(&self) -> String {
        self.get("/discovery").await.text().await.unwrap()
    }
}

fn devices(paths: &[&str], discovered: &[&str], writable: bool) -> Devices {
    let owned = |texts: &[&str]| texts.iter().map(|&text| text.to_owned()).collect();
    Devices {
        paths: owned(paths),
        discovered: owned(discovered),
        writable,
    }
}

#[tokio::test]
async fn each_path_answers_with_a_random_number() {
    let mock = Mock::start(devices(&["/", "/sensor", "/*"], &[], false)).await;
    let mut values = Vec::new();
    for path in ["/", "/sensor", "/sensor?unit=C", "/*"] {
        let answer = mock.get(path).await;
        assert_eq!(answer.status(), 200, "{path}");
        assert_eq!(
            answer.headers()["content-type"],
            "text/plain; charset=utf-8"
        );
        let value: f64 = answer.text().await.unwrap().parse().unwrap();
        assert!((0.0..1.0).contains(&value), "{value}");
        values.push(value);
    }
    values.dedup();
    assert!(values.len() > 1, "{values:?}");
}

#[tokio::test]
async fn elsewhere_there_is_nothing() {
    let mock = Mock::start(devices(&["/sensor", "/*"], &[], true)).await;
    for path in [
        "/",
        "/sensor/",
        "/sensors",
        "/x",
        "/discovery/",
        "//discovery",
    ] {
        assert_eq!(mock.get(path).await.status(), 404, "{path}");
    }
}

#[tokio::test]
async fn the_discovery_service_lists_its_devices_as_given() {
    let mock = Mock::start(devices(&["/"], &["http://device-1:8080", "<b>&\"é"], false)).await;
    assert_eq!(mock.list().await, "http://device-1:8080\n<b>&\"é\n");
}

#[tokio::test]
async fn an_empty_list_is_an_empty_body() {
    let answer = Mock::start(Devices::default())
        .await
        .get("/discovery")
        .await;
    assert_eq!(
        (
            answer.status().as_u16(),
            answer.text().await.unwrap().as_str()
        ),
        (200, "")
    );
}

#[tokio::test]
async fn head_answers_like_get_without_the_body() {
    let mock = Mock::start(devices(&["/"], &["a:1"], false)).await;
    for path in ["/", "/discovery"] {
        let answer = mock.ask(Method::HEAD, path, "").await;
        assert_eq!(answer.status(), 200);
        assert_ne!(answer.headers()["content-length"], "0", "{path}");
        assert_eq!(answer.text().await.unwrap(), "");
    }
}

#[tokio::test]
async fn put_replaces_the_list_when_writable() {
    let mock = Mock::start(devices(&["/"], &["a:1"], true)).await;
    for (body, list) in [
        ("b:2\r\nc:3", "b:2\nc:3\n"),
        ("", ""),
        ("\n", "\n"),
        ("d:4\n", "d:4\n"),
    ] {
        assert_eq!(
            mock.ask(Method::PUT, "/discovery", body).await.status(),
            204
        );
        assert_eq!(mock.list().await, list);
    }
}

#[tokio::test]
async fn put_sets_the_status_of_the_list_until_the_next_put() {
    let mock = Mock::start(devices(&["/"], &["a:1"], true)).await;
    for (put, status) in [
        ("/discovery?status=500", 500),
        ("/discovery?status=404", 404),
        ("/discovery", 200),
    ] {
        assert_eq!(mock.ask(Method::PUT, put, "b:2").await.status(), 204);
        let answer = mock.get("/discovery").await;
        assert_eq!(answer.status(), status, "{put}");
        assert_eq!(answer.text().await.unwrap(), "b:2\n");
        assert_eq!(mock.get("/").await.status(), 200, "a device goes on");
    }
    for wrong in ["status=100", "status=600", "status=", "state=500", "500"] {
        let put = format!("/discovery?{wrong}");
        assert_eq!(mock.ask(Method::PUT, &put, "c:3").await.status(), 400);
        assert_eq!(mock.list().await, "b:2\n", "{wrong} changes nothing");
    }
}

#[tokio::test]
async fn a_list_that_is_too_large_or_no_text_changes_nothing() {
    let mock = Mock::start(devices(&["/"], &["a:1"], true)).await;
    assert_eq!(
        mock.ask(Method::PUT, "/discovery", vec![0xff])
            .await
            .status(),
        400
    );
    assert_eq!(mock.list().await, "a:1\n");

    let url = format!("http://{}/discovery", mock.address);
    let answer = mock
        .client
        .put(url)
        .body(vec![b'x'; MAX_LIST_BYTES + 1])
        .send()
        .await;
    // The refusal may come, and the connection close, while the list is still being sent.
    assert!(answer.map_or(true, |answer| answer.status() == 413));
    assert_eq!(mock.list().await, "a:1\n");

    let longest = "x".repeat(MAX_LIST_BYTES - 1) + "\n";
    assert_eq!(
        mock.ask(Method::PUT, "/discovery", longest.clone())
            .await
            .status(),
        204
    );
    assert!(mock.list().await == longest);
}

#[tokio::test]
async fn other_methods_are_told_which_are_allowed() {
    let fixed = Mock::start(devices(&["/"], &["a:1"], false)).await;
    let writable = Mock::start(devices(&["/"], &["a:1"], true)).await;
    for (mock, method, path, allowed) in [
        (&fixed, Method::PUT, "/discovery", "GET, HEAD"),
        (&fixed, Method::POST, "/", "GET, HEAD"),
        (&writable, Method::POST, "/discovery", "GET, HEAD, PUT"),
        (&writable, Method::PUT, "/", "GET, HEAD"),
    ] {
        let answer = mock.ask(method, path, "b:2").await;
        assert_eq!(answer.status(), 405);
        assert_eq!(answer.headers()["allow"], allowed);
    }
    assert_eq!(fixed.list().await, "a:1\n");
}

#[tokio::test]
async fn a_path_that_nobody_can_ask_for_is_an_error() {
    for path in ["/discovery", "sensor", "/{id}"] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let error = serve(listener, devices(&[path], &[], false), pending())
            .await
            .unwrap_err();
        assert!(error.to_string().contains(path), "{error}");
    }
}

/// A request whose body is awaited: the server has said "100 Continue".
async fn open_request(address: SocketAddr) -> TcpStream {
    let head =
        b"PUT /discovery HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 4\r\n\r\n";
    send(address, head, "HTTP/1.1 100").await
}

/// Sends the bytes, and reads a response that begins so.
async fn send(address: SocketAddr, bytes: &[u8], response: &str) -> TcpStream {
    let mut connection = TcpStream::connect(address).await.unwrap();
    connection.write_all(bytes).await.unwrap();
    let mut buffer = [0; 1024];
    let read = connection.read(&mut buffer).await.unwrap();
    let found = std::str::from_utf8(&buffer[..read]).unwrap();
    assert!(found.starts_with(response), "{found}");
    connection
}

#[tokio::test]
async fn a_shutdown_closes_idle_connections_answers_open_requests_and_ends_in_spite_of_one() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel();
    let serving = tokio::spawn(serve(listener, devices(&["/"], &[], true), async {
        let _ = stopped.await;
    }));
    let head = b"HEAD / HTTP/1.1\r\nhost: a\r\n\r\n";
    let mut idle = send(address, head, "HTTP/1.1 200").await;
    let mut open = open_request(address).await;
    let _unfinished = open_request(address).await;

    stop.send(()).unwrap();
    assert_eq!(idle.read(&mut [0; 1]).await.unwrap(), 0);
    open.write_all(b"b:2\n").await.unwrap();
    let mut response = String::new();
    open.read_to_string(&mut response).await.unwrap();
    assert!(response.starts_with("HTTP/1.1 204"), "{response}");
    serving.await.unwrap().unwrap();
    assert!(TcpStream::connect(address).await.is_err());
}
