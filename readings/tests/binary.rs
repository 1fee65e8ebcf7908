//! The real binary: its settings, its signals, and the memory that it needs.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod support;

use std::{
    net::SocketAddr,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use support::{Broker, PATIENCE, http::get};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader},
    process::{Child, Command},
    time::{sleep, timeout},
};

struct Readings {
    child: Child,
    address: SocketAddr,
}

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_readings"));
    command
        .args(arguments)
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    for variable in ["BROKERS", "LISTEN", "POLL_INTERVAL", "RUST_LOG"] {
        command.env_remove(variable);
    }
    command
}

async fn start(arguments: &[&str]) -> Readings {
    let mut child = command(arguments)
        .args(["--listen", "127.0.0.1:0"])
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let address = async {
        loop {
            let line = lines
                .next_line()
                .await
                .unwrap()
                .expect("it says where the page is");
            if let Some((_, address)) = line.split_once("the page is at http://") {
                return address.parse().unwrap();
            }
        }
    };
    let address = timeout(PATIENCE, address).await.unwrap();
    // What follows must be read, or else it has no room.
    tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
    Readings { child, address }
}

impl Readings {
    async fn text(&self, path: &str) -> String {
        get(self.address, path).await.text().await.unwrap()
    }

    async fn end(mut self, signal: Signal) -> ExitStatus {
        let pid = Pid::from_raw(self.child.id().unwrap().try_into().unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
        timeout(PATIENCE, self.child.wait()).await.unwrap().unwrap()
    }

    /// What it has in memory apart from its own file, in bytes.
    async fn memory(&self) -> u64 {
        let status = format!("/proc/{}/status", self.child.id().unwrap());
        let status = tokio::fs::read_to_string(status).await.unwrap();
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("RssAnon:"));
        let kilobytes = line.unwrap().trim().strip_suffix(" kB").unwrap();
        kilobytes.parse::<u64>().unwrap() * 1024
    }
}

#[tokio::test]
async fn names_and_addresses_are_brokers_and_a_signal_ends_it_well() {
    let (one, other) = (Broker::start(&["a"]).await, Broker::start(&["b"]).await);
    let names = format!("localhost:{},{}", one.address.port(), other.address);
    for signal in [Signal::TERM, Signal::INT] {
        let readings = start(&["--brokers", &names]).await;
        let both = async {
            while !readings
                .text("/metrics")
                .await
                .contains("device_up{device=\"b\"")
                || !readings
                    .text("/metrics")
                    .await
                    .contains("device_up{device=\"a\"")
            {
                sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(PATIENCE, both).await.expect("both are there");
        // An open page does not keep it from ending.
        let _open = get(readings.address, "/api/events").await;
        assert!(readings.end(signal).await.success());
    }
}

#[tokio::test]
async fn a_bad_setting_is_one_line_and_status_2_and_a_taken_port_is_status_1() {
    let other = Broker::start(&[]).await;
    let (taken, too_many) = (other.address.to_string(), ["a:1"; 65].join(","));
    for (arguments, status, says) in [
        (vec!["--brokers", "a"], 2, "expected HOST:PORT"),
        (
            vec!["--brokers", &too_many],
            2,
            "BROKERS are at most 64 names",
        ),
        (
            vec!["--brokers", "a:1", "--interval", "1"],
            2,
            "must be a duration",
        ),
        (
            vec!["--brokers", "a:1", "--listen", &taken],
            1,
            "cannot listen on LISTEN=",
        ),
    ] {
        let mut child = command(&arguments).spawn().unwrap();
        let mut lines = String::new();
        let mut stderr = child.stderr.take().unwrap();
        timeout(PATIENCE, stderr.read_to_string(&mut lines))
            .await
            .unwrap()
            .unwrap();
        let ended = child.wait().await.unwrap();
        assert_eq!(ended.code(), Some(status), "{lines}");
        assert!(
            lines.contains(says) && lines.trim_end().lines().count() == 1,
            "{lines}"
        );
    }
}

#[tokio::test]
async fn a_thousand_devices_with_open_pages_fit_into_32_mib() {
    let mut brokers = Vec::new();
    for broker in 0..10 {
        let names: Vec<_> = (0..100)
            .map(|n| format!("http://device-{broker}-{n}:8080/"))
            .collect();
        let names: Vec<_> = names.iter().map(String::as_str).collect();
        brokers.push((Broker::start(&names).await, names.join(" ")));
    }
    let names: Vec<_> = brokers
        .iter()
        .map(|(broker, _)| broker.address.to_string())
        .collect();
    let readings = start(&["--brokers", &names.join(","), "--interval", "1s"]).await;
    let mut pages = Vec::new();
    for _ in 0..8 {
        pages.push(get(readings.address, "/api/events").await);
    }
    let mut most = 0;
    for round in 0..20 {
        for (broker, names) in &brokers {
            let value = format!("{}.5", 20 + round % 3);
            names
                .split(' ')
                .for_each(|name| broker.give(name, Ok(&value)));
        }
        let all = readings.text("/api/devices").await;
        if round > 10 {
            assert_eq!(all.matches("\"reading\"").count(), 1_000);
        }
        for page in &mut pages {
            let _ = timeout(Duration::from_millis(1), page.chunk()).await;
        }
        most = most.max(readings.memory().await);
        sleep(Duration::from_millis(100)).await;
    }
    assert!(most < 32 * 1024 * 1024, "{most}");
}
