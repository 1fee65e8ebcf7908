//! One bounded read, against devices that answer well, badly or not at all.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod support;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::SystemTime,
};

use akri_device_http::{Endpoint, HttpError};
use akri_http_broker::read::{MAX_BODY_BYTES, ReadError, Reader, Reading, TIMEOUT};
use support::{canned, device, hanging, head, healthy, nobody, send};
use tokio::{io::AsyncWriteExt, net::TcpListener, sync::mpsc};

async fn reading(endpoint: impl ToString) -> Result<Reading, ReadError> {
    let endpoint: Endpoint = endpoint.to_string().parse().unwrap();
    Reader::new().unwrap().read(endpoint.url()).await
}

/// The HTTP error that a read ends with.
async fn refused(endpoint: impl ToString) -> HttpError {
    match reading(endpoint).await {
        Err(ReadError::Http(error)) => error,
        other => panic!("{other:?}"),
    }
}

async fn read(endpoint: impl ToString) -> Result<String, ReadError> {
    reading(endpoint).await.map(|reading| reading.value)
}

#[tokio::test]
async fn a_body_is_read_whole_and_unchanged() {
    assert_eq!(read(healthy(" 0.5 °C\n").await).await.unwrap(), " 0.5 °C\n");
    assert_eq!(read(healthy("").await).await.unwrap(), "");
    let largest = "x".repeat(MAX_BODY_BYTES);
    assert_eq!(read(healthy(&largest).await).await.unwrap(), largest);
}

#[tokio::test]
async fn the_device_sees_who_asks_and_for_what() {
    let (heads, mut seen) = mpsc::channel(1);
    let address = device(move |head, stream| {
        let heads = heads.clone();
        async move {
            heads.send(head).await.unwrap();
            send(stream, b"HTTP/1.1 204 No Content\r\n\r\n".to_vec()).await;
        }
    })
    .await;
    assert_eq!(
        read(format!("user:pass@{address}/sensor?unit=C"))
            .await
            .unwrap(),
        ""
    );
    let head = seen.recv().await.unwrap();
    assert!(
        head.starts_with("GET /sensor?unit=C HTTP/1.1\r\n"),
        "{head}"
    );
    assert!(
        head.contains(concat!(
            "user-agent: akri-http-broker/",
            env!("CARGO_PKG_VERSION")
        )),
        "{head}"
    );
    assert!(
        head.contains("authorization: Basic dXNlcjpwYXNz\r\n"),
        "{head}"
    );
}

#[tokio::test]
async fn a_reading_holds_its_content_type_and_its_time() {
    let before = SystemTime::now();
    for (header, content_type) in [
        (
            "content-type: application/json;charset=utf-8\r\n".to_owned(),
            "application/json;charset=utf-8".to_owned(),
        ),
        (String::new(), String::new()),
        ("content-type: \u{e4}\r\n".to_owned(), String::new()),
        (
            format!("content-type: {}\r\n", "x".repeat(1000)),
            format!("{}... (1000 bytes)", "x".repeat(256)),
        ),
    ] {
        let answer = format!("HTTP/1.1 200 OK\r\n{header}content-length: 1\r\n\r\n1");
        let reading = reading(canned(answer).await).await.unwrap();
        assert_eq!(reading.content_type, content_type);
        assert!((before..=SystemTime::now()).contains(&reading.read_at));
    }
}

