//! What may be large fits into what Akri's chart grants (rule 17).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::{
    fmt::Write,
    fs,
    path::Path,
    process::{Child, Command},
};

use akri_proto::v0::{ByteData, DiscoverRequest, discovery_handler_client::DiscoveryHandlerClient};
use rcgen::{CertificateParams, DnType, KeyPair};
use support::*;

/// The real binary, and where it is served.
async fn binary(directory: &Path) -> (Child, String) {
    let process = Command::new(env!("CARGO_BIN_EXE_discovery-handler"))
        .env("DISCOVERY_HANDLERS_DIRECTORY", directory)
        .env("STATE_DIRECTORY", directory.join("state"))
        .env("RUST_LOG", "warn")
        .spawn()
        .unwrap();
    let socket = directory.join("http.sock");
    until(|| socket.exists()).await;
    (process, format!("unix:{}", socket.display()))
}

/// Ends it. The program's own pages are more in a debug build, and the kernel can drop them; 6 MiB are left for them.
fn took_less_than_24_mib(mut process: Child) {
    let status = fs::read_to_string(format!("/proc/{}/status", process.id())).unwrap();
    process.kill().unwrap();
    process.wait().unwrap();
    let kib = |name: &str| -> u64 {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    let peak = kib("VmHWM:") - kib("RssFile:");
    println!("{peak} KiB");
    assert!(peak < 18 * 1024, "{status}");
}

/// Prometheus' HTTP SD, a group of five labels for each device.
fn groups(poll: usize) -> Reply {
    let mut body = String::new();
    for n in 0..10_000 {
        let comma = if n == 0 { '[' } else { ',' };
        let (high, low) = (n / 250, n % 250);
        write!(
            body,
            r#"{comma}{{"targets":["10.1.{high}.{low}:9100"],"labels":{{"site":"lab-{poll}","rack":"r{high}","row":"{low}","model":"boiler-2000","tenant":"heat"}}}}"#
        )
        .unwrap();
    }
    body.push(']');
    let head = format!(
        "200 OK\r\nContent-Type: application/json\r\nContent-Length: {}",
        body.len()
    );
    raw(&head, body)
}

#[tokio::test]
async fn rule_17_ten_thousand_devices_with_five_labels_fit_into_24_mib() {
    let service = Service::start(groups(0)).await;
    let directory = tempfile::tempdir().unwrap();
    let (process, endpoint) = binary(directory.path()).await;
    let details = format!("{}\nformat: http-sd", service.details());
    let mut stream = discover(&endpoint, &details).await.unwrap();
    assert_eq!(stream.list().await.len(), 10_000);
    for poll in 1..5 {
        // Every device changes.
        service.now(groups(poll));
        assert_eq!(stream.list().await.len(), 10_000);
    }
    took_less_than_24_mib(process);
}

/// An authority in PEM, whose name has this number.
fn authority(number: usize, key: &KeyPair) -> String {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    let name = format!("the authority of a plant, number {number}");
    params.distinguished_name.push(DnType::CommonName, name);
    params.self_signed(key).unwrap().pem()
}

#[tokio::test]
async fn rule_17_sixty_requests_with_large_authorities_of_their_own_fit_into_24_mib() {
    let service = Service::start(list(&["a:1"])).await;
    let directory = tempfile::tempdir().unwrap();
    let (process, endpoint) = binary(directory.path()).await;
    let key = KeyPair::generate().unwrap();
    let mut most = String::new();
    for number in 60.. {
        most += &authority(number, &key);
        if most.len() > 240 * 1024 {
            break;
        }
    }
    let mut client = DiscoveryHandlerClient::new(connect(&endpoint).await);
    let mut streams = Vec::new();
    for number in 0..60 {
        let pem = authority(number, &key) + &most;
        let ca = ByteData {
            vec: Some(pem.into_bytes()),
        };
        let request = DiscoverRequest {
            discovery_details: service.details(),
            discovery_properties: [("HTTP_CA_CERT".to_owned(), ca)].into(),
        };
        let response = soon(client.discover(request)).await.unwrap();
        let mut stream = DeviceStream(response.into_inner());
        assert_eq!(stream.list().await, ["a:1"]);
        streams.push(stream);
    }
    took_less_than_24_mib(process);
}
