//! The real `grpc-client`, against brokers that come, go and lack methods.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod support;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use akri_http_broker::grpc::{Config, run};
use support::{Binary, counting, grpc::Broker, hanging, healthy, nobody};
use tokio::net::TcpListener;
use tonic::{Request, Response, Status, transport::Server};

fn client(broker: SocketAddr, arguments: &[&str]) -> Binary {
    let endpoint = format!("--grpc_endpoint={broker}");
    Binary::grpc_client(&[], &[&[&*endpoint], arguments].concat())
}

#[tokio::test]
async fn a_bad_setting_is_one_line_and_status_2() {
    for (variables, arguments, parts) in [
        (
            vec![("GRPC_ENDPOINT", "nowhere")],
            vec![],
            vec!["--grpc_endpoint", "GRPC_ENDPOINT", "'nowhere'", "HOST:PORT"],
        ),
        (
            vec![],
            vec!["--grpc-endpoint=https://a:1"],
            vec!["--grpc_endpoint", "HOST:PORT"],
        ),
        (
            vec![("POLL_INTERVAL", "1ms")],
            vec![],
            vec!["--interval", "POLL_INTERVAL", "'1ms'", "100ms to 24h"],
        ),
        (
            vec![("MIN_CHANGE", "-1")],
            vec![],
            vec![
                "--min-change",
                "MIN_CHANGE",
                "'-1'",
                "a finite number from 0",
            ],
        ),
    ] {
        let (status, lines) = Binary::grpc_client(&variables, &arguments).end().await;
        assert_eq!(status.code(), Some(2), "{lines:#?}");
        assert_eq!(lines.len(), 1, "{lines:#?}");
        for part in parts {
            assert!(lines[0].contains(part), "{part}: {lines:#?}");
        }
    }
}

#[tokio::test]
async fn flags_that_do_not_go_together_are_status_2() {
    let (status, lines) = Binary::grpc_client(&[], &["--once", "--watch"]).end().await;
    assert_eq!(status.code(), Some(2));
    assert!(
        lines[0].contains("--once") && lines[0].contains("--watch"),
        "{lines:#?}"
    );
}

#[tokio::test]
async fn once_prints_a_reading_and_tells_by_its_status_whether_there_was_one() {
    let device = healthy("0.5\n").await.to_string();
    let broker = Broker::start(&[&device]).await;
    let mut printed = client(broker.address, &["--once"]);
    let line = printed.printed().await;
    assert!(line.ends_with(&format!("Z {device} 0.5")), "{line}");
    assert_eq!(printed.end().await.0.code(), Some(0));

    for (broker, arguments, cause) in [
        (
            broker.address,
            ["--once", "--name=//evil"],
            "InvalidArgument: name must not begin with //",
        ),
        (
            broker.address,
            ["--once", "--device=other"],
            "NotFound: this broker has no device other",
        ),
        (nobody().await, ["--once", "--name=/"], "Connection refused"),
    ] {
        let endpoint = format!("--grpc_endpoint={broker}");
        let arguments = [&[&*endpoint], &arguments[..]].concat();
        let client = Binary::grpc_client(&[("RUST_LOG", "off")], &arguments);
        let (status, lines) = client.end().await;
        assert_eq!(status.code(), Some(1), "{lines:#?}");
        assert_eq!(lines.len(), 1, "{lines:#?}");
        assert!(
            lines[0].starts_with("error: ") && lines[0].contains(cause),
            "{lines:#?}"
        );
    }
}

#[tokio::test]
async fn a_broker_that_never_answers_is_given_up() {
    let (status, lines) = client(hanging().await, &["--once"]).end().await;
    assert_eq!(status.code(), Some(1), "{lines:#?}");
}

#[tokio::test]
async fn list_prints_each_device_with_its_state() {
    let (good, bad) = (healthy("1").await.to_string(), nobody().await.to_string());
    let broker = Broker::start(&[&good, &bad]).await;
    let mut reading = client(broker.address, &["--once"]);
    reading.printed().await;
    support::grpc::until(async || {
        let mut list = client(broker.address, &["--list"]);
        let (first, second) = (list.printed().await, list.printed().await);
        assert_eq!(list.end().await.0.code(), Some(0));
        first.starts_with(&format!("{good} read at 2"))
            && second.starts_with(&format!("{bad} failing since 2"))
            && second.contains("Connection refused")
    })
    .await;
}

/// A broker at an address that it may have had before.
async fn at(address: SocketAddr, device: &str) -> Broker {
    let listener = TcpListener::bind(address).await.unwrap();
    let address = listener.local_addr().unwrap();
    let config = Config {
        devices: vec![device.parse().unwrap()],
        min_interval: Duration::from_millis(100),
        max_reads: 16,
        admin: Default::default(),
        credentials: Default::default(),
    };
    let stop = tokio_util::sync::CancellationToken::new();
    let running = tokio::spawn(run(config, listener, stop.clone().cancelled_owned()));
    Broker {
        address,
        stop,
        running,
    }
}

