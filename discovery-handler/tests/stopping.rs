//! The end, asked for politely or not, and a start that cannot be.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
};

use support::{agent::Agent, *};

fn binary(directory: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_discovery-handler"));
    command
        .env_clear()
        .env("DISCOVERY_HANDLERS_DIRECTORY", directory)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

fn signal(child: &Child, name: &str) {
    let kill = Command::new("kill")
        .args([name, &child.id().to_string()])
        .status();
    assert!(kill.unwrap().success());
}

/// Its exit code and what it wrote to standard error.
async fn end(child: Child) -> (Option<i32>, String) {
    let output = tokio::task::spawn_blocking(|| child.wait_with_output().unwrap());
    let output = soon(output).await.unwrap();
    (
        output.status.code(),
        String::from_utf8(output.stderr).unwrap(),
    )
}

#[tokio::test]
async fn streams_end_cleanly_and_the_own_socket_goes() {
    let service = Service::start(list(&["a:1"])).await;
    let mut handler = Handler::start().await;
    let mut stream = handler.stream(&service.details()).await;
    stream.list().await;
    let socket = handler.socket();
    handler.stop().await.unwrap();
    assert_eq!(stream.ends().await, None);
    assert!(!socket.exists());
    assert!(!logged(&[&service.key(), "polling ended"]).is_empty());
}

#[tokio::test]
async fn a_stop_while_waiting_for_the_directory_or_the_agent_is_a_stop() {
    let parent = tempfile::tempdir().unwrap();
    let directory = parent.path().join("late");
    let mut handler = Handler::run(parent, config(&directory));
    log_line(&["waiting for the directory", directory.to_str().unwrap()]).await;
    handler.stop().await.unwrap();

    let mut handler = Handler::start().await;
    handler.stop().await.unwrap();
    assert!(!handler.socket().exists());
}

#[tokio::test]
async fn sigterm_and_sigint_end_it_with_status_0_under_open_streams_and_a_hung_service() {
    for name in ["-TERM", "-INT"] {
        let service = Service::start(Reply::Silence).await;
        let good = Service::start(list(&["a:1"])).await;
        let directory = tempfile::tempdir().unwrap();
        let agent = Agent::start(directory.path());
        let child = binary(directory.path()).spawn().unwrap();
        let endpoint = format!("unix:{}", agent.registered(1).await.endpoint);
        let mut hung = discover(&endpoint, &service.url()).await.unwrap();
        let mut open = discover(&endpoint, &good.url()).await.unwrap();
        open.list().await;
        service.polled(service.polls().min(1) ^ 1).await;
        signal(&child, name);
        let (code, log) = end(child).await;
        assert_eq!(code, Some(0), "{log}");
        assert_eq!((open.ends().await, hung.ends().await), (None, None));
        assert!(!directory.path().join("http.sock").exists());
    }
}

#[tokio::test]
async fn an_agent_that_does_not_read_cannot_hold_the_end() {
    let devices = |n: usize| Reply::List((0..30_000).map(|d| format!("d{d}:{n}\n")).collect());
    let service = Service::start(devices(1)).await;
    let directory = tempfile::tempdir().unwrap();
    let agent = Agent::start(directory.path());
    let child = binary(directory.path()).spawn().unwrap();
    let endpoint = format!("unix:{}", agent.registered(1).await.endpoint);
    let details = format!("url: {}\ninterval: 100ms", service.url());
    let _unread = discover(&endpoint, &details).await.unwrap();
    for n in 2..6 {
        service.polled(1).await;
        service.now(devices(n));
    }
    signal(&child, "-TERM");
    let (code, log) = end(child).await;
    assert_eq!(code, Some(0), "{log}");
    assert!(
        log.contains("still open 2s after the stop, and are cut off"),
        "{log}"
    );
}

#[tokio::test]
async fn a_second_signal_aborts_at_once() {
    let devices = (0..30_000).map(|n| format!("d{n}:1\n")).collect();
    let service = Service::start(Reply::List(devices)).await;
    let directory = tempfile::tempdir().unwrap();
    let agent = Agent::start(directory.path());
    let mut child = binary(directory.path()).spawn().unwrap();
    let endpoint = format!("unix:{}", agent.registered(1).await.endpoint);
    // It does not read, and so takes all the time that the end may take.
    let _unread = discover(&endpoint, &service.url()).await.unwrap();
    service.polled(1).await;
    let log = BufReader::new(child.stderr.take().unwrap());
    let mut lines = log.lines().map_while(Result::ok);
    signal(&child, "-TERM");
    let stopping =
        |line: &String| line.contains("SIGTERM: stopping; a second signal aborts at once");
    assert!(lines.any(|line| stopping(&line)));
    signal(&child, "-TERM");
    let (code, _) = end(child).await;
    assert_eq!(code, Some(1));
}

#[tokio::test]
async fn a_bad_setting_is_one_clear_line_and_a_status_that_is_not_0() {
    let directory = tempfile::tempdir().unwrap();
    for (variable, value) in [
        ("SHARED", "perhaps"),
        ("POD_IP", "nowhere"),
        ("DISCOVERY_HANDLER_NAME", "a/b"),
        ("POLL_INTERVAL", "10"),
        ("RUST_LOG", "akri=loud"),
    ] {
        let child = binary(directory.path())
            .env(variable, value)
            .spawn()
            .unwrap();
        let (code, log) = end(child).await;
        assert_eq!(code, Some(2));
        assert_eq!(log.lines().count(), 1, "{log}");
        assert!(log.contains(variable) && log.contains(value), "{log}");
    }
}

#[tokio::test]
async fn an_address_that_cannot_be_had_ends_the_start_with_status_1_whatever_is_logged() {
    let directory = tempfile::tempdir().unwrap();
    // An address of documentation, which no machine has.
    let child = binary(directory.path())
        .env("RUST_LOG", "off")
        .env("POD_IP", "192.0.2.1")
        .spawn()
        .unwrap();
    let (code, log) = end(child).await;
    assert_eq!(code, Some(1));
    assert!(log.contains("binding POD_IP as 192.0.2.1:10000"), "{log}");
}
