//! What is served over HTTP, to good browsers and bad ones.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod support;

use std::time::Duration;

use serde_json::Value;
use support::{Broker, PATIENCE, Page, http::get};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    time::{sleep, timeout},
};

#[tokio::test]
async fn the_page_loads_its_own_files_and_nothing_else() {
    let page = Page::start().await;
    let html = page.text("/").await;
    assert!(
        !html.contains("://") && !html.contains("style=") && !html.contains(" on"),
        "{html}"
    );
    for path in [
        "/",
        "/page.css",
        "/page.js",
        "/icon.svg",
        "/api/devices",
        "/api/events",
    ] {
        let response = get(page.address, path).await;
        assert_eq!(response.status(), 200, "{path}");
        let headers = response.headers();
        let policy = headers["content-security-policy"].to_str().unwrap();
        assert!(policy.starts_with("default-src 'none'; script-src 'self'; style-src 'self'; "));
        assert!(!policy.contains("unsafe") && !policy.contains('*'));
        assert_eq!(headers["x-content-type-options"], "nosniff");
    }
    assert_eq!(get(page.address, "/nothing").await.status(), 404);
    for path in ["/livez", "/readyz"] {
        assert_eq!(page.text(path).await, "ok\n");
    }
}

#[tokio::test]
async fn text_from_devices_and_brokers_is_never_html_and_one_short_line() {
    let names = [
        "<script>alert(1)</script>",
        "\"'><img src=x onerror=alert(1)>",
        "a\nb\r\tc\u{0}\u{1b}[31m",
        "\u{202e}gnp.exe\u{2028}",
        "äöü 測定 🌡",
    ];
    let huge = "x".repeat(2_000);
    let mut all = names.to_vec();
    all.push(&huge);
    let broker = Broker::start(&all).await;
    for name in &all {
        broker.give(
            name,
            Ok(&format!("{name}\ndata: {{}}\n\n{}", "y".repeat(12_000))),
        );
    }
    let page = Page::of(&[&broker]).await;
    let mut events = page.events().await;
    let devices = page
        .until("all devices", |devices| devices.len() == all.len())
        .await;
    for device in &devices {
        for text in [&device["device"], &device["value"]] {
            let text = text.as_str().unwrap();
            let is_harmless = |c: char| !c.is_control() && c != '\u{202e}' && c != '\u{2028}';
            assert!(text.chars().all(is_harmless), "{text}");
            assert!(text.chars().count() < 400, "{text}");
        }
    }
    let name = |wanted: &str| devices.iter().any(|device| device["device"] == wanted);
    assert!(name(names[0]) && name(r"a\nb\r\tc\u{0}\u{1b}[31m"));
    // No value ends an event.
    for name in &all {
        broker.give(name, Err(&format!("{name}\n\ndata: 1")));
    }
    events.until(|device| device["state"] == "failing").await;
    let metrics = page.text("/metrics").await;
    let lines = metrics
        .lines()
        .filter(|line| line.starts_with("akri_http_device_up{"));
    assert_eq!(lines.count(), all.len(), "{metrics}");
}

#[tokio::test]
async fn a_reading_that_is_too_long_and_a_number_that_is_none_are_states_of_their_device_alone() {
    let broker = Broker::start(&["long", "nan", "good"]).await;
    broker.give("long", Ok(&"x".repeat(17 * 1024)));
    broker.give("nan", Ok("nan"));
    let page = Page::of(&[&broker]).await;
    let devices = page
        .until("three devices", |devices| devices.len() == 3)
        .await;
    let device = |name: &str| {
        devices
            .iter()
            .find(|device| device["device"] == name)
            .unwrap()
    };
    let why = device("long")["why"].as_str().unwrap();
    assert!(why.ends_with("bytes, more than 16384"), "{why}");
    assert_eq!(device("nan")["number"], Value::Null);
    assert_eq!(device("nan")["value"], "nan");
    assert_eq!(device("good")["state"], "reading");
}

#[tokio::test]
async fn prometheus_reads_the_devices_and_their_age() {
    let broker = Broker::start(&["a", "b"]).await;
    broker.give("a", Ok("21.5"));
    broker.give("b", Err("down"));
    let page = Page::of(&[&broker]).await;
    page.until("two devices", |devices| devices.len() == 2)
        .await;
    let metrics = page.text("/metrics").await;
    let labels = |device| format!("{{device=\"{device}\",broker=\"{}\"}}", broker.address);
    for line in [
        format!("akri_http_device_up{} 1", labels("a")),
        format!("akri_http_device_up{} 0", labels("b")),
        format!("akri_http_device_reading{} 21.5", labels("a")),
        format!("akri_http_device_reading_age_seconds{} 0", labels("a")),
    ] {
        assert!(metrics.contains(&line), "{line}\n{metrics}");
    }
    assert!(!metrics.contains(&format!("device_reading{}", labels("b"))));
}

