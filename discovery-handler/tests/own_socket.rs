//! The handler's own socket: whose it is, and what happens when it is lost.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use support::{agent::Agent, *};

#[tokio::test]
async fn a_stale_own_socket_is_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let config = config(directory.path());
    drop(std::os::unix::net::UnixListener::bind(directory.path().join("http.sock")).unwrap());
    let agent = Agent::start(directory.path());
    let _handler = Handler::run(directory, config);
    agent.registered(1).await;
}

#[tokio::test]
async fn where_live_processes_serve_all_names_it_is_an_error_that_says_so() {
    let directory = tempfile::tempdir().unwrap();
    let config = config(directory.path());
    let names = (1..=8).map(|n| match n {
        1 => "http.sock".to_owned(),
        n => format!("http-{n}.sock"),
    });
    let sockets: Vec<_> = names.map(|name| directory.path().join(name)).collect();
    let others: Vec<_> = (sockets.iter())
        .map(|socket| std::os::unix::net::UnixListener::bind(socket).unwrap())
        .collect();
    let run = akri_http_discovery_handler::run(config, std::future::pending());
    let error = format!("{:#}", soon(run).await.unwrap_err());
    assert!(error.contains("other live processes serve"), "{error}");
    for socket in sockets {
        assert!(error.contains(socket.to_str().unwrap()), "{error}");
        assert!(socket.exists());
    }
    drop(others);
}

#[tokio::test]
async fn a_file_that_is_no_socket_is_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let config = config(directory.path());
    std::fs::write(directory.path().join("http.sock"), "precious").unwrap();
    let error = soon(akri_http_discovery_handler::run(
        config.clone(),
        std::future::pending(),
    ))
    .await;
    let error = format!("{:#}", error.unwrap_err());
    assert!(
        error.contains("it is no socket and is not replaced"),
        "{error}"
    );
    assert_eq!(
        std::fs::read_to_string(directory.path().join("http.sock")).unwrap(),
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

#[tokio::test]
async fn a_directory_that_is_made_anew_gets_the_own_socket_and_a_registration_again() {
    let parent = tempfile::tempdir().unwrap();
    let directory = parent.path().join("akri");
    std::fs::create_dir(&directory).unwrap();
    let handler = Handler::run(parent, config(&directory));
    let agent = Agent::start(&directory);
    agent.registered(1).await;
    drop(agent);
    for _ in 0..3 {
        std::fs::remove_dir_all(&directory).unwrap();
        std::fs::create_dir(&directory).unwrap();
        let agent = Agent::start(&directory);
        let registered = agent.registered(1).await;
        until(|| handler.socket().exists()).await;
        let service = Service::start(list(&["a:1"])).await;
        let mut stream = discover(&format!("unix:{}", registered.endpoint), &service.url())
            .await
            .unwrap();
        assert_eq!(stream.list().await, ["a:1"]);
    }
    assert!(handler.is_running());
}
