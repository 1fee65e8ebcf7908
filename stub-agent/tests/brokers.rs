//! What the Controller and the kubelet do, and that no broker outlives the Agent.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod support;

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use akri_stub_agent::StubAgent;
use rustix::process::{Pid, Signal, kill_process};
use support::*;
use tokio::process::{Child, Command};

/// A broker that writes its process id and its child's to a file named after its device, and keeps running.
const PAIR: &str =
    r#"sleep 1000 & echo $$ $! >$WHERE/tmp.$$ && mv $WHERE/tmp.$$ $WHERE/$DEVICE; wait"#;

async fn pair(directory: &Path, name: &str) -> Vec<String> {
    let pids: Vec<_> = appears(directory.join(name))
        .await
        .split_whitespace()
        .map(str::to_owned)
        .collect();
    assert_eq!(pids.len(), 2);
    assert!(pids.iter().all(|pid| is_alive(pid)));
    pids
}

async fn are_gone(pids: Vec<String>) {
    for pid in pids {
        is_gone(&pid).await;
    }
}

fn named(directory: &Path, name: &str) -> akri_proto::v0::Device {
    device_with(
        name,
        &[("WHERE", directory.to_str().unwrap()), ("DEVICE", name)],
    )
}

#[tokio::test]
async fn rule_13_a_broker_gets_its_properties_plain_and_suffixed() {
    let broker = "env >$WHERE/tmp; mv $WHERE/tmp $WHERE/env; exec sleep 1000";
    let (fixture, _handler, stream) = Fixture::discovering(Some(broker)).await;
    let properties = [
        ("WHERE", fixture.path().to_str().unwrap()),
        ("AKRI_HTTP_DEVICE_ENDPOINT", "http://a:8080"),
    ];
    stream
        .send(vec![device_with("my_shared_device", &properties)])
        .await;
    let environment = appears(fixture.path().join("env")).await;
    let mut akri: Vec<_> = environment
        .lines()
        .filter(|line| line.starts_with("AKRI_"))
        .collect();
    akri.sort_unstable();
    let expected = [
        "AKRI_HTTP_DEVICE_ENDPOINT=http://a:8080",
        "AKRI_HTTP_DEVICE_ENDPOINT_4294EA=http://a:8080",
    ];
    assert_eq!(akri, expected);
    assert!(environment.lines().any(|line| line.starts_with("PATH=")));
}

#[tokio::test]
async fn a_broker_stops_with_its_instance_and_only_then() {
    let (fixture, _handler, stream) = Fixture::discovering(Some(PAIR)).await;
    let path = fixture.path();
    stream
        .send(vec![named(path, "one"), named(path, "two")])
        .await;
    let (one, two) = (pair(path, "one").await, pair(path, "two").await);
    stream.send(vec![named(path, "two")]).await;
    are_gone(one).await;
    assert!(two.iter().all(|pid| is_alive(pid)));
}

#[tokio::test]
async fn rule_14_a_changed_property_does_not_restart_the_broker() {
    let (fixture, _handler, stream) = Fixture::discovering(Some(PAIR)).await;
    let path = fixture.path();
    stream.send(vec![named(path, "one")]).await;
    let one = pair(path, "one").await;
    let mut changed = named(path, "one");
    changed
        .properties
        .insert("DEVICE".to_owned(), "other".to_owned());
    stream.send(vec![changed, named(path, "two")]).await;
    let two = pair(path, "two").await;
    let state = fixture.agent.state().borrow().clone();
    assert!(
        state
            .instances
            .values()
            .any(|i| i.device_id == "one" && i.properties["DEVICE"] == "other")
    );
    assert!(one.iter().chain(&two).all(|pid| is_alive(pid)));
    assert!(!path.join("other").exists());
}

#[tokio::test]
async fn rule_1_the_end_of_a_stream_costs_every_broker_its_life() {
    let (fixture, mut handler, stream) = Fixture::discovering(Some(PAIR)).await;
    stream.send(vec![named(fixture.path(), "one")]).await;
    let one = pair(fixture.path(), "one").await;
    std::fs::remove_file(fixture.path().join("one")).unwrap();
    drop(stream);
    let stream = handler.stream().await;
    stream.send(vec![named(fixture.path(), "one")]).await;
    let again = pair(fixture.path(), "one").await;
    assert_ne!(one, again);
    are_gone(one).await;
}

#[tokio::test]
async fn a_broker_that_does_not_stop_is_killed() {
    let stubborn = "trap '' TERM; echo $$ >$WHERE/tmp; mv $WHERE/tmp $WHERE/$DEVICE; while :; do sleep 1; done";
    let (fixture, _handler, stream) = Fixture::discovering(Some(stubborn)).await;
    stream.send(vec![named(fixture.path(), "one")]).await;
    let pid = appears(fixture.path().join("one")).await;
    let asked = Instant::now();
    stream.send(vec![]).await;
    is_gone(&pid).await;
    assert!(asked.elapsed().as_secs() >= 4, "it had its grace");
}

