//! `ReadSensor` and `ListDevices` over real sockets.

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
    time::{Duration, SystemTime},
};

use akri_proto::http::{Device, ListDevicesRequest, ReadSensorRequest};
use support::{
    canned, counting, device,
    grpc::{Broker, read, until},
    hanging, healthy, nobody, send,
};
use tokio::{
    sync::{Semaphore, mpsc},
    task::JoinSet,
};
use tonic::{Code, Request, client::Grpc, codegen::http::uri::PathAndQuery};

#[tokio::test]
async fn a_reading_is_the_body_with_what_is_known_of_it() {
    let before = SystemTime::now();
    let answer = "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 5\r\n\r\n 0.5\n";
    let endpoint = format!("http://user:secret@{}/?token=secret", canned(answer).await);
    let reading = Broker::start(&[&endpoint]).await.read("/").await.unwrap();
    assert_eq!(reading.value, " 0.5\n");
    assert_eq!(reading.number, Some(0.5));
    assert_eq!(reading.content_type, "text/plain");
    assert!(
        reading.endpoint.starts_with("http://127.0.0.1:") && !reading.endpoint.contains("secret")
    );
    let read_at = SystemTime::try_from(reading.read_at.unwrap()).unwrap();
    assert!((before..=SystemTime::now()).contains(&read_at));

    let text = healthy("on").await.to_string();
    let reading = Broker::start(&[&text]).await.read("").await.unwrap();
    assert_eq!((reading.value.as_str(), reading.number), ("on", None));
    assert_eq!(reading.content_type, "");
}

/// What a client knows that was made for Akri's own interface.
mod akri {
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct ReadSensorRequest {
        #[prost(string, tag = "1")]
        pub name: String,
    }
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct ReadSensorResponse {
        #[prost(string, tag = "1")]
        pub value: String,
    }
}

#[tokio::test]
async fn a_client_of_akris_own_interface_gets_its_value() {
    let broker = Broker::start(&[&healthy("0.5").await.to_string()]).await;
    let mut client = Grpc::new(broker.channel().await);
    client.ready().await.unwrap();
    let codec =
        tonic_prost::ProstCodec::<akri::ReadSensorRequest, akri::ReadSensorResponse>::default();
    let path = PathAndQuery::from_static("/http.DeviceService/ReadSensor");
    let request = Request::new(akri::ReadSensorRequest {
        name: "/".to_owned(),
    });
    let answer = client.unary(request, path, codec).await.unwrap();
    assert_eq!(answer.into_inner().value, "0.5");
}

#[tokio::test]
async fn a_name_is_a_path_on_the_device() {
    let (heads, mut seen) = mpsc::channel(10);
    let address = device(move |head, stream| {
        let heads = heads.clone();
        async move {
            heads.send(head).await.unwrap();
            send(
                stream,
                b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n1".to_vec(),
            )
            .await;
        }
    })
    .await;
    let broker = Broker::start(&[&format!("user:pass@{address}/own?x=y")]).await;
    for (name, target) in [
        ("/sensor", "/sensor"),
        ("/a/b?unit=C", "/a/b?unit=C"),
        ("/x@evil:80/?to=//evil", "/x@evil:80/?to=//evil"),
        ("", "/own?x=y"),
        ("/", "/own?x=y"),
    ] {
        broker.read(name).await.unwrap();
        let wanted = format!("GET {target} HTTP/1.1\r\n");
        // The endpoint itself is also read when the broker starts.
        loop {
            let head = seen.recv().await.unwrap();
            assert!(
                head.contains("authorization: Basic dXNlcjpwYXNz\r\n"),
                "{head}"
            );
            if head.starts_with(&wanted) {
                break;
            }
            assert!(head.starts_with("GET /own?x=y "), "{head}");
        }
    }
}

