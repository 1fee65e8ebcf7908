//! Clients that take all they can get: what the broker refuses them, and that it serves the others.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod support;

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use akri_http_broker::grpc::{CALLS, CONNECTIONS, WATCHES};
use akri_proto::http::{ListDevicesRequest, ReadSensorRequest};
use support::{
    PATIENCE,
    grpc::{Broker, every, next_value, read, until},
    hanging, healthy,
    raw::{self, Raw},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    task::JoinSet,
    time::timeout,
};
use tonic::{Code, Request};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

const READ: &str = "/http.DeviceService/ReadSensor";
const WATCH: &str = "/http.DeviceService/WatchSensor";

/// Larger than what the broker keeps of small answers for a slow caller.
const LARGE: usize = 20_000;

/// Reads by somebody else.
async fn others_read(broker: &Broker, value: &str) {
    let mut client = broker.client().await;
    for _ in 0..10 {
        assert_eq!(read(&mut client, "").await.unwrap().value, value);
    }
}

/// A watch by somebody else.
async fn others_watch(broker: &Broker) {
    let mut stream = broker.watch(every(Duration::from_millis(100))).await;
    for _ in 0..3 {
        assert_eq!(next_value(&mut stream).await, "1");
    }
}

async fn others_get_health(broker: &Broker) {
    let mut client = HealthClient::new(broker.channel().await);
    for _ in 0..10 {
        let check = client.check(HealthCheckRequest::default());
        let answer = timeout(PATIENCE, check).await.unwrap().unwrap();
        assert_eq!(answer.into_inner().status(), ServingStatus::Serving);
    }
}

#[tokio::test]
async fn one_connection_gets_100_streams_and_is_closed_if_it_floods() {
    let broker = Broker::start(&[&healthy("1").await.to_string()]).await;
    let hostile = Raw::connect(broker.address, 65_535).await;
    let (reads, mut writes) = hostile.0.into_split();
    let flood = tokio::spawn(async move {
        for n in 0..20_000 {
            let stream = 2 * n + 1;
            let frames = [raw::call(stream, WATCH), raw::empty_message(stream)];
            let bytes: Vec<u8> = frames.iter().flat_map(raw::Frame::bytes).collect();
            if writes.write_all(&bytes).await.is_err() {
                return;
            }
        }
        panic!("the broker took all of it");
    });
    let mut reads = raw::Reads(reads);
    let (mut answered, mut refused) = (BTreeSet::new(), 0);
    while let Some(frame) = reads.frame().await {
        match frame.kind {
            raw::HEADERS => drop(answered.insert(frame.stream)),
            raw::RESET if frame.error_code() == raw::REFUSED_STREAM => refused += 1,
            _ => {}
        }
    }
    flood.await.unwrap();
    assert!(
        answered.len() <= 100 && refused > 0,
        "{} {refused}",
        answered.len()
    );
    others_read(&broker, "1").await;
    others_watch(&broker).await;
}

#[tokio::test]
async fn calls_that_are_reset_at_once_close_the_connection() {
    let broker = Broker::start(&[&healthy("1").await.to_string()]).await;
    let mut hostile = Raw::connect(broker.address, 65_535).await;
    // In one piece, so that the broker sees each reset before it has taken the call.
    let calls = (0..500).map(|n| 2 * n + 1);
    let flood: Vec<_> = calls
        .flat_map(|n| [raw::call(n, READ), raw::reset(n)])
        .collect();
    hostile.send(&flood).await.unwrap();
    let mut end = None;
    while let Some(frame) = hostile.frame().await {
        if frame.kind == raw::GO_AWAY {
            end = Some(frame.error_code());
        }
    }
    assert_eq!(end, Some(raw::ENHANCE_YOUR_CALM));
    others_read(&broker, "1").await;
}

