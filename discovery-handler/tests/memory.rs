//! Ten thousand devices with labels fit into what Akri's chart grants (rule 17).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::{fmt::Write, fs, process::Command};

use support::*;

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
    let mut process = Command::new(env!("CARGO_BIN_EXE_discovery-handler"))
        .env("DISCOVERY_HANDLERS_DIRECTORY", directory.path())
        .env("STATE_DIRECTORY", directory.path().join("state"))
        .env("RUST_LOG", "warn")
        .spawn()
        .unwrap();
    let socket = directory.path().join("http.sock");
    until(|| socket.exists()).await;
    let details = format!("{}\nformat: http-sd", service.details());
    let endpoint = format!("unix:{}", socket.display());
    let mut stream = discover(&endpoint, &details).await.unwrap();
    assert_eq!(stream.list().await.len(), 10_000);
    for poll in 1..5 {
        // Every device changes.
        service.now(groups(poll));
        assert_eq!(stream.list().await.len(), 10_000);
    }
    let status = fs::read_to_string(format!("/proc/{}/status", process.id())).unwrap();
    process.kill().unwrap();
    process.wait().unwrap();
    let kib = |name: &str| -> u64 {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    // The program's own pages are more in a debug build, and the kernel can drop them; 6 MiB are left for them.
    let peak = kib("VmHWM:") - kib("RssFile:");
    println!("{peak} KiB");
    assert!(peak < 18 * 1024, "{status}");
}