#[tokio::test]
async fn a_connection_is_used_again() {
    let connections = Arc::new(AtomicUsize::new(0));
    let address = device({
        let connections = connections.clone();
        move |_, mut stream| {
            connections.fetch_add(1, Ordering::SeqCst);
            async move {
                loop {
                    stream
                        .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n1")
                        .await
                        .unwrap();
                    if head(&mut stream).await.is_none() {
                        break;
                    }
                }
            }
        }
    })
    .await;
    let endpoint: Endpoint = address.to_string().parse().unwrap();
    let reader = Reader::new().unwrap();
    for _ in 0..5 {
        assert_eq!(reader.read(endpoint.url()).await.unwrap().value, "1");
    }
    assert_eq!(connections.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_kept_connection_that_the_device_closes_is_not_an_outage() {
    // Each connection answers one request, and is closed when the next one comes: the worst that an idle time-out equal
    // to the interval can do.
    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n1";
    let address = device(move |_, mut stream| async move {
        stream.write_all(answer).await.unwrap();
        head(&mut stream).await;
    })
    .await;
    let endpoint: Endpoint = address.to_string().parse().unwrap();
    let reader = Reader::new().unwrap();
    for _ in 0..20 {
        assert_eq!(reader.read(endpoint.url()).await.unwrap().value, "1");
    }
}

#[tokio::test]
async fn only_a_complete_2xx_reply_counts() {
    for (line, shown) in [
        ("404 Not Found", "answered 404 Not Found"),
        ("500 Oops", "answered 500 Internal Server Error"),
        ("304 Not Modified", "answered 304 Not Modified"),
        ("206 Partial Content", "answered 206 Partial Content"),
    ] {
        let answer = format!("HTTP/1.1 {line}\r\ncontent-length: 3\r\n\r\n0.5");
        let error = refused(canned(answer).await).await;
        assert!(matches!(error, HttpError::Status(_)));
        assert_eq!(error.to_string(), shown);
    }
}

#[tokio::test]
async fn a_reply_without_a_length_counts_only_if_it_ends_with_a_line_feed() {
    let answer = |body| format!("HTTP/1.1 200 OK\r\n\r\n{body}");
    for body in ["0.5\n", "0.5\r\n", "\n"] {
        assert_eq!(read(canned(answer(body)).await).await.unwrap(), body);
    }
    for body in ["", "0.5", "0.5\n0"] {
        let error = refused(canned(answer(body)).await).await;
        assert_eq!(error, HttpError::PerhapsCut, "{body:?}");
    }
}

#[tokio::test]
async fn a_reply_in_an_encoding_is_refused_and_identity_is_none() {
    let answer = |headers: &str| format!("HTTP/1.1 200 OK\r\n{headers}\r\n\r\n21.");
    for encoding in ["gzip", "x-unknown", "identity, GZIP"] {
        for length in ["", "\r\ncontent-length: 3"] {
            let headers = format!("content-encoding: {encoding}{length}");
            let error = refused(canned(answer(&headers)).await).await;
            let why = "no complete reply: it has a Content-Encoding, which nobody asked for";
            assert_eq!(error.to_string(), why);
        }
    }
    for header in ["content-encoding: identity", "transfer-encoding: identity"] {
        let error = refused(canned(answer(header)).await).await;
        assert_eq!(error, HttpError::PerhapsCut, "{header}");
    }
    let whole = answer("content-encoding: identity\r\ncontent-length: 3");
    assert_eq!(read(canned(whole).await).await.unwrap(), "21.");
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused() {
    let announced = format!(
        "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n",
        MAX_BODY_BYTES + 1
    );
    let announced = [announced.into_bytes(), vec![b'x'; MAX_BODY_BYTES + 1]].concat();
    let too_large = HttpError::TooLarge(MAX_BODY_BYTES);
    assert_eq!(refused(canned(announced).await).await, too_large);

    let endless = device(|_, mut stream| async move {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await;
        while stream.write_all(&[b'x'; 4096]).await.is_ok() {}
    })
    .await;
    assert_eq!(refused(endless).await, too_large);
}

#[tokio::test(start_paused = true)]
async fn a_slow_drip_is_given_up() {
    let drip = device(|_, mut stream| async move {
        let _ = stream
            .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n")
            .await;
        while stream.write_all(b"x").await.is_ok() {
            tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        }
    })
    .await;
    let error = refused(drip).await;
    assert_eq!(error, HttpError::TimedOut(TIMEOUT));
    assert_eq!(error.to_string(), "no complete reply within 5s");
}

#[tokio::test(start_paused = true)]
async fn a_device_that_never_answers_is_given_up() {
    let error = refused(hanging().await).await;
    assert_eq!(error, HttpError::TimedOut(TIMEOUT));
}

#[tokio::test]
async fn a_reply_that_breaks_off_is_refused() {
    for answer in [
        "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n0.5",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\n0.5\r\n",
        "HTTP/1.1 200 OK\r\n",
        "",
        "SSH-2.0-OpenSSH_9.2\r\n",
    ] {
        let error = refused(canned(answer).await).await;
        assert!(
            matches!(error, HttpError::NoReply(_)),
            "{answer:?}: {error:?}"
        );
        assert!(
            error.to_string().starts_with("no complete reply: "),
            "{error}"
        );
    }
}

#[tokio::test]
async fn a_body_that_is_not_text_is_refused() {
    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n\xff\xfe\x00\x01";
    assert_eq!(read(canned(*answer).await).await, Err(ReadError::NotText));
}

#[tokio::test]
async fn a_refused_connection_says_so() {
    let error = refused(nobody().await).await;
    assert!(matches!(error, HttpError::NoConnection(_)), "{error:?}");
    assert!(error.to_string().contains("Connection refused"), "{error}");
}

#[tokio::test]
async fn https_with_a_plain_http_device_is_no_connection() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        send(stream, b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec()).await;
    });
    let error = refused(format!("https://{address}")).await;
    assert!(matches!(error, HttpError::NoConnection(_)), "{error:?}");
}

#[tokio::test]
async fn redirects_on_the_device_are_followed() {
    let address = device(|head, stream| {
        let answer = if head.starts_with("GET /sensor ") {
            "HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n0.5"
        } else {
            "HTTP/1.1 302 Found\r\nlocation: /sensor\r\ncontent-length: 0\r\n\r\n"
        };
        send(stream, answer.into())
    })
    .await;
    assert_eq!(read(address).await.unwrap(), "0.5");
}

#[tokio::test]
async fn redirects_without_end_or_to_another_origin_are_not_followed() {
    let port = healthy("secret").await.port();
    let elsewhere = "redirect not followed: it leads to another scheme, host or port";
    for (location, shown) in [
        (
            "/".to_owned(),
            "redirect not followed: more than 5 redirects",
        ),
        (format!("http://localhost:{port}/"), elsewhere),
        (format!("http://127.0.0.1:{port}/"), elsewhere),
        (format!("https://127.0.0.1:{port}/"), elsewhere),
    ] {
        let answer =
            format!("HTTP/1.1 302 Found\r\nlocation: {location}\r\ncontent-length: 0\r\n\r\n");
        let error = refused(canned(answer).await).await;
        assert!(matches!(error, HttpError::Redirect(_)), "{error:?}");
        assert_eq!(error.to_string(), shown);
    }
}

#[tokio::test]
async fn an_error_holds_no_secret() {
    let error = read(format!(
        "http://user:secret@{}/?token=secret",
        nobody().await
    ))
    .await
    .unwrap_err();
    assert!(
        !format!("{error} {error:?}").contains("secret"),
        "{error:?}"
    );
}