#[tokio::test]
async fn watches_over_the_limit_are_refused_and_everything_else_goes_on() {
    let broker = Broker::start(&[&healthy("1").await.to_string()]).await;
    let (mut watches, mut refused) = (Vec::new(), 0);
    for _ in 0..6 {
        let mut client = broker.client().await;
        for _ in 0..100 {
            match client.watch_sensor(every(Duration::from_secs(60))).await {
                Ok(stream) => watches.push(stream.into_inner()),
                Err(status) => {
                    assert_eq!(status.code(), Code::ResourceExhausted);
                    refused += 1;
                }
            }
        }
    }
    assert_eq!((watches.len(), refused), (WATCHES, 600 - WATCHES));
    others_read(&broker, "1").await;
    others_get_health(&broker).await;
    // Each watch that ends makes room for another one.
    watches.truncate(WATCHES - 1);
    let mut client = broker.client().await;
    until(async || {
        client
            .clone()
            .watch_sensor(every(Duration::from_secs(60)))
            .await
            .is_ok()
    })
    .await;
    drop(watches);
    client.list_devices(ListDevicesRequest {}).await.unwrap();
}

#[tokio::test]
async fn a_thousand_watches_that_are_not_read_do_not_make_other_answers_fail() {
    let large = format!("1{}", " ".repeat(LARGE));
    let broker = Broker::start(&[&healthy(&large).await.to_string()]).await;
    let mut hostile = Vec::new();
    for _ in 0..10 {
        let mut connection = Raw::connect(broker.address, 1).await;
        for n in 0..100 {
            connection.call(2 * n + 1, WATCH).await;
        }
        hostile.push(connection);
    }
    // All have arrived when there is no room for one more.
    until(async || {
        let watch = broker
            .client()
            .await
            .watch_sensor(every(Duration::from_secs(60)))
            .await;
        watch.is_err_and(|status| status.code() == Code::ResourceExhausted)
    })
    .await;
    others_read(&broker, &large).await;
    others_get_health(&broker).await;
    drop(hostile);
    until(async || {
        let watch = broker
            .client()
            .await
            .watch_sensor(every(Duration::from_secs(60)))
            .await;
        watch.is_ok()
    })
    .await;
}

#[tokio::test]
async fn a_deadline_ends_a_watch_that_is_not_read_with_its_connection() {
    let broker = Broker::start(&[&healthy("1").await.to_string()]).await;
    let mut hostile = Raw::connect(broker.address, 0).await;
    let deadline = Some(("grpc-timeout", "200m"));
    for frame in [raw::call_with(1, WATCH, deadline), raw::empty_message(1)] {
        hostile.0.write_all(&frame.bytes()).await.unwrap();
    }
    let mut reads = raw::Reads(&mut hostile.0);
    let mut answered = false;
    while let Some(frame) = reads.frame().await {
        answered |= frame.kind == raw::HEADERS;
        assert_ne!(frame.kind, raw::DATA);
    }
    assert!(answered);
    others_watch(&broker).await;
}

#[tokio::test]
async fn answers_that_are_not_read_do_not_make_other_answers_fail() {
    let large = format!("1{}", " ".repeat(LARGE));
    let broker = Broker::start(&[&healthy(&large).await.to_string()]).await;
    let mut hostile = Vec::new();
    for _ in 0..10 {
        let mut connection = Raw::connect(broker.address, 1).await;
        for n in 0..100 {
            connection.call(2 * n + 1, READ).await;
        }
        hostile.push(connection);
    }
    for connection in &mut hostile {
        connection.answered_ping().await;
    }
    // The broker may still be busy with some of them.
    until(async || broker.read("").await.is_ok()).await;
    others_read(&broker, &large).await;
}

