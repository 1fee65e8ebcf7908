//! How the Agent starts and stops: its socket, its streams, its settings.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod support;

use akri_stub_agent::{Config, SOCKET_NAME, StubAgent};
use support::*;

#[tokio::test]
async fn a_missing_directory_is_created_and_registering_works_once_started() {
    let directory = tempfile::tempdir().unwrap();
    let missing = directory.path().join("var/lib/akri");
    let agent = StubAgent::start(config(&missing, None)).await.unwrap();
    let handler = Handler::serve(&missing, "http.sock");
    handler.register(&missing).await;
    assert_eq!(agent.state().borrow().registrations.len(), 1);
}

#[tokio::test]
async fn a_socket_that_another_agent_serves_is_an_error_and_stays() {
    let fixture = Fixture::start(None).await;
    let error = StubAgent::start(config(fixture.path(), None))
        .await
        .err()
        .unwrap()
        .to_string();
    assert!(
        error.contains(SOCKET_NAME) && error.contains("another process"),
        "{error}"
    );
    Handler::serve(fixture.path(), "http.sock")
        .register(fixture.path())
        .await;
}

#[tokio::test]
async fn a_file_that_is_no_socket_is_an_error_and_stays() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(SOCKET_NAME);
    std::fs::write(&path, "precious").unwrap();
    let error = StubAgent::start(config(directory.path(), None))
        .await
        .err()
        .unwrap()
        .to_string();
    assert!(error.contains("is not a socket"), "{error}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
}

#[tokio::test]
async fn two_configurations_of_one_name_are_an_error_that_leaves_no_socket() {
    let directory = tempfile::tempdir().unwrap();
    let configurations = vec![configuration("c"), configuration("c")];
    let config = Config {
        configurations,
        ..config(directory.path(), None)
    };
    let error = StubAgent::start(config).await.err().unwrap().to_string();
    assert!(error.contains("named c"), "{error}");
    assert!(!directory.path().join(SOCKET_NAME).exists());
}

#[tokio::test]
async fn stopping_drops_open_streams_and_removes_the_socket() {
    let (fixture, _handler, stream) = Fixture::discovering(None).await;
    stream.send(vec![device("a")]).await;
    fixture.wait_for(|s| s.instances.len() == 1).await;
    let state = fixture.agent.state();
    fixture.agent.stop().await;
    stream.dropped().await;
    assert!(!fixture.directory.path().join(SOCKET_NAME).exists());
    assert_eq!(
        (state.borrow().open_streams, state.borrow().instances.len()),
        (0, 0)
    );
}

#[tokio::test]
async fn stopping_leaves_the_socket_of_a_successor_alone() {
    let fixture = Fixture::start(None).await;
    let path = fixture.path().join(SOCKET_NAME);
    std::fs::remove_file(&path).unwrap();
    let _successor = StubAgent::start(config(fixture.path(), None))
        .await
        .unwrap();
    fixture.agent.stop().await;
    assert!(path.exists());
}

#[tokio::test]
async fn what_was_waited_for_in_vain_is_shown() {
    let fixture = Fixture::start(None).await;
    let waited = fixture
        .agent
        .wait_for(|s| s.messages > 0, std::time::Duration::from_millis(10))
        .await;
    assert!(waited.unwrap_err().to_string().contains("0 messages"));
}

#[test]
fn a_bad_configuration_is_one_line_without_its_secret_and_status_2() {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_stub-agent"))
        .args(["--configuration", "http://user:secret@a/?a=b"])
        .output()
        .unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    assert!(stderr.starts_with("error: value 1 of --configuration"));
    assert!(!stderr.contains("secret"), "{stderr}");
}
