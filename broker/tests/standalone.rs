//! The real `standalone`: what it needs, what it logs, how it ends.

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
    time::{Duration, Instant},
};

use support::{Binary, VARIABLE, device, hanging, healthy, nobody, send};

#[tokio::test]
async fn an_error_at_the_start_is_one_line_and_a_status() {
    let valid = (VARIABLE, "device:80");
    let hashed = "AKRI_HTTP_DEVICE_ENDPOINT_4294EA";
    for (variables, arguments, parts) in [
        (vec![], vec![], vec!["AKRI_HTTP_DEVICE_ENDPOINT ", "is set"]),
        (
            vec![(VARIABLE, "")],
            vec![],
            vec!["AKRI_HTTP_DEVICE_ENDPOINT ", "empty"],
        ),
        (
            vec![valid, (hashed, "ftp://a:secret@b")],
            vec![],
            vec![hashed, "only http and https"],
        ),
        (
            vec![valid, ("POLL_INTERVAL", "soon")],
            vec![],
            vec!["POLL_INTERVAL", "'soon'", "100ms to 24h"],
        ),
        (
            vec![valid],
            vec!["--interval", "1ms"],
            vec!["--interval", "'1ms'", "100ms to 24h"],
        ),
        (vec![valid], vec!["--intervall"], vec!["--intervall"]),
    ] {
        let (status, lines) = Binary::standalone(&variables, &arguments).end().await;
        assert!(!status.success() && status.code().is_some(), "{status}");
        assert_eq!(lines.len(), 1, "{lines:#?}");
        for part in parts {
            assert!(
                lines[0].starts_with("error: ") && lines[0].contains(part),
                "{lines:#?}"
            );
        }
        assert!(!lines[0].contains("secret"), "{lines:#?}");
    }
}

#[tokio::test]
async fn help_and_version_need_no_device() {
    for argument in ["--help", "--version"] {
        let (status, lines) = Binary::standalone(&[], &[argument]).end().await;
        assert!(status.success() && lines.is_empty(), "{status} {lines:#?}");
    }
}

#[tokio::test]
async fn each_device_is_read_at_once_and_logged_in_one_line() {
    let (a, b) = (
        healthy("0.5\n").await.to_string(),
        healthy("two\nlines").await.to_string(),
    );
    let endpoint = format!("http://user:secret@{b}/?token=secret");
    let variables = [
        (VARIABLE, &*a),
        ("AKRI_HTTP_DEVICE_ENDPOINT_0000AA", &*a),
        ("AKRI_HTTP_DEVICE_ENDPOINT_0000BB", &*endpoint),
    ];
    let mut broker = Binary::standalone(&variables, &["--interval", "24h"]);
    let mut lines = broker.lines_up_to(&b).await;
    if !lines.iter().any(|line| line.contains(&a)) {
        lines.push(broker.line_with(&a).await);
    }
    broker.signal("TERM").await;
    lines.extend(broker.end().await.1);
    let readings = |value: &str| lines.iter().filter(|line| line.ends_with(value)).count();
    assert_eq!(readings(&format!("] {a} 0.5")), 1, "{lines:#?}");
    assert_eq!(
        readings(&format!("] http://{b}/ two\\nlines")),
        1,
        "{lines:#?}"
    );
    assert!(!lines.concat().contains("secret"), "{lines:#?}");
}

#[tokio::test]
async fn a_failing_device_is_logged_when_something_changes() {
    let requests = Arc::new(AtomicUsize::new(0));
    let address = device({
        let requests = requests.clone();
        move |_, stream| {
            let status = match requests.fetch_add(1, Ordering::SeqCst) {
                0..5 => "500 Internal Server Error",
                5..10 => "404 Not Found",
                _ => "200 OK",
            };
            send(
                stream,
                format!("HTTP/1.1 {status}\r\ncontent-length: 1\r\n\r\n1").into(),
            )
        }
    })
    .await
    .to_string();
    let mut broker = Binary::standalone(&[(VARIABLE, &address), ("POLL_INTERVAL", "100ms")], &[]);
    let lines = broker.lines_up_to(&format!("{address} 1")).await;
    let [fails, changes, recovers, _] = &lines[..] else {
        panic!("{lines:#?}")
    };
    assert!(
        fails.contains("WARN") && fails.contains(&address),
        "{lines:#?}"
    );
    assert!(
        fails.contains("answered 500 Internal Server Error; trying again every 100ms"),
        "{lines:#?}"
    );
    assert!(
        changes.contains("now cannot be read: answered 404 Not Found"),
        "{lines:#?}"
    );
    assert!(recovers.contains("can be read again after "), "{lines:#?}");
}

#[tokio::test]
async fn a_device_that_is_slow_or_down_does_not_delay_another() {
    let (slow, down, good) = (hanging().await, nobody().await, healthy("0.5").await);
    let mut broker = Binary::standalone(
        &[
            ("AKRI_HTTP_DEVICE_ENDPOINT_000001", &slow.to_string()),
            ("AKRI_HTTP_DEVICE_ENDPOINT_000002", &down.to_string()),
            ("AKRI_HTTP_DEVICE_ENDPOINT_000003", &good.to_string()),
        ],
        &["--interval", "100ms"],
    );
    broker.line_with("Connection refused").await;
    for _ in 0..10 {
        let lines = broker.lines_up_to(&format!("{good} 0.5")).await;
        assert!(
            !lines.iter().any(|line| line.contains(&slow.to_string())),
            "{lines:#?}"
        );
    }
    broker
        .line_with(&format!(
            "{slow} cannot be read: no complete answer within 5s"
        ))
        .await;
    broker.line_with(&format!("{good} 0.5")).await;
}

#[tokio::test]
async fn a_signal_ends_it_at_once_under_a_hanging_read() {
    for signal in ["TERM", "INT"] {
        let (slow, good) = (hanging().await, healthy("0.5").await);
        let mut broker = Binary::standalone(
            &[
                (VARIABLE, &slow.to_string()),
                ("AKRI_HTTP_DEVICE_ENDPOINT_000003", &good.to_string()),
            ],
            &[],
        );
        broker.line_with("0.5").await;
        let signalled = Instant::now();
        broker.signal(signal).await;
        let (status, lines) = broker.end().await;
        assert_eq!(status.code(), Some(0), "{signal}: {status} {lines:#?}");
        // Less than the read's time-out: it was not waited for.
        assert!(
            signalled.elapsed() < Duration::from_secs(3),
            "{signal}: {:?}",
            signalled.elapsed()
        );
    }
}