#[tokio::test]
async fn calls_over_the_limit_are_refused_and_health_and_watches_go_on() {
    let (good, slow) = (healthy("1").await.to_string(), hanging().await.to_string());
    let broker = Broker::start(&[&good, &slow]).await;
    let refused = Arc::new(AtomicUsize::new(0));
    let mut calls = JoinSet::new();
    for _ in 0..8 {
        let client = broker.client().await;
        for _ in 0..100 {
            let (mut client, refused) = (client.clone(), refused.clone());
            let endpoint = slow.clone();
            calls.spawn(async move {
                loop {
                    let request = ReadSensorRequest {
                        endpoint: endpoint.clone(),
                        ..Default::default()
                    };
                    let status = client.read_sensor(request).await.unwrap_err();
                    if status.code() == Code::ResourceExhausted {
                        refused.fetch_add(1, Ordering::SeqCst);
                        tokio::time::sleep(Duration::from_millis(200)).await;
                    }
                }
            });
        }
    }
    assert!(calls.len() > CALLS);
    until(async || refused.load(Ordering::SeqCst) > 0).await;
    others_get_health(&broker).await;
    others_watch(&broker).await;
    calls.shutdown().await;
    until(async || broker.read("").await.is_ok()).await;
}

#[tokio::test]
async fn a_flood_of_tiny_calls_does_not_stop_other_callers() {
    let broker = Broker::start(&[&healthy("1").await.to_string()]).await;
    let answered = Arc::new(AtomicUsize::new(0));
    let mut flood = JoinSet::new();
    for _ in 0..4 {
        let client = broker.client().await;
        for _ in 0..100 {
            let (mut client, answered) = (client.clone(), answered.clone());
            flood.spawn(async move {
                loop {
                    read(&mut client, "").await.unwrap();
                    answered.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
    }
    until(async || answered.load(Ordering::SeqCst) > 400).await;
    others_read(&broker, "1").await;
    others_watch(&broker).await;
    others_get_health(&broker).await;
    assert!(flood.try_join_next().is_none());
}

#[tokio::test]
async fn connections_of_one_byte_make_room_for_callers() {
    let broker = Broker::start(&[&healthy("1").await.to_string()]).await;
    let mut hostile = Vec::new();
    for n in 0..2 * CONNECTIONS {
        let socket = TcpSocket::new_v4().unwrap();
        let from: SocketAddr = format!("127.0.0.{}:0", 1 + n % 2).parse().unwrap();
        socket.bind(from).unwrap();
        let mut connection = socket.connect(broker.address).await.unwrap();
        // One that has been closed already may refuse it.
        let _ = connection.write_all(b"P").await;
        hostile.push(connection);
    }
    others_read(&broker, "1").await;
    others_watch(&broker).await;
    // The oldest had to go. A reset is an end, too.
    let end = timeout(PATIENCE, hostile[0].read_to_end(&mut Vec::new())).await;
    assert!(end.is_ok());
}

#[tokio::test]
async fn headers_that_are_too_large_are_refused() {
    let broker = Broker::start(&[&healthy("1").await.to_string()]).await;
    let mut client = broker.client().await;
    let mut request = Request::new(ReadSensorRequest::default());
    let large = "x".repeat(100_000).parse().unwrap();
    request.metadata_mut().insert("x-large", large);
    let refused = timeout(PATIENCE, client.read_sensor(request))
        .await
        .unwrap();
    refused.unwrap_err();
    others_read(&broker, "1").await;
}

#[tokio::test]
async fn a_connection_that_is_not_http_2_is_closed() {
    let broker = Broker::start(&[&healthy("1").await.to_string()]).await;
    for bytes in [&b"GET / HTTP/1.1\r\nhost: broker\r\n\r\n"[..], &[0xff; 100]] {
        let mut hostile = TcpStream::connect(broker.address).await.unwrap();
        hostile.write_all(bytes).await.unwrap();
        // A reset is an end, too.
        let end = timeout(PATIENCE, hostile.read_to_end(&mut Vec::new())).await;
        assert!(end.is_ok());
    }
    others_read(&broker, "1").await;
}

#[tokio::test]
async fn a_silent_connection_is_closed() {
    let broker = Broker::start(&[&healthy("1").await.to_string()]).await;
    let mut silent = TcpStream::connect(broker.address).await.unwrap();
    let end = timeout(PATIENCE, silent.read_to_end(&mut Vec::new())).await;
    assert!(end.is_ok());
    others_read(&broker, "1").await;
}