#[tokio::test]
async fn a_broker_that_goes_and_comes_back_is_found_again() {
    for arguments in [&["--interval=200ms"][..], &["--watch", "--interval=200ms"]] {
        let (device, _) = counting(|n| n.to_string()).await;
        let device = device.to_string();
        let broker = at("127.0.0.1:0".parse().unwrap(), &device).await;
        let address = broker.address;
        let mut client = client(address, arguments);
        for _ in 0..3 {
            assert!(client.printed().await.contains(&device));
        }
        broker.stop.cancel();
        broker.running.await.unwrap().unwrap();
        client.line_with("; trying again").await;
        let broker = at(address, &device).await;
        client.line_with(": works again after ").await;
        assert!(client.printed().await.contains(&device));
        client.signal("TERM").await;
        let (status, lines) = client.end().await;
        assert_eq!(status.code(), Some(0), "{lines:#?}");
        broker.stop.cancel();
    }
}

#[tokio::test]
async fn it_waits_for_a_broker_that_is_not_there_yet() {
    let address = nobody().await;
    let device = healthy("0.5").await.to_string();
    let mut client = client(address, &["--interval=200ms"]);
    client.line_with("Connection refused").await;
    let _broker = at(address, &device).await;
    assert!(client.printed().await.ends_with(" 0.5"));
}

#[tokio::test]
async fn a_device_that_fails_is_told_once_and_the_watch_goes_on() {
    let requests = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let device = support::device(move |_, stream| {
        let status = match requests.fetch_add(1, std::sync::atomic::Ordering::SeqCst) {
            2..6 => "500 Internal Server Error",
            _ => "200 OK",
        };
        support::send(
            stream,
            format!("HTTP/1.1 {status}\r\ncontent-length: 1\r\n\r\n1").into(),
        )
    })
    .await;
    let broker = Broker::start(&[&device.to_string()]).await;
    let mut client = client(broker.address, &["--watch", "--interval=100ms"]);
    let lines = client.lines_up_to(": works again after ").await;
    let [warning, _] = &lines[..] else {
        panic!("{lines:#?}")
    };
    assert!(
        warning.contains("Unavailable: answered 500 Internal Server Error"),
        "{lines:#?}"
    );
    client.signal("INT").await;
    assert_eq!(client.end().await.0.code(), Some(0));
}

/// A broker that knows Akri's own interface and nothing more.
mod akri {
    use akri_proto::http::{
        ListDevicesRequest, ListDevicesResponse, ReadSensorRequest, ReadSensorResponse,
        WatchSensorRequest, WatchSensorResponse, device_service_server::DeviceService,
    };

    use super::{Request, Response, Status};

    pub struct OldBroker;

    #[async_trait::async_trait]
    impl DeviceService for OldBroker {
        async fn read_sensor(
            &self,
            _: Request<ReadSensorRequest>,
        ) -> Result<Response<ReadSensorResponse>, Status> {
            let value = "0.5".to_owned();
            Ok(Response::new(ReadSensorResponse {
                value,
                ..Default::default()
            }))
        }

        type WatchSensorStream = futures_util::stream::Empty<Result<WatchSensorResponse, Status>>;

        async fn watch_sensor(
            &self,
            _: Request<WatchSensorRequest>,
        ) -> Result<Response<Self::WatchSensorStream>, Status> {
            Err(Status::unimplemented("unknown method WatchSensor"))
        }

        async fn list_devices(
            &self,
            _: Request<ListDevicesRequest>,
        ) -> Result<Response<ListDevicesResponse>, Status> {
            Err(Status::unimplemented("unknown method ListDevices"))
        }
    }
}

#[tokio::test]
async fn a_broker_of_akris_own_interface_is_read_but_cannot_be_watched() {
    use akri_proto::http::device_service_server::DeviceServiceServer;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let incoming = tonic::transport::server::TcpIncoming::from(listener);
    tokio::spawn(
        Server::builder()
            .add_service(DeviceServiceServer::new(akri::OldBroker))
            .serve_with_incoming(incoming),
    );
    assert!(client(address, &[]).printed().await.ends_with("Z 0.5"));
    for argument in ["--watch", "--list"] {
        let (status, lines) = client(address, &[argument]).end().await;
        assert_eq!(status.code(), Some(1));
        assert!(
            lines
                .concat()
                .contains("error: Unimplemented: unknown method"),
            "{lines:#?}"
        );
    }
}