#[tokio::test]
async fn a_name_that_would_leave_the_device_is_invalid_and_nothing_is_read() {
    let (address, requests) = counting(|_| "1".to_owned()).await;
    let evil = nobody().await;
    let broker = Broker::start(&[&address.to_string()]).await;
    let mut client = broker.client().await;
    read(&mut client, "").await.unwrap();
    let before = requests.load(Ordering::SeqCst);
    for name in [
        &format!("http://{evil}/"),
        &format!("//{evil}/"),
        &format!("@{evil}/"),
        &format!("/\\{evil}/"),
        &format!("/\t/{evil}/"),
        ":1/",
        "sensor",
        "/../../etc/passwd",
        "/%2e%2e/%2e%2e/",
        "/a\r\nHost: evil\r\n\r\nGET / HTTP/1.1",
        "/\0",
        "/#x",
        &format!("/{}", "x".repeat(3000)),
    ] {
        let status = read(&mut client, name).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{name:?}: {status}");
        assert!(status.message().starts_with("name must "), "{status}");
    }
    assert_eq!(requests.load(Ordering::SeqCst), before);
}

#[tokio::test]
async fn a_request_that_is_too_large_is_refused() {
    let broker = Broker::start(&[&healthy("1").await.to_string()]).await;
    let mut client = broker.client().await;
    assert!(read(&mut client, &"x".repeat(100_000)).await.is_err());
    read(&mut client, "").await.unwrap();
}

#[tokio::test]
async fn an_error_is_told_by_its_kind() {
    let large = format!("HTTP/1.1 200 OK\r\n\r\n{}", "x".repeat(1024 * 1024 + 1));
    let cut = "HTTP/1.1 200 OK\r\n\r\n0.5";
    for (address, code, message) in [
        (nobody().await, Code::Unavailable, "Connection refused"),
        (canned("").await, Code::Unavailable, "no complete reply"),
        (
            canned("HTTP/1.1 503 Busy\r\n\r\n").await,
            Code::Unavailable,
            "answered 503 Service Unavailable",
        ),
        (canned(cut).await, Code::Unavailable, "may be truncated"),
        (
            canned("HTTP/1.1 206 Partial Content\r\ncontent-length: 0\r\n\r\n").await,
            Code::Unavailable,
            "answered 206 Partial Content",
        ),
        (
            canned("HTTP/1.1 302 Found\r\nlocation: http://localhost/\r\n\r\n").await,
            Code::Unavailable,
            "another scheme, host or port",
        ),
        (
            canned(large).await,
            Code::FailedPrecondition,
            "longer than 1048576 bytes",
        ),
        (
            canned(*b"HTTP/1.1 200 OK\r\n\r\n\xff\n").await,
            Code::FailedPrecondition,
            "not text",
        ),
        (
            hanging().await,
            Code::DeadlineExceeded,
            "no complete reply within 5s",
        ),
    ] {
        let broker = Broker::start(&[&format!("http://user:secret@{address}/?secret")]).await;
        let status = broker.read("").await.unwrap_err();
        assert_eq!(status.code(), code, "{status}");
        assert!(status.message().contains(message), "{status}");
        assert!(status.message().contains(&address.to_string()), "{status}");
        assert!(!status.message().contains("secret"), "{status}");
    }
}

#[tokio::test]
async fn a_call_ends_at_its_deadline() {
    let broker = Broker::start(&[&hanging().await.to_string()]).await;
    let mut request = Request::new(ReadSensorRequest::default());
    request.set_timeout(Duration::from_millis(200));
    let status = broker.client().await.read_sensor(request).await;
    // tonic's client enforces the deadline as well, with another code. The broker's own status is tested in `deadline`.
    let code = status.unwrap_err().code();
    let ended = matches!(code, Code::DeadlineExceeded | Code::Cancelled);
    assert!(ended, "{code:?}");
}

