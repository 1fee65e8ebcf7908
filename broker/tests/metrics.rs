//! What the real brokers tell probes and Prometheus.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod support;

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use akri_proto::http::{ListDevicesRequest, device_service_client::DeviceServiceClient};
use support::{
    Binary, VARIABLE, device, get,
    grpc::{Client, every, read, until},
    hanging, healthy, nobody,
    raw::{Raw, reset},
    send,
};

const ADMIN: &str = "--admin-address=127.0.0.1:0";

/// Whether the process says all of these lines about its device, and none of the others.
async fn says(admin: &str, lines: &[String], others: &[String]) -> bool {
    let (status, text) = get(admin, "/metrics").await;
    assert_eq!(status, "200");
    assert!(!text.contains("secret"), "{text}");
    let said = |line: &String| text.lines().any(|said| said.starts_with(&**line));
    lines.iter().all(said) && !others.iter().any(said)
}

/// A line of `metric`, or `metric/outcome`, of a device.
fn of(device: &str, metric: &str, value: &str) -> String {
    let (name, label) = metric.split_once('/').unwrap_or((metric, ""));
    let label = match label {
        "" => String::new(),
        outcome => format!(",outcome=\"{outcome}\""),
    };
    format!("akri_http_{name}{{device=\"{device}\"{label}}} {value}")
}

/// A device that answers what it is set to; `down` is an error.
async fn changing(value: &str) -> (SocketAddr, Arc<Mutex<String>>) {
    let value = Arc::new(Mutex::new(value.to_owned()));
    let set = value.clone();
    let address = device(move |_, stream| {
        let (value, mut status) = (set.lock().unwrap().clone(), "200 OK");
        if value == "down" {
            status = "500 Internal Server Error";
        }
        let length = value.len();
        let answer = format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\n\r\n{value}");
        send(stream, answer.into())
    })
    .await;
    (address, value)
}

#[tokio::test]
async fn standalone_tells_how_each_device_does_and_no_secret() {
    let (number, text, down) = (
        healthy("0.5\n").await,
        healthy("warm").await,
        nobody().await,
    );
    let variables = [
        (
            VARIABLE,
            &*format!("http://user:secret@{number}/?token=secret"),
        ),
        ("AKRI_HTTP_DEVICE_ENDPOINT_0000AA", &text.to_string()),
        ("AKRI_HTTP_DEVICE_ENDPOINT_0000BB", &down.to_string()),
    ];
    let mut broker = Binary::standalone(&variables, &[ADMIN, "--interval=24h"]);
    let admin = broker.admin().await;
    // Ready although a device is down.
    until(async || get(&admin, "/readyz").await == ("200".into(), "ok\n".into())).await;
    let (number, text, down) = (
        format!("http://{number}/"),
        text.to_string(),
        down.to_string(),
    );
    let lines = [
        of(&number, "device_up", "1"),
        of(&number, "device_reading", "0.5"),
        of(&number, "reads_total/ok", "1"),
        of(&number, "reads_total/failed", "0"),
        of(&number, "read_duration_seconds_count", "1"),
        of(&text, "device_up", "1"),
        of(&text, "reads_total/ok", "1"),
        of(&down, "device_up", "0"),
        of(&down, "reads_total/ok", "0"),
        of(&down, "reads_total/failed", "1"),
        "akri_build_info{version=".into(),
    ];
    let others = [&text, &down].map(|device| of(device, "device_reading", ""));
    assert!(
        says(&admin, &lines, &others).await,
        "{:#?}",
        get(&admin, "/metrics").await
    );
    assert_eq!(get(&admin, "/livez").await, ("200".into(), "ok\n".into()));
}

#[tokio::test]
async fn a_reading_is_absent_while_the_device_is_down_or_gives_no_number() {
    let (address, value) = changing("21.5").await;
    let device = address.to_string();
    let variables = [(VARIABLE, &*device)];
    let mut broker = Binary::standalone(&variables, &[ADMIN, "--interval=100ms"]);
    let admin = broker.admin().await;
    for (given, up, reading) in [
        ("21.5", "1", Some("21.5")),
        ("down", "0", None),
        ("-3", "1", Some("-3.0")),
        ("warm", "1", None),
        ("1e3", "1", Some("1000.0")),
    ] {
        value.lock().unwrap().replace_range(.., given);
        let mut lines = vec![of(&device, "device_up", up)];
        let mut others = Vec::new();
        match reading {
            Some(reading) => lines.push(of(&device, "device_reading", reading)),
            None => others.push(of(&device, "device_reading", "")),
        }
        until(async || says(&admin, &lines, &others).await).await;
    }
}

#[tokio::test]
async fn a_device_whose_first_read_has_not_ended_is_told_of_only_once_it_has() {
    let slow = hanging().await.to_string();
    let mut broker = Binary::standalone(&[(VARIABLE, &slow)], &[ADMIN, "--interval=24h"]);
    let admin = broker.admin().await;
    // After 5 s the read is given up.
    until(async || {
        let (status, reasons) = get(&admin, "/readyz").await;
        if status != "200" {
            let reason = format!("{slow} has not been read yet\n");
            assert_eq!((&*status, reasons), ("503", reason));
        }
        status == "200"
    })
    .await;
    let lines = [
        of(&slow, "device_up", "0"),
        of(&slow, "read_duration_seconds_count", "1"),
    ];
    assert!(says(&admin, &lines, &[]).await);
    // It took longer than the last bucket says.
    let bucket = format!(r#"akri_http_read_duration_seconds_bucket{{device="{slow}",le="5"}} 0"#);
    assert!(says(&admin, &[bucket], &[]).await);
}

#[tokio::test]
async fn an_admin_address_that_cannot_be_used_is_one_line_and_a_status() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = listener.local_addr().unwrap().to_string();
    for (address, status, parts) in [
        (&*taken, 1, ["cannot listen on ADMIN_ADDRESS=", "in use"]),
        (
            "localhost",
            2,
            ["--admin-address <ADMIN_ADDRESS>", "ADDRESS:PORT"],
        ),
    ] {
        let variables = [
            (VARIABLE, "127.0.0.1:1"),
            ("GRPC_ENDPOINT", "127.0.0.1:0"),
            ("ADMIN_ADDRESS", address),
        ];
        let start = [Binary::standalone, Binary::grpc_broker];
        for broker in start.map(|start| start(&variables, &[])) {
            let (ended, lines) = broker.end().await;
            assert_eq!(ended.code(), Some(status), "{lines:#?}");
            assert_eq!(lines.len(), 1, "{lines:#?}");
            assert!(
                parts.iter().all(|part| lines[0].contains(part)),
                "{lines:#?}"
            );
        }
    }
}

