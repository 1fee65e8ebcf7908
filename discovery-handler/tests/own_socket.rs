//! The handler's own socket: whose it is, and what happens when it is lost.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use support::{agent::Agent, *};

#[tokio::test]
async fn a_stale_own_socket_is_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let config = config(directory.path());
    drop(std::os::unix::net::UnixListener::bind(config.handler.own_socket()).unwrap());
    let agent = Agent::start(directory.path());
    let _handler = Handler::run(directory, config);
    agent.registered(1).await;
}

#[tokio::test]
async fn a_socket_that_another_live_process_serves_is_an_error_that_says_so() {
    let first = Handler::start().await;
    let shutdown = std::future::pending();
    let error = soon(akri_http_discovery_handler::run(
        first.config.clone(),
        shutdown,
    ))
    .await;
    let error = format!("{:#}", error.unwrap_err());
    assert!(error.contains("another live process serves"), "{error}");
    assert!(error.contains(first.socket().to_str().unwrap()), "{error}");
    let service = Service::start(list(&["a:1"])).await;
    assert_eq!(first.stream(&service.url()).await.list().await, ["a:1"]);
}

#[tokio::test]
async fn a_file_that_is_no_socket_is_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let config = config(directory.path());
    std::fs::write(config.handler.own_socket(), "precious").unwrap();
    let error = soon(akri_http_discovery_handler::run(
        config.clone(),
        std::future::pending(),
    ))
    .await;
    assert!(format!("{:#}", error.unwrap_err()).contains("is no socket and is not replaced"));
    assert_eq!(
        std::fs::read_to_string(config.handler.own_socket()).unwrap(),
        "precious"
    );
}

#[tokio::test]
async fn a_lost_own_socket_is_bound_again_and_open_streams_live_on() {
    let service = Service::start(list(&["a:1"])).await;
    let handler = Handler::start().await;
    let agent = Agent::start(handler.directory.path());
    agent.registered(1).await;
    let mut stream = handler.stream(&service.details()).await;
    stream.list().await;
    std::fs::remove_file(handler.socket()).unwrap();
    until(|| handler.socket().exists()).await;
    let mut other = handler.stream(&service.details()).await;
    assert_eq!(other.list().await, ["a:1"]);
    service.now(list(&["b:1"]));
    assert_eq!(stream.list().await, ["b:1"]);
    assert_eq!(agent.count(), 1);
}

#[tokio::test]
async fn a_lost_own_socket_without_streams_is_registered_again() {
    let handler = Handler::start().await;
    let agent = Agent::start(handler.directory.path());
    agent.registered(1).await;
    std::fs::remove_file(handler.socket()).unwrap();
    agent.registered(2).await;
    assert!(handler.socket().exists());
}
