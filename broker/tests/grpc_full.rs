//! A broker whose callers hold all they can: health is answered, and memory is bounded.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod support;

use std::{net::SocketAddr, time::Duration};

use akri_http_broker::grpc::{CONNECTIONS, WATCHES};
use akri_proto::http::ReadSensorRequest;
use support::{
    PATIENCE,
    grpc::{Broker, every, until},
    healthy,
    raw::{self, Raw},
};
use tokio::{net::TcpStream, time::timeout};
use tonic::Code;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

const READ: &str = "/http.DeviceService/ReadSensor";
const WATCH: &str = "/http.DeviceService/WatchSensor";

#[tokio::test]
async fn a_health_probe_gets_through_where_every_watch_has_a_connection_of_its_own() {
    let broker = Broker::start(&[&healthy("1").await.to_string()]).await;
    let mut watches = Vec::new();
    for _ in 0..WATCHES {
        watches.push(broker.watch(every(Duration::from_secs(3600))).await);
    }
    // And those that watch health are bounded too.
    let (mut open, mut refused) = (Vec::new(), 0);
    for _ in 0..100 {
        let mut client = HealthClient::new(broker.channel().await);
        match client.watch(HealthCheckRequest::default()).await {
            Ok(stream) => open.push(stream),
            Err(status) => {
                assert_eq!(status.code(), Code::ResourceExhausted);
                refused += 1;
            }
        }
    }
    assert_eq!((open.len(), refused), (64, 36));
    let mut silent = Vec::new();
    for _ in 0..CONNECTIONS {
        silent.push(TcpStream::connect(broker.address).await.unwrap());
    }
    let mut client = HealthClient::new(broker.channel().await);
    let check = client.check(HealthCheckRequest::default());
    let answer = timeout(PATIENCE, check).await.unwrap().unwrap();
    assert_eq!(answer.into_inner().status(), ServingStatus::Serving);
    drop((watches, open));
}

#[tokio::test]
async fn large_readings_that_are_not_taken_need_little_memory_and_nobody_else_notices() {
    let (large, small) = (healthy(&"x".repeat(1_000_000)).await, healthy("1").await);
    let variables = [
        ("AKRI_HTTP_DEVICE_ENDPOINT_0000AA", large.to_string()),
        ("AKRI_HTTP_DEVICE_ENDPOINT_0000BB", small.to_string()),
    ];
    let variables: Vec<(&str, &str)> = variables.iter().map(|(n, v)| (*n, v.as_str())).collect();
    let mut broker = support::Binary::grpc_broker(&variables, &["--grpc_endpoint=127.0.0.1:0"]);
    let line = broker.line_with("serving ").await;
    let address: SocketAddr = line.rsplit(' ').next().unwrap().parse().unwrap();
    let request = |device: SocketAddr| ReadSensorRequest {
        endpoint: device.to_string(),
        ..Default::default()
    };
    let mut unread = Vec::new();
    for n in 0..120 {
        // A window of one byte: the answer begins, and cannot end.
        let mut slow = Raw::connect(address, 1).await;
        let path = if n % 2 == 0 { READ } else { WATCH };
        let device = large.to_string();
        slow.send(&[raw::call(1, path), raw::message_for(1, &device)])
            .await
            .unwrap();
        unread.push(slow);
    }
    let channel = tonic::transport::Channel::from_shared(format!("http://{address}"));
    let channel = channel.unwrap().connect().await.unwrap();
    let mut client = support::grpc::Client::new(channel).max_decoding_message_size(8 << 20);
    for _ in 0..20 {
        let reading = client.read_sensor(request(small)).await.unwrap();
        assert_eq!(reading.into_inner().value, "1");
    }
    // Those who do not read have to go.
    until(async || {
        let reading = client.clone().read_sensor(request(large)).await;
        reading.is_ok_and(|reading| reading.into_inner().value.len() == 1_000_000)
    })
    .await;
    let peak = broker.peak_kib();
    assert!(peak < 128 * 1024, "{peak} KiB");
    drop(unread);
}