#[tokio::test]
async fn a_browser_gets_everything_first_and_then_only_what_has_changed() {
    let names: Vec<_> = (0..300)
        .map(|n| format!("device-{n}-{}", "x".repeat(200)))
        .collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    let brokers = [
        Broker::start(&names[..150]).await,
        Broker::start(&names[150..]).await,
    ];
    let page = Page::of(&[&brokers[0], &brokers[1]]).await;
    page.until("all devices", |devices| devices.len() == 300)
        .await;
    let mut events = page.events().await;
    let mut seen = 0;
    loop {
        let event = events.next().await;
        assert_eq!(event["begin"].is_object(), seen == 0);
        assert!(event.to_string().len() < 64 * 1024, "an event is small");
        seen += event["devices"].as_array().unwrap().len();
        if event["complete"] == true {
            break;
        }
    }
    assert_eq!(seen, 300);
    brokers[0].give(names[7], Ok("42"));
    let event = loop {
        let event = events.next().await;
        if !event["devices"].as_array().unwrap().is_empty() {
            break event;
        }
    };
    assert_eq!(event["devices"].as_array().unwrap().len(), 1);
    assert_eq!(event["devices"][0]["value"], "42");
    let points = event["devices"][0]["points"].as_array().unwrap();
    assert_eq!(
        points.len(),
        1,
        "what it has seen of the history is not sent again"
    );
    page.note.send_replace("now".into());
    while events.next().await["note"] != "now" {}
}

/// A browser that has asked for events, and reads what it is told to.
async fn slow_browser(page: &Page) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(8 * 1024).unwrap();
    let mut stream = socket.connect(page.address).await.unwrap();
    stream
        .write_all(b"GET /api/events HTTP/1.1\r\nHost: page\r\n\r\n")
        .await
        .unwrap();
    stream
}

#[tokio::test]
async fn a_slow_browser_gets_the_newest_state_and_no_queue() {
    let names: Vec<_> = (0..100).map(|n| format!("device-{n}")).collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    let broker = Broker::start(&names).await;
    let page = Page::of(&[&broker]).await;
    page.until("all devices", |devices| devices.len() == 100)
        .await;
    let mut slow = slow_browser(&page).await;
    let mut quick = page.events().await;
    let long = "x".repeat(250);
    let mut sent = 0;
    for round in 0..20 {
        for name in &names {
            broker.give(name, Ok(&format!("{round} {long}")));
        }
        let newest = format!("{round} ");
        let last = |device: &Value| {
            device["value"]
                .as_str()
                .unwrap_or_default()
                .starts_with(&newest)
        };
        sent += quick.until(last).await.to_string().len() * 100;
    }
    for name in &names {
        broker.give(name, Ok("the newest"));
    }
    quick.until(|device| device["value"] == "the newest").await;
    let mut received = Vec::new();
    let read = async {
        let mut piece = vec![0; 4096];
        while !String::from_utf8_lossy(&received).contains("the newest") {
            let length = slow.read(&mut piece).await.unwrap();
            assert!(length > 0, "the stream goes on");
            received.extend_from_slice(&piece[..length]);
        }
    };
    timeout(PATIENCE, read).await.unwrap();
    assert!(
        received.len() < sent / 3,
        "{} of {sent} bytes",
        received.len()
    );
}

#[tokio::test]
async fn more_pages_than_there_may_be_are_refused_and_the_others_and_probes_go_on() {
    let page = Page::start().await;
    let mut open = Vec::new();
    for _ in 0..64 {
        open.push(page.events().await);
    }
    let one_more = get(page.address, "/api/events").await;
    assert_eq!(one_more.status(), 503);
    assert_eq!(page.text("/livez").await, "ok\n");
    open.pop();
    let wait = async {
        while get(page.address, "/api/events").await.status() != 200 {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, wait)
        .await
        .expect("a page that is closed makes room");
    page.note.send_replace("still there".into());
    for events in &mut open {
        while events.next().await["note"] != "still there" {}
    }
}

#[tokio::test]
async fn connections_that_say_nothing_make_room_and_those_with_a_page_stay() {
    let page = Page::start().await;
    let mut events = page.events().await;
    let mut silent = Vec::new();
    for _ in 0..300 {
        silent.push(TcpStream::connect(page.address).await.unwrap());
    }
    assert_eq!(page.text("/readyz").await, "ok\n");
    page.note.send_replace("still there".into());
    while events.next().await["note"] != "still there" {}
}
