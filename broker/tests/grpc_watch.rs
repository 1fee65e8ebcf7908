//! `WatchSensor` over real sockets. When a device is read is tested in `watch`, under paused time.

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

use akri_proto::http::{
    WatchSensorRequest, device_service_client::DeviceServiceClient, watch_sensor_response::Outcome,
};
use support::{
    counting, device,
    grpc::{Broker, every, next, next_value},
    send,
};
use tonic::{Code, Request, transport::Channel};

const SHORT: Duration = Duration::from_millis(100);

#[tokio::test]
async fn each_reading_of_a_watch_is_a_new_one() {
    let (address, _) = counting(|n| n.to_string()).await;
    let broker = Broker::start(&[&address.to_string()]).await;
    let mut stream = broker.watch(every(SHORT)).await;
    let first: u32 = next_value(&mut stream).await.parse().unwrap();
    for n in 1..=5 {
        assert_eq!(next_value(&mut stream).await, (first + n).to_string());
    }
}

#[tokio::test]
async fn a_failure_of_the_device_is_a_message_in_the_stream_and_not_its_end() {
    let requests = AtomicUsize::new(0);
    let address = device(move |_, stream| {
        let status = match requests.fetch_add(1, Ordering::SeqCst) {
            2..5 => "500 Internal Server Error",
            _ => "200 OK",
        };
        send(
            stream,
            format!("HTTP/1.1 {status}\r\ncontent-length: 1\r\n\r\n1").into(),
        )
    })
    .await;
    let broker = Broker::start(&[&address.to_string()]).await;
    let mut stream = broker.watch(every(SHORT)).await;
    let mut failures = Vec::new();
    loop {
        match next(&mut stream).await.unwrap() {
            Outcome::Failure(failure) => failures.push(failure),
            Outcome::Reading(_) if failures.is_empty() => {}
            Outcome::Reading(_) => break,
        }
    }
    assert_eq!(failures.len(), 3);
    for failure in &failures {
        assert_eq!(failure.code, Code::Unavailable as i32);
        assert_eq!(failure.message, "answered 500 Internal Server Error");
        assert_eq!(failure.since, failures[0].since);
    }
    next_value(&mut stream).await;
}

#[tokio::test]
async fn a_slow_caller_holds_two_readings_at_most_and_then_gets_a_new_one() {
    // Larger than the window of a stream, so that a reading that is not taken stays with the broker.
    let (address, _) = counting(|n| format!("{}{n}", " ".repeat(200_000))).await;
    let broker = Broker::start(&[&address.to_string()]).await;
    let channel = Channel::from_shared(format!("http://{}", broker.address)).unwrap();
    let channel = channel.initial_stream_window_size(65_535).connect().await;
    let mut slow = DeviceServiceClient::new(channel.unwrap());
    let mut slow = slow.watch_sensor(every(SHORT)).await.unwrap().into_inner();
    let mut quick = broker.watch(every(SHORT)).await;
    let mut newest = 0;
    while newest < 20 {
        newest = next_value(&mut quick).await.trim().parse().unwrap();
    }
    // One was on its way, and the next one had been read to follow it.
    for _ in 0..2 {
        next_value(&mut slow).await;
    }
    let third: u32 = next_value(&mut slow).await.trim().parse().unwrap();
    assert!(third >= newest, "{third} after {newest}");
}

#[tokio::test]
async fn a_stream_ends_at_the_deadline_of_its_call() {
    let (address, _) = counting(|n| n.to_string()).await;
    let broker = Broker::start(&[&address.to_string()]).await;
    let mut request = Request::new(every(SHORT));
    // Not with `set_timeout`, so that it is the broker that ends the stream.
    let timeout = "2S".parse().unwrap();
    request.metadata_mut().insert("grpc-timeout", timeout);
    let watch = broker.client().await.watch_sensor(request).await;
    let mut stream = watch.unwrap().into_inner();
    let status = loop {
        if let Err(status) = next(&mut stream).await {
            break status;
        }
    };
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
}

#[tokio::test]
async fn a_request_that_breaks_a_rule_is_invalid() {
    let (address, _) = counting(|n| n.to_string()).await;
    let broker = Broker::start(&[&address.to_string()]).await;
    let mut client = broker.client().await;
    let negative = prost_types::Duration {
        seconds: -1,
        nanos: 0,
    };
    for (request, field) in [
        (
            WatchSensorRequest {
                name: "//evil".to_owned(),
                ..every(SHORT)
            },
            "name must ",
        ),
        (every(Duration::from_secs(86_401)), "interval must "),
        (
            WatchSensorRequest {
                interval: Some(negative),
                ..Default::default()
            },
            "interval must ",
        ),
        (
            WatchSensorRequest {
                min_change: Some(-1.0),
                ..every(SHORT)
            },
            "min_change must ",
        ),
        (
            WatchSensorRequest {
                min_change: Some(f64::NAN),
                ..every(SHORT)
            },
            "min_change must ",
        ),
        (
            WatchSensorRequest {
                min_change: Some(f64::INFINITY),
                ..every(SHORT)
            },
            "min_change must ",
        ),
    ] {
        let status = client.watch_sensor(request).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().starts_with(field), "{status}");
    }
    let request = WatchSensorRequest {
        endpoint: "other".to_owned(),
        ..every(SHORT)
    };
    assert_eq!(
        client.watch_sensor(request).await.unwrap_err().code(),
        Code::NotFound
    );
}
