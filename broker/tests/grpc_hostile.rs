//! Clients that take all they can get, and what the others notice of it: nothing.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod support;

use std::time::Duration;

use akri_http_proto::http::{ReadSensorRequest, device_service_client::DeviceServiceClient};
use support::{
    PATIENCE, counting,
    grpc::{Broker, every, next_value, read},
    hanging, healthy,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tonic::{Code, Request, transport::Channel};

/// A frame of HTTP/2.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    let mut frame = length[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// The headers of a call, each as a literal (RFC 7541, 6.2.2).
fn headers(path: &str) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "broker"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ] {
        block.push(0);
        for text in [name, value] {
            block.push(u8::try_from(text.len()).unwrap());
            block.extend(text.bytes());
        }
    }
    block
}

/// A connection with the beginning of HTTP/2 said, and with windows of this size for its streams.
async fn raw(broker: &Broker, window: u32) -> TcpStream {
    let mut stream = TcpStream::connect(broker.address).await.unwrap();
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    let settings = [&[0, 4][..], &window.to_be_bytes()].concat();
    bytes.extend(frame(4, 0, 0, &settings));
    stream.write_all(&bytes).await.unwrap();
    stream
}

/// Ten reads by somebody else.
async fn others_are_served(broker: &Broker) {
    let mut client = broker.client().await;
    for _ in 0..10 {
        assert_eq!(read(&mut client, "").await.unwrap().value, "1");
    }
    let mut stream = broker.watch(every(Duration::from_millis(100))).await;
    assert_eq!(next_value(&mut stream).await, "1");
}

#[tokio::test]
async fn thousands_of_streams_of_one_connection() {
    let broker = Broker::start(&[&healthy("1").await.to_string()]).await;
    let mut hostile = raw(&broker, 65_535).await;
    let (call, message) = (headers("/http.DeviceService/WatchSensor"), [0; 5]);
    for n in 0..5_000 {
        let stream = 2 * n + 1;
        let mut bytes = frame(1, 4, stream, &call);
        bytes.extend(frame(0, 1, stream, &message));
        if hostile.write_all(&bytes).await.is_err() {
            break;
        }
        // As a client that floods does, it takes what comes, and forgets it.
        while hostile
            .try_read(&mut [0; 65_536])
            .is_ok_and(|read| read > 0)
        {}
    }
    others_are_served(&broker).await;
}

#[tokio::test]
async fn calls_that_are_begun_and_reset_at_once() {
    let broker = Broker::start(&[&healthy("1").await.to_string()]).await;
    let mut hostile = raw(&broker, 65_535).await;
    let call = headers("/http.DeviceService/ReadSensor");
    for n in 0..5_000 {
        let mut bytes = frame(1, 4, 2 * n + 1, &call);
        bytes.extend(frame(3, 0, 2 * n + 1, &8_u32.to_be_bytes()));
        if hostile.write_all(&bytes).await.is_err() {
            break;
        }
        while hostile
            .try_read(&mut [0; 65_536])
            .is_ok_and(|read| read > 0)
        {}
    }
    others_are_served(&broker).await;
}

#[tokio::test]
async fn many_connections_full_of_calls_from_one_address() {
    let (good, slow) = (healthy("1").await.to_string(), hanging().await.to_string());
    let broker = Broker::start(&[&good, &slow]).await;
    let mut watches = Vec::new();
    let mut refused = 0;
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
    assert_eq!((watches.len(), refused), (512, 88));
    // Half is left for other addresses.
    let other = Channel::from_shared(format!("http://{}", broker.address))
        .unwrap()
        .local_address(Some("127.0.0.2".parse().unwrap()));
    let channel = other.connect().await.unwrap();
    let mut client = DeviceServiceClient::new(channel);
    assert_eq!(read(&mut client, "").await.unwrap().value, "1");
    // And what is given back can be had again.
    drop(watches);
    support::grpc::until(async || broker.read("").await.is_ok()).await;
}

#[tokio::test]
async fn a_client_that_never_takes_its_answers() {
    let large = "x".repeat(1024 * 1024);
    let (address, _) = counting(move |n| {
        if n % 2 == 0 {
            large.clone()
        } else {
            "1".to_owned()
        }
    })
    .await;
    let good = healthy("1").await.to_string();
    let broker = Broker::start(&[&good, &address.to_string()]).await;
    let mut hostile = raw(&broker, 1).await;
    let call = headers("/http.DeviceService/ReadSensor");
    // `endpoint` of ReadSensorRequest is field 2.
    let device = address.to_string();
    let mut message = vec![0, 0, 0, 0, device.len() as u8 + 2, 0x12, device.len() as u8];
    message.extend(device.bytes());
    for n in 0..100 {
        let mut bytes = frame(1, 4, 2 * n + 1, &call);
        bytes.extend(frame(0, 1, 2 * n + 1, &message));
        hostile.write_all(&bytes).await.unwrap();
    }
    others_are_served(&broker).await;
}

#[tokio::test]
async fn headers_that_are_too_large() {
    let broker = Broker::start(&[&healthy("1").await.to_string()]).await;
    let mut client = broker.client().await;
    let mut request = Request::new(ReadSensorRequest::default());
    request
        .metadata_mut()
        .insert("x-large", "x".repeat(100_000).parse().unwrap());
    let status = timeout(PATIENCE, client.read_sensor(request))
        .await
        .unwrap()
        .unwrap_err();
    assert!(!status.message().is_empty(), "{status:?}");
    others_are_served(&broker).await;
}

#[tokio::test]
async fn what_is_not_http_2_ends_the_connection() {
    let broker = Broker::start(&[&healthy("1").await.to_string()]).await;
    for bytes in [&b"GET / HTTP/1.1\r\nhost: broker\r\n\r\n"[..], &[0xff; 100]] {
        let mut hostile = TcpStream::connect(broker.address).await.unwrap();
        hostile.write_all(bytes).await.unwrap();
        let mut answer = Vec::new();
        // An error is an end, too.
        let _ = timeout(PATIENCE, hostile.read_to_end(&mut answer))
            .await
            .unwrap();
    }
    others_are_served(&broker).await;
}

#[tokio::test]
async fn who_connects_and_says_nothing_is_let_go() {
    let broker = Broker::start(&[&healthy("1").await.to_string()]).await;
    let mut silent = TcpStream::connect(broker.address).await.unwrap();
    let _ = timeout(PATIENCE, silent.read(&mut [0; 100])).await.unwrap();
    let ended = timeout(PATIENCE, silent.read_to_end(&mut Vec::new())).await;
    assert!(ended.is_ok());
    others_are_served(&broker).await;
}

#[tokio::test]
async fn a_call_whose_message_never_comes_is_over_in_time() {
    let broker = Broker::start(&[&healthy("1").await.to_string()]).await;
    let mut hostile = raw(&broker, 65_535).await;
    hostile
        .write_all(&frame(1, 4, 1, &headers("/http.DeviceService/ReadSensor")))
        .await
        .unwrap();
    // The frame that ends the call has the flags END_STREAM and END_HEADERS.
    let mut seen = Vec::new();
    let ended = timeout(PATIENCE, async {
        while !seen
            .windows(9)
            .any(|head: &[u8]| head[3] == 1 && head[4] == 5 && head[5..] == [0, 0, 0, 1])
        {
            seen.push(hostile.read_u8().await.unwrap());
        }
    });
    ended.await.unwrap();
    others_are_served(&broker).await;
}
