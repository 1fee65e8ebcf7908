//! Calls that share a read, and how many reads run at once.

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
    time::Duration,
};

use akri_http_proto::http::ReadSensorRequest;
use support::{
    device,
    grpc::{Broker, read, until},
    send,
};
use tokio::{sync::Semaphore, task::JoinSet};
use tonic::{Code, Request};

/// A device that answers each request with its number once it gets leave, and counts those that wait at
/// once.
struct Held {
    address: String,
    leave: Arc<Semaphore>,
    requests: Arc<AtomicUsize>,
    most_at_once: Arc<AtomicUsize>,
}

async fn held() -> Held {
    let leave = Arc::new(Semaphore::new(0));
    let (requests, at_once, most_at_once) = (
        Arc::new(AtomicUsize::new(0)),
        Arc::new(AtomicUsize::new(0)),
        Arc::new(AtomicUsize::new(0)),
    );
    let address = device({
        let (leave, requests, most) = (leave.clone(), requests.clone(), most_at_once.clone());
        move |_, stream| {
            let (leave, at_once, most) = (leave.clone(), at_once.clone(), most.clone());
            let number = requests.fetch_add(1, Ordering::SeqCst);
            async move {
                most.fetch_max(at_once.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                leave.acquire().await.unwrap().forget();
                at_once.fetch_sub(1, Ordering::SeqCst);
                let body = format!("{number:03}");
                let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n{body}");
                send(stream, answer.into()).await;
            }
        }
    })
    .await
    .to_string();
    Held {
        address,
        leave,
        requests,
        most_at_once,
    }
}

async fn calls(broker: &Broker, count: usize) -> JoinSet<Result<String, tonic::Status>> {
    let client = broker.client().await;
    let mut calls = JoinSet::new();
    for _ in 0..count {
        let mut client = client.clone();
        calls.spawn(async move { read(&mut client, "").await.map(|reading| reading.value) });
    }
    calls
}

#[tokio::test]
async fn calls_that_come_during_a_read_share_it() {
    let device = held().await;
    let broker = Broker::start(&[&device.address]).await;
    // The read at the start is under way.
    until(async || device.requests.load(Ordering::SeqCst) == 1).await;
    let calls = calls(&broker, 50).await;
    // All have arrived when a later one on the same connection has been answered.
    let invalid = read(&mut broker.client().await, "x").await;
    assert!(invalid.is_err());
    tokio::time::sleep(Duration::from_millis(100)).await;
    device.leave.add_permits(1000);
    let values: Vec<String> = calls
        .join_all()
        .await
        .into_iter()
        .map(Result::unwrap)
        .collect();
    // One that came late has read once more.
    let first = values.iter().filter(|value| *value == "000").count();
    assert!(first >= 40, "{values:?}");
    assert!(device.requests.load(Ordering::SeqCst) <= 3);
    assert_eq!(device.most_at_once.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_later_call_gets_a_read_of_its_own() {
    let device = held().await;
    device.leave.add_permits(1000);
    let broker = Broker::start(&[&device.address]).await;
    let mut client = broker.client().await;
    let mut last = String::new();
    for _ in 0..5 {
        let value = read(&mut client, "").await.unwrap().value;
        assert!(value > last);
        last = value;
    }
}

#[tokio::test]
async fn a_caller_who_leaves_takes_nothing_from_the_others() {
    let device = held().await;
    let broker = Broker::start(&[&device.address]).await;
    until(async || device.requests.load(Ordering::SeqCst) == 1).await;
    device.leave.add_permits(1);
    until(async || broker.read("/x").await.is_err() || device.leave.available_permits() == 0).await;

    let mut client = broker.client().await;
    let mut request = Request::new(ReadSensorRequest::default());
    request.set_timeout(Duration::from_millis(300));
    let before = device.requests.load(Ordering::SeqCst);
    let leaving = tokio::spawn(async move { client.read_sensor(request).await });
    until(async || device.requests.load(Ordering::SeqCst) > before).await;
    let staying = calls(&broker, 3).await;
    leaving.await.unwrap().unwrap_err();
    device.leave.add_permits(1000);
    for value in staying.join_all().await {
        value.unwrap();
    }
    assert_eq!(device.requests.load(Ordering::SeqCst), before + 1);
}

#[tokio::test]
async fn without_sharing_each_call_reads_but_not_more_at_once_than_allowed() {
    let device = held().await;
    let broker = Broker::with(&[&device.address], |config| {
        config.shared_reads = false;
        config.max_reads = 3;
    })
    .await;
    let calls = calls(&broker, 20).await;
    until(async || device.most_at_once.load(Ordering::SeqCst) == 3).await;
    device.leave.add_permits(1000);
    let mut values: Vec<String> = calls
        .join_all()
        .await
        .into_iter()
        .map(Result::unwrap)
        .collect();
    values.sort();
    values.dedup();
    assert_eq!(values.len(), 20);
    assert_eq!(device.most_at_once.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn a_read_that_finds_no_room_is_resource_exhausted() {
    let device = held().await;
    let broker = Broker::with(&[&device.address], |config| config.max_reads = 1).await;
    until(async || device.requests.load(Ordering::SeqCst) == 1).await;
    // The read of the start holds the only room until it times out; then another one takes it.
    let mut paths = JoinSet::new();
    for n in 0..3 {
        let mut client = broker.client().await;
        paths.spawn(async move {
            read(&mut client, &format!("/{n}"))
                .await
                .unwrap_err()
                .code()
        });
    }
    let codes = paths.join_all().await;
    assert!(codes.contains(&Code::ResourceExhausted), "{codes:?}");
}

#[tokio::test]
async fn a_read_that_nobody_waits_for_is_not_begun() {
    let device = held().await;
    let broker = Broker::with(&[&device.address], |config| config.max_reads = 1).await;
    until(async || device.requests.load(Ordering::SeqCst) == 1).await;
    for n in 0..100 {
        let mut request = Request::new(ReadSensorRequest {
            name: format!("/{n}"),
            ..Default::default()
        });
        request.set_timeout(Duration::from_millis(5));
        let mut client = broker.client().await;
        client.read_sensor(request).await.unwrap_err();
    }
    device.leave.add_permits(1000);
    read(&mut broker.client().await, "/x").await.unwrap();
    // The broker may not have heard yet that the last one left.
    assert!(device.requests.load(Ordering::SeqCst) <= 4);
}

#[tokio::test]
async fn a_slow_device_does_not_hold_up_another() {
    let (slow, good) = (held().await, held().await);
    good.leave.add_permits(1000);
    let broker = Broker::with(&[&slow.address, &good.address], |config| {
        config.max_reads = 1
    })
    .await;
    let waiting = calls(&broker, 100).await;
    let mut client = broker.client().await;
    for _ in 0..20 {
        let request = ReadSensorRequest {
            name: String::new(),
            endpoint: good.address.clone(),
        };
        client.read_sensor(request).await.unwrap();
    }
    assert_eq!(waiting.len(), 100);
    slow.leave.add_permits(1000);
    waiting.join_all().await;
}
