//! `WatchSensor` over real sockets.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod support;

use std::{
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use akri_http_proto::http::{
    WatchSensorRequest, WatchSensorResponse, watch_sensor_response::Outcome,
};
use support::{
    counting, device,
    grpc::{Broker, every, next, next_failure, next_value},
    send,
};
use tonic::{Code, Request, Streaming};

const SHORT: Duration = Duration::from_millis(100);

#[tokio::test]
async fn a_reading_comes_at_once_and_then_at_the_interval() {
    let (address, requests) = counting(|n| n.to_string()).await;
    let broker = Broker::start(&[&address.to_string()]).await;
    let started = Instant::now();
    let mut stream = broker.watch(every(Duration::from_millis(400))).await;
    let first: u32 = next_value(&mut stream).await.parse().unwrap();
    assert!(started.elapsed() < Duration::from_millis(400));
    for n in 1..=3 {
        assert_eq!(next_value(&mut stream).await, (first + n).to_string());
    }
    assert!(started.elapsed() >= Duration::from_millis(1200));
    assert!(requests.load(Ordering::SeqCst) <= 5);
}

#[tokio::test]
async fn the_interval_is_never_shorter_than_the_brokers_minimum() {
    let (address, _) = counting(|n| n.to_string()).await;
    let broker = Broker::with(&[&address.to_string()], |config| {
        config.min_interval = Duration::from_millis(300);
    })
    .await;
    for request in [every(Duration::ZERO), every(Duration::from_millis(1))] {
        let mut stream = broker.watch(request).await;
        let started = Instant::now();
        for _ in 0..4 {
            next_value(&mut stream).await;
        }
        // The first may be one that was there already.
        assert!(started.elapsed() >= Duration::from_millis(600));
    }
}

/// Takes readings from each of the streams for a second and a half.
async fn take_all(streams: Vec<Streaming<WatchSensorResponse>>) -> Duration {
    let started = Instant::now();
    let readings = streams.into_iter().map(|mut stream| {
        tokio::spawn(async move {
            while started.elapsed() < Duration::from_millis(1500) {
                next_value(&mut stream).await;
            }
        })
    });
    for watcher in readings.collect::<Vec<_>>() {
        watcher.await.unwrap();
    }
    started.elapsed()
}

#[tokio::test]
async fn all_watchers_of_a_path_share_its_reads() {
    let (address, requests) = counting(|n| n.to_string()).await;
    let broker = Broker::start(&[&address.to_string()]).await;
    let mut streams = Vec::new();
    for _ in 0..20 {
        let mut stream = broker.watch(every(SHORT * 3)).await;
        next_value(&mut stream).await;
        streams.push(stream);
        // They begin at all times of the interval.
        tokio::time::sleep(Duration::from_millis(37)).await;
    }
    let before = requests.load(Ordering::SeqCst);
    let elapsed = take_all(streams).await;
    let reads = requests.load(Ordering::SeqCst) - before;
    let intervals = elapsed.as_millis() / 300;
    // Those that began last may still have to fall into step.
    assert!(
        reads as u128 <= intervals + 3,
        "{reads} reads in {elapsed:?}"
    );
}

#[tokio::test]
async fn all_watchers_together_read_no_more_often_than_the_brokers_minimum() {
    let (address, requests) = counting(|n| n.to_string()).await;
    let broker = Broker::with(&[&address.to_string()], |config| {
        config.min_interval = SHORT * 3;
    })
    .await;
    let mut streams = Vec::new();
    for n in 0..30 {
        let interval = SHORT * 3 + Duration::from_millis(11) * n;
        streams.push(broker.watch(every(interval)).await);
    }
    let before = requests.load(Ordering::SeqCst);
    let elapsed = take_all(streams).await;
    let reads = requests.load(Ordering::SeqCst) - before;
    let most = elapsed.as_millis() / 300 + 1;
    assert!(reads as u128 <= most, "{reads} reads in {elapsed:?}");
}

#[tokio::test]
async fn a_failing_device_is_a_status_in_the_stream_and_not_its_end() {
    let requests = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
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
async fn with_a_least_change_only_changes_are_sent() {
    let values = ["1", "1.5", "2", "2.0", "x", "x", "y", "1", "1"];
    let (address, _) = counting(move |n| values[n.min(values.len() - 1)].to_owned()).await;
    let broker = Broker::with(&[&address.to_string()], |_| {}).await;
    let mut stream = broker
        .watch(WatchSensorRequest {
            min_change: Some(0.9),
            ..every(SHORT)
        })
        .await;
    let mut seen = Vec::new();
    while seen.len() < 5 {
        seen.push(next_value(&mut stream).await);
    }
    assert_eq!(seen, ["1", "2", "x", "y", "1"]);
    let more = tokio::time::timeout(SHORT * 5, stream.message()).await;
    assert!(more.is_err(), "{more:?}");
}

#[tokio::test]
async fn with_a_least_change_a_failure_is_sent_when_it_begins_or_changes() {
    let requests = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let address = device(move |_, stream| {
        let status = match requests.fetch_add(1, Ordering::SeqCst) {
            0..5 => "500 Internal Server Error",
            5..10 => "404 Not Found",
            _ => "200 OK",
        };
        send(
            stream,
            format!("HTTP/1.1 {status}\r\ncontent-length: 1\r\n\r\n1").into(),
        )
    })
    .await;
    let broker = Broker::start(&[&address.to_string()]).await;
    let mut stream = broker
        .watch(WatchSensorRequest {
            min_change: Some(1000.0),
            ..every(SHORT)
        })
        .await;
    assert!(next_failure(&mut stream).await.message.contains("500"));
    assert!(next_failure(&mut stream).await.message.contains("404"));
    assert_eq!(next_value(&mut stream).await, "1");
}

#[tokio::test]
async fn a_slow_watcher_misses_readings_but_not_the_newest() {
    // Large values, so that few fit into what the network holds on its way.
    let (address, requests) = counting(|n| format!("{}{n}", " ".repeat(200_000))).await;
    let broker = Broker::start(&[&address.to_string()]).await;
    let mut slow = broker.watch(every(SHORT)).await;
    let mut quick = broker.watch(every(SHORT)).await;
    while requests.load(Ordering::SeqCst) < 40 {
        next_value(&mut quick).await;
    }
    let mut last = 0;
    let mut steps = Vec::new();
    for _ in 0..40 {
        let value: usize = next_value(&mut slow).await.trim().parse().unwrap();
        steps.push(value - last);
        last = value;
        if value >= 40 {
            break;
        }
    }
    assert!(
        last >= 40 && steps.iter().any(|step| *step > 10),
        "{steps:?}"
    );
}

#[tokio::test]
async fn a_stream_ends_at_the_deadline_of_its_call() {
    let (address, _) = counting(|n| n.to_string()).await;
    let broker = Broker::start(&[&address.to_string()]).await;
    let mut request = Request::new(every(SHORT));
    request
        .metadata_mut()
        .insert("grpc-timeout", "450m".parse().unwrap());
    let mut stream = broker
        .client()
        .await
        .watch_sensor(request)
        .await
        .unwrap()
        .into_inner();
    let started = Instant::now();
    let status = loop {
        if let Err(status) = next(&mut stream).await {
            break status;
        }
    };
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
    assert!(started.elapsed() < Duration::from_secs(4));
}

#[tokio::test]
async fn what_cannot_be_watched_is_invalid() {
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
            "name: ",
        ),
        (every(Duration::from_secs(86_401)), "interval: "),
        (
            WatchSensorRequest {
                interval: Some(negative),
                ..Default::default()
            },
            "interval: ",
        ),
        (
            WatchSensorRequest {
                min_change: Some(-1.0),
                ..every(SHORT)
            },
            "min_change: ",
        ),
        (
            WatchSensorRequest {
                min_change: Some(f64::NAN),
                ..every(SHORT)
            },
            "min_change: ",
        ),
        (
            WatchSensorRequest {
                min_change: Some(f64::INFINITY),
                ..every(SHORT)
            },
            "min_change: ",
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