/// A device that answers each request when it gets a permit, and the most requests that waited at once.
async fn held() -> (String, Arc<Semaphore>, Arc<AtomicUsize>) {
    let permits = Arc::new(Semaphore::new(0));
    let (at_once, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let address = device({
        let (permits, most) = (permits.clone(), most.clone());
        move |_, stream| {
            let (permits, at_once, most) = (permits.clone(), at_once.clone(), most.clone());
            async move {
                most.fetch_max(at_once.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                permits.acquire().await.unwrap().forget();
                at_once.fetch_sub(1, Ordering::SeqCst);
                let answer = "HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n1";
                send(stream, answer.into()).await;
            }
        }
    })
    .await;
    (address.to_string(), permits, most)
}

#[tokio::test]
async fn no_more_reads_of_a_device_run_at_once_than_allowed() {
    let (address, permits, most) = held().await;
    let broker = Broker::with(&[&address], |config| config.max_reads = 3).await;
    let mut calls = JoinSet::new();
    for n in 0..20 {
        let mut client = broker.client().await;
        calls.spawn(async move { read(&mut client, &format!("/{n}")).await });
    }
    until(async || most.load(Ordering::SeqCst) == 3).await;
    permits.add_permits(1000);
    for reading in calls.join_all().await {
        reading.unwrap();
    }
    assert_eq!(most.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn a_slow_device_does_not_hold_up_another() {
    let ((slow, permits, _), good) = (held().await, healthy("1").await.to_string());
    let broker = Broker::with(&[&slow, &good], |config| config.max_reads = 1).await;
    let mut client = broker.client().await;
    let waiting = tokio::spawn(async move { read(&mut client, "").await });
    let mut client = broker.client().await;
    for _ in 0..20 {
        let request = ReadSensorRequest {
            name: String::new(),
            endpoint: good.clone(),
        };
        client.read_sensor(request).await.unwrap();
    }
    permits.add_permits(1000);
    waiting.await.unwrap().unwrap();
}

#[tokio::test]
async fn each_device_can_be_named() {
    let (a, b) = (
        healthy("a").await.to_string(),
        healthy("b").await.to_string(),
    );
    let broker = Broker::start(&[&a, &b, &format!("{b}/?x")]).await;
    let mut client = broker.client().await;
    let shown = format!("{b}/");
    for (endpoint, value) in [("", "a"), (&*a, "a"), (&*b, "b"), (&*shown, "b")] {
        let endpoint = endpoint.to_owned();
        let request = ReadSensorRequest {
            name: String::new(),
            endpoint: endpoint.clone(),
        };
        let reading = client.read_sensor(request).await.unwrap().into_inner();
        assert_eq!(reading.value, value);
        assert!(endpoint.is_empty() || reading.endpoint == endpoint);
    }
    let request = ReadSensorRequest {
        endpoint: "other:80\n".to_owned(),
        ..Default::default()
    };
    let status = client.read_sensor(request).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
    assert_eq!(status.message(), "this broker has no device other:80");
}

async fn list(broker: &Broker) -> Vec<Device> {
    let request = ListDevicesRequest {};
    let answer = broker.client().await.list_devices(request).await.unwrap();
    answer.into_inner().devices
}

#[tokio::test]
async fn devices_are_listed_with_their_state() {
    let (good, bad) = (healthy("1").await.to_string(), nobody().await.to_string());
    let (wavering, requests) = counting(|_| "1".to_owned()).await;
    let before = SystemTime::now();
    let broker = Broker::start(&[&good, &bad, &wavering.to_string()]).await;
    // Nobody has to call: each is read once at the start.
    until(async || {
        let devices = list(&broker).await;
        devices[0].read_at.is_some() && devices[1].failure.is_some() && devices[2].read_at.is_some()
    })
    .await;
    assert_eq!(requests.load(Ordering::SeqCst), 1);
    let devices = list(&broker).await;
    assert_eq!(devices[0].endpoint, good);
    assert_eq!(devices[0].failure, None);
    let failure = devices[1].failure.clone().unwrap();
    assert_eq!(failure.code, Code::Unavailable as i32);
    assert!(
        failure.message.contains("Connection refused"),
        "{failure:?}"
    );
    assert!(SystemTime::try_from(failure.since.unwrap()).unwrap() >= before);
    assert_eq!(devices[1].read_at, None);
    // It fails for as long, however often it is asked.
    let request = ReadSensorRequest {
        name: String::new(),
        endpoint: bad,
    };
    let mut client = broker.client().await;
    client.read_sensor(request).await.unwrap_err();
    let later = list(&broker).await[1].failure.clone().unwrap();
    assert_eq!(later.since, failure.since);
    // A path that only a caller asks for is not the device's state.
    assert_eq!(broker.read("/nope").await.unwrap().value, "1");
}