#[tokio::test]
async fn a_broker_that_exits_is_started_again_with_a_growing_delay() {
    let (fixture, _handler, stream) =
        Fixture::discovering(Some(": >$WHERE/start.$$; exit 3")).await;
    let starts = || {
        let files = std::fs::read_dir(fixture.path()).unwrap();
        files
            .filter(|f| {
                f.as_ref()
                    .unwrap()
                    .file_name()
                    .to_str()
                    .unwrap()
                    .starts_with("start.")
            })
            .count()
    };
    let started = Instant::now();
    stream.send(vec![named(fixture.path(), "one")]).await;
    while starts() < 3 {
        assert!(started.elapsed() < SOON);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let waited = started.elapsed();
    assert!(waited >= Duration::from_secs(3), "1 s and 2 s: {waited:?}");
}

#[tokio::test]
async fn stopping_the_agent_waits_for_its_brokers() {
    let (fixture, _handler, stream) = Fixture::discovering(Some(PAIR)).await;
    let path = fixture.directory.path();
    stream
        .send(vec![named(path, "one"), named(path, "two")])
        .await;
    let pairs = [pair(path, "one").await, pair(path, "two").await];
    fixture.agent.stop().await;
    for pids in pairs {
        assert!(!is_alive(&pids[0]));
        are_gone(pids).await;
    }
}

#[tokio::test]
async fn a_dropped_agent_leaves_no_broker() {
    let (fixture, _handler, stream) = Fixture::discovering(Some(PAIR)).await;
    stream.send(vec![named(fixture.path(), "one")]).await;
    let pids = pair(fixture.path(), "one").await;
    drop(fixture.agent);
    are_gone(pids).await;
}

#[test]
fn a_runtime_that_ends_leaves_no_broker() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let (agent, pids): (StubAgent, _) = runtime.block_on(async {
        let (fixture, _handler, stream) = Fixture::discovering(Some(PAIR)).await;
        stream.send(vec![named(fixture.path(), "one")]).await;
        (fixture.agent, pair(fixture.directory.path(), "one").await)
    });
    drop(runtime);
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap()
        .block_on(are_gone(pids));
    drop(agent);
}

/// The binary with one running broker, and its handler.
async fn binary(directory: &Path, broker: &str) -> (Child, Handler, Stream) {
    let mut binary = Command::new(env!("CARGO_BIN_EXE_stub-agent"));
    let agent = binary
        .env("DISCOVERY_HANDLERS_DIRECTORY", directory)
        .env("AKRI_LEFT_OVER", "from the surroundings")
        .args(["--configuration", "c=details", "--broker", broker])
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut handler = Handler::serve(directory, "http.sock");
    let socket = directory.join(akri_stub_agent::SOCKET_NAME);
    while tokio::net::UnixStream::connect(&socket).await.is_err() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    handler.register(directory).await;
    let stream = handler.stream().await;
    stream.send(vec![named(directory, "one")]).await;
    (agent, handler, stream)
}

fn signal(agent: &Child, signal: Signal) {
    kill_process(
        Pid::from_raw(agent.id().unwrap().cast_signed()).unwrap(),
        signal,
    )
    .unwrap();
}

#[tokio::test]
async fn the_binary_ends_cleanly_on_sigterm_and_on_sigint() {
    for by in [Signal::TERM, Signal::INT] {
        let directory = tempfile::tempdir().unwrap();
        let (mut agent, _handler, stream) = binary(directory.path(), PAIR).await;
        let pids = pair(directory.path(), "one").await;
        signal(&agent, by);
        let status = tokio::time::timeout(SOON, agent.wait())
            .await
            .unwrap()
            .unwrap();
        assert!(status.success(), "{status}");
        are_gone(pids).await;
        stream.dropped().await;
        assert!(!directory.path().join(akri_stub_agent::SOCKET_NAME).exists());
    }
}

#[tokio::test]
async fn a_second_signal_aborts_at_once_and_leaves_no_broker() {
    let directory = tempfile::tempdir().unwrap();
    let stubborn = "trap 'touch $WHERE/asked' TERM
        env | grep ^AKRI_LEFT_OVER >$WHERE/left-over
        echo $$ >$WHERE/tmp; mv $WHERE/tmp $WHERE/$DEVICE
        while :; do sleep 1; done";
    let (mut agent, _handler, _stream) = binary(directory.path(), stubborn).await;
    let pid = appears(directory.path().join("one")).await;
    assert_eq!(appears(directory.path().join("left-over")).await, "");
    signal(&agent, Signal::TERM);
    appears(directory.path().join("asked")).await;
    signal(&agent, Signal::TERM);
    let status = tokio::time::timeout(SOON, agent.wait())
        .await
        .unwrap()
        .unwrap();
    // An orderly stop would end with status 0.
    assert_eq!(status.code(), Some(1));
    is_gone(&pid).await;
}
