//! The real `standalone`: what it needs, what it logs, how it ends.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod support;

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use support::{Binary, VARIABLE, device, hanging, head, healthy, nobody, send};
use tokio::io::AsyncWriteExt;

const HASHED: &str = "AKRI_HTTP_DEVICE_ENDPOINT_4294EA";

#[tokio::test]
async fn an_error_at_the_start_is_one_line_and_a_status_whatever_is_logged() {
    let valid = (VARIABLE, "device:80");
    for (variables, arguments, status, parts) in [
        (
            vec![],
            vec![],
            1,
            vec!["no device: set AKRI_HTTP_DEVICE_ENDPOINT "],
        ),
        (
            vec![(VARIABLE, ""), (HASHED, "ftp://a:secret@b")],
            vec![],
            1,
            vec![
                "AKRI_HTTP_DEVICE_ENDPOINT is empty",
                HASHED,
                "http or https",
            ],
        ),
        (
            vec![valid, ("POLL_INTERVAL", "soon")],
            vec![],
            2,
            vec!["POLL_INTERVAL", "'soon'", "100ms to 24h"],
        ),
        (
            vec![valid],
            vec!["--interval", "1ms"],
            2,
            vec!["--interval", "'1ms'", "100ms to 24h"],
        ),
        (
            vec![valid, ("RUST_LOG", "akri=loud")],
            vec![],
            2,
            vec!["RUST_LOG", "akri=loud"],
        ),
    ] {
        let silent = [&[("RUST_LOG", "off")], &variables[..]].concat();
        for variables in [variables, silent] {
            let (ended, lines) = Binary::standalone(&variables, &arguments).end().await;
            assert_eq!(ended.code(), Some(status), "{lines:#?}");
            assert_eq!(lines.len(), 1, "{lines:#?}");
            assert!(lines[0].starts_with("error: "), "{lines:#?}");
            for part in &parts {
                assert!(lines[0].contains(part), "{part}: {lines:#?}");
            }
            assert!(!lines[0].contains("secret"), "{lines:#?}");
        }
    }
}

#[tokio::test]
async fn an_unknown_flag_is_status_2() {
    let (status, lines) = Binary::standalone(&[], &["--intervall"]).end().await;
    assert_eq!(status.code(), Some(2));
    assert!(lines.concat().contains("'--intervall'"), "{lines:#?}");
}

#[tokio::test]
async fn a_bad_variable_is_named_and_the_good_devices_are_read() {
    let good = healthy("0.5").await.to_string();
    let variables = [(VARIABLE, "http://user:secret"), (HASHED, &*good)];
    let mut broker = Binary::standalone(&variables, &[]);
    let lines = broker.lines_up_to(&format!("{good} 0.5")).await;
    let [warning, _] = &lines[..] else {
        panic!("{lines:#?}")
    };
    let rule = "AKRI_HTTP_DEVICE_ENDPOINT is ignored: its value has a port that is not a number";
    assert!(
        warning.contains("WARN") && warning.contains(rule),
        "{warning}"
    );
    assert!(!warning.contains("secret"), "{warning}");
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
        fails.contains(": answered 500 Internal Server Error; trying again every 100ms"),
        "{lines:#?}"
    );
    assert!(
        changes.contains("still failing after ") && changes.ends_with(": answered 404 Not Found"),
        "{lines:#?}"
    );
    assert!(recovers.contains(": works again after "), "{lines:#?}");
}

#[tokio::test]
async fn a_device_that_closes_its_kept_connection_at_each_read_gives_no_outage() {
    let address = device(|_, mut stream| async move {
        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n1";
        stream.write_all(answer).await.unwrap();
        head(&mut stream).await;
    })
    .await
    .to_string();
    let mut broker = Binary::standalone(&[(VARIABLE, &address)], &["--interval", "100ms"]);
    let value = format!("{address} 1");
    for _ in 0..20 {
        let lines = broker.lines_up_to(&value).await;
        assert_eq!(lines.len(), 1, "{lines:#?}");
    }
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
    // The slow one is given up after 5 s, and none of the others has waited for it.
    let given_up = format!("{slow}: no complete reply within 5s");
    for _ in 0..3 {
        let lines = broker.lines_up_to(&format!("{good} 0.5")).await;
        assert!(
            !lines.iter().any(|line| line.contains(&given_up)),
            "{lines:#?}"
        );
    }
    broker.line_with(&given_up).await;
    broker.line_with(&format!("{good} 0.5")).await;
}

#[tokio::test]
async fn a_signal_ends_it_without_waiting_for_a_read() {
    for signal in ["TERM", "INT"] {
        let (slow, good) = (hanging().await, healthy("0.5").await);
        let variables = [(VARIABLE, &*slow.to_string()), (HASHED, &good.to_string())];
        let mut broker = Binary::standalone(&variables, &[]);
        broker.line_with("0.5").await;
        broker.signal(signal).await;
        let (status, lines) = broker.end().await;
        assert_eq!(status.code(), Some(0), "{signal}: {status} {lines:#?}");
        // The read would have been logged when it timed out.
        assert!(
            matches!(&lines[..], [line] if line.contains("stopping; a second signal aborts")),
            "{lines:#?}"
        );
    }
}

#[tokio::test]
async fn a_log_that_nobody_reads_stops_neither_the_reads_nor_the_end_and_tells_what_was_lost() {
    let (address, requests) = support::counting(|_| "x".repeat(250)).await;
    let variables: Vec<(String, String)> = (0..50)
        .map(|n| (format!("{VARIABLE}_{n:06X}"), format!("{address}/{n}")))
        .collect();
    let variables: Vec<(&str, &str)> = (variables.iter())
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    let mut unread = Binary::standalone(&variables, &["--interval", "100ms"]);
    // A pipe holds 64 KiB, 200 lines of these, and as many may wait in the broker.
    support::grpc::until(async || requests.load(Ordering::SeqCst) > 2_000).await;
    // Now somebody reads again.
    unread.line_with("log lines could not be written)").await;
    let before = requests.load(Ordering::SeqCst);
    support::grpc::until(async || requests.load(Ordering::SeqCst) > before + 1_000).await;
    unread.signal("TERM").await;
    let (status, _) = unread.end_unread().await;
    assert_eq!(status.code(), Some(0));
}