#[tokio::test]
async fn without_an_admin_address_nothing_listens() {
    let good = healthy("0.5").await.to_string();
    let mut broker = Binary::standalone(&[(VARIABLE, &good), ("ADMIN_ADDRESS", "")], &[]);
    let lines = broker.lines_up_to("0.5").await;
    assert_eq!(lines.len(), 1, "{lines:#?}");
}

/// A gRPC broker of one device, where it can be watched, and where it serves.
async fn grpc_broker(device: &str) -> (Binary, String, SocketAddr) {
    let arguments = [ADMIN, "--grpc_endpoint=127.0.0.1:0"];
    let mut broker = Binary::grpc_broker(&[(VARIABLE, device)], &arguments);
    let admin = broker.admin().await;
    let serving = broker.line_with("serving ").await;
    let serving = serving.rsplit(' ').next().unwrap().parse().unwrap();
    (broker, admin, serving)
}

async fn client_of(serving: SocketAddr) -> Client {
    let address = format!("http://{serving}");
    DeviceServiceClient::connect(address).await.unwrap()
}

fn calls(method: &str, code: &str, count: &str) -> String {
    format!("akri_http_calls_total{{method=\"{method}\",code=\"{code}\"}} {count}")
}

#[tokio::test]
async fn the_grpc_broker_tells_how_its_device_does_and_how_calls_end_and_no_secret() {
    let (address, value) = changing("0.5").await;
    let device = format!("http://{address}/");
    let endpoint = format!("http://user:secret@{address}/?token=secret");
    let (_broker, admin, serving) = grpc_broker(&endpoint).await;
    for path in ["/livez", "/readyz"] {
        assert_eq!(get(&admin, path).await, ("200".into(), "ok\n".into()));
    }
    // The broker reads each device at its start.
    let up = [
        of(&device, "device_up", "1"),
        of(&device, "device_reading", "0.5"),
        of(&device, "reads_total/ok", "1"),
    ];
    until(async || says(&admin, &up, &[]).await).await;

    let mut client = client_of(serving).await;
    client.list_devices(ListDevicesRequest {}).await.unwrap();
    read(&mut client, "").await.unwrap();
    value.lock().unwrap().replace_range(.., "down");
    // What callers ask for at other paths is not the device's state.
    read(&mut client, "/other?token=secret").await.unwrap_err();
    read(&mut client, "//secret").await.unwrap_err();
    let mut lines = vec![
        of(&device, "device_up", "1"),
        of(&device, "reads_total/ok", "2"),
        of(&device, "reads_total/failed", "0"),
        calls("ListDevices", "Ok", "1"),
        calls("ReadSensor", "Ok", "1"),
        calls("ReadSensor", "Unavailable", "1"),
        calls("ReadSensor", "InvalidArgument", "1"),
        "akri_http_open_calls 0".into(),
        "akri_build_info{version=".into(),
    ];
    assert!(says(&admin, &lines, &[]).await, "{lines:#?}");
    read(&mut client, "").await.unwrap_err();
    lines = vec![
        of(&device, "device_up", "0"),
        of(&device, "reads_total/failed", "1"),
    ];
    let gone = [of(&device, "device_reading", "")];
    assert!(says(&admin, &lines, &gone).await, "{lines:#?}");
}

#[tokio::test]
async fn a_watch_is_counted_at_its_beginning_and_while_it_is_open() {
    let (_broker, admin, serving) = grpc_broker(&healthy("1").await.to_string()).await;
    let told = async |open, begun| {
        let open = format!("akri_http_watches {open}");
        let lines = [open, calls("WatchSensor", "Ok", begun)];
        until(async || says(&admin, &lines, &[]).await).await;
    };
    told("0", "0").await;
    let mut client = client_of(serving).await;
    let request = every(Duration::from_secs(3600));
    let first = client.watch_sensor(request.clone()).await.unwrap();
    let second = client.watch_sensor(request).await.unwrap();
    told("2", "2").await;
    drop(first);
    told("1", "2").await;
    drop(second);
    told("0", "2").await;
}

#[tokio::test]
async fn a_call_that_its_caller_gives_up_is_counted_and_a_method_that_it_invents_is_not() {
    let (_broker, admin, serving) = grpc_broker(&hanging().await.to_string()).await;
    let mut raw = Raw::connect(serving, 65_535).await;
    raw.call(1, "/http.DeviceService/ReadSensor").await;
    raw.call(3, "/http.DeviceService/Invented").await;
    raw.answered_ping().await;
    raw.send(&[reset(1)]).await.unwrap();
    let line = [calls("ReadSensor", "Cancelled", "1")];
    until(async || says(&admin, &line, &[]).await).await;
    assert!(!get(&admin, "/metrics").await.1.contains("Invented"));
}
