//! The real `grpc-broker`: what it needs, and how it ends.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod support;

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use akri_proto::http::device_service_client::DeviceServiceClient;
use support::{
    Binary, VARIABLE, device,
    grpc::{Broker, every, next, next_value, read},
    healthy,
    raw::Raw,
};
use tonic::Code;

/// A broker of `devices`, and where it listens.
async fn started(variables: &[(&str, &str)]) -> (Binary, String) {
    let mut broker = Binary::grpc_broker(variables, &["--grpc_endpoint=127.0.0.1:0"]);
    let line = broker.line_with("serving ").await;
    let address = line.rsplit(' ').next().unwrap().to_owned();
    (broker, format!("http://{address}"))
}

#[tokio::test]
async fn an_error_at_the_start_is_one_line_and_a_status_whatever_is_logged() {
    let valid = (VARIABLE, "device:80");
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = listener.local_addr().unwrap().to_string();
    for (variables, arguments, status, parts) in [
        (
            vec![],
            vec![],
            1,
            vec!["no device: set AKRI_HTTP_DEVICE_ENDPOINT "],
        ),
        (
            vec![(VARIABLE, "ftp://a:secret@b")],
            vec![],
            1,
            vec!["AKRI_HTTP_DEVICE_ENDPOINT ", "http or https"],
        ),
        (
            vec![valid, ("GRPC_ENDPOINT", "localhost")],
            vec![],
            2,
            vec![
                "--grpc_endpoint",
                "GRPC_ENDPOINT",
                "'localhost'",
                "ADDRESS:PORT",
            ],
        ),
        (
            vec![valid, ("GRPC_ENDPOINT", &*taken)],
            vec![],
            1,
            vec!["GRPC_ENDPOINT=127.0.0.1:", "in use"],
        ),
        (
            vec![valid],
            vec!["--min-interval", "1ms"],
            2,
            vec!["--min-interval", "MIN_INTERVAL", "'1ms'", "100ms to 24h"],
        ),
        (
            vec![valid, ("MAX_READS", "0")],
            vec![],
            2,
            vec!["--max-reads", "MAX_READS", "'0'", "1..=1024"],
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
            let (ended, lines) = Binary::grpc_broker(&variables, &arguments).end().await;
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
async fn all_good_devices_of_the_pod_are_served() {
    let (a, b) = (
        healthy("a").await.to_string(),
        healthy("b").await.to_string(),
    );
    let variables = [
        (VARIABLE, &*b),
        ("AKRI_HTTP_DEVICE_ENDPOINT_0000AA", &*a),
        ("AKRI_HTTP_DEVICE_ENDPOINT_0000BB", &*b),
        ("AKRI_HTTP_DEVICE_ENDPOINT_0000CC", "http://bad:port"),
    ];
    let (_broker, address) = started(&variables).await;
    let mut client = DeviceServiceClient::connect(address).await.unwrap();
    let answer = client
        .list_devices(akri_proto::http::ListDevicesRequest {})
        .await
        .unwrap();
    let mut known = [a, b];
    known.sort();
    let listed: Vec<String> = answer
        .into_inner()
        .devices
        .into_iter()
        .map(|device| device.endpoint)
        .collect();
    assert_eq!(listed, known);
}

#[tokio::test]
async fn a_signal_ends_the_streams_and_cuts_off_a_call_that_does_not_end() {
    for signal in ["TERM", "INT"] {
        let good = healthy("1").await.to_string();
        let (mut broker, address) = started(&[(VARIABLE, &good)]).await;
        let mut client = DeviceServiceClient::connect(address.clone()).await.unwrap();
        let watch = client.watch_sensor(every(Duration::from_secs(60))).await;
        let mut stream = watch.unwrap().into_inner();
        next_value(&mut stream).await;
        // A call whose message never comes: by itself it would end after 15 s.
        let mut call = Raw::connect(address.trim_start_matches("http://"), 65_535).await;
        call.begin(1, "/http.DeviceService/ReadSensor").await;
        call.answered_ping().await;
        broker.signal(signal).await;
        let end = next(&mut stream).await.unwrap_err();
        assert_eq!(end.code(), Code::Unavailable);
        broker
            .line_with("still open 3s after the stop, and are cut off")
            .await;
        let (status, lines) = broker.end().await;
        assert_eq!(status.code(), Some(0), "{lines:#?}");
    }
}

#[tokio::test]
async fn a_read_that_ends_in_time_is_answered_while_it_stops() {
    let (asked, mut was_asked) = tokio::sync::mpsc::channel(10);
    let leave = std::sync::Arc::new(tokio::sync::Semaphore::new(0));
    let given = leave.clone();
    let slow = device(move |head, stream| {
        let (asked, given) = (asked.clone(), given.clone());
        async move {
            if head.starts_with("GET /slow ") {
                asked.send(()).await.unwrap();
                given.acquire().await.unwrap().forget();
            }
            support::send(
                stream,
                b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n1".to_vec(),
            )
            .await;
        }
    })
    .await;
    let broker = Broker::start(&[&slow.to_string()]).await;
    let mut client = broker.client().await;
    let reading = tokio::spawn(async move { read(&mut client, "/slow").await });
    was_asked.recv().await.unwrap();
    broker.stop.cancel();
    leave.add_permits(1);
    assert_eq!(reading.await.unwrap().unwrap().value, "1");
    broker.running.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_second_signal_aborts() {
    let (asked, mut was_asked) = tokio::sync::mpsc::channel(10);
    let slow = device(move |head, stream| {
        let asked = asked.clone();
        async move {
            if head.starts_with("GET /x ") {
                asked.send(()).await.unwrap();
            }
            std::future::pending::<()>().await;
            drop(stream);
        }
    })
    .await
    .to_string();
    let (mut broker, address) = started(&[(VARIABLE, &slow)]).await;
    let mut client = DeviceServiceClient::connect(address).await.unwrap();
    let reading = tokio::spawn(async move { read(&mut client, "/x").await });
    was_asked.recv().await.unwrap();
    // A call is under way, so one signal does not end it at once.
    broker.signal("TERM").await;
    broker.line_with("stopping").await;
    broker.signal("TERM").await;
    let (status, lines) = broker.end().await;
    assert_eq!(status.code(), Some(1), "{lines:#?}");
    reading.await.unwrap().unwrap_err();
}

#[tokio::test]
async fn nothing_goes_on_when_it_is_dropped() {
    let address = healthy("1").await.to_string();
    let broker = Broker::start(&[&address]).await;
    let mut stream = broker.watch(every(Duration::from_millis(100))).await;
    next_value(&mut stream).await;
    broker.running.abort();
    while next(&mut stream).await.is_ok() {}
    assert!(
        tokio::net::TcpStream::connect(broker.address)
            .await
            .is_err()
    );
}

#[tokio::test]
async fn a_device_that_flaps_does_not_fill_the_log() {
    let requests = AtomicUsize::new(0);
    let flapping = device(move |_, stream| {
        let status = match requests.fetch_add(1, Ordering::SeqCst) % 2 {
            0 => "500 Internal Server Error",
            _ => "200 OK",
        };
        let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 1\r\n\r\n1");
        support::send(stream, answer.into())
    })
    .await
    .to_string();
    let (broker, address) = started(&[(VARIABLE, &flapping)]).await;
    let mut client = DeviceServiceClient::connect(address).await.unwrap();
    for _ in 0..200 {
        let _ = read(&mut client, "").await;
    }
    broker.signal("TERM").await;
    let (_, lines) = broker.end().await;
    let told = lines.iter().filter(|line| line.contains(&flapping)).count();
    // Ten at once, then one in ten seconds, instead of 200.
    assert!((1..100).contains(&told), "{lines:#?}");
}
