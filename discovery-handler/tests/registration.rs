//! The Agent knows this handler, whoever of the two comes first or goes, and hears of it no oftener than it must.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::{
    os::unix::fs::{MetadataExt, PermissionsExt},
    time::{Duration, Instant},
};

use akri_proto::v0::register_discovery_handler_request::EndpointType;
use support::{agent::Agent, *};
use tokio::net::UnixListener;
use tonic::Status;

/// Lets some seconds pass, in which the directory is looked at again many times; it takes no time.
async fn seconds_pass() {
    tokio::time::pause();
    tokio::time::sleep(Duration::from_secs(3)).await;
    tokio::time::resume();
}

#[tokio::test]
async fn it_registers_with_what_the_walkthrough_registers() {
    let handler = Handler::start().await;
    let agent = Agent::start(handler.directory.path());
    let request = agent.registered(1).await;
    assert_eq!(request.name, "http");
    assert_eq!(request.endpoint, handler.socket().to_str().unwrap());
    assert_eq!(request.endpoint_type(), EndpointType::Uds);
    assert!(request.shared);
}

#[tokio::test]
async fn settings_change_what_is_registered() {
    let service = Service::start(list(&["a:1"])).await;
    let handler = Handler::start_with(|config| {
        config.handler.discovery_handler_name = "http-2".into();
        config.handler.shared = false;
        config.handler.pod_ip.0 = Some("::1".parse().unwrap());
        config.handler.network_port = 0;
    })
    .await;
    let agent = Agent::start(handler.directory.path());
    let request = agent.registered(1).await;
    assert_eq!(request.name, "http-2");
    assert!(!request.shared);
    assert_eq!(request.endpoint_type(), EndpointType::Network);
    assert!(
        request.endpoint.starts_with("http://[::1]:"),
        "{}",
        request.endpoint
    );
    let mut stream = discover(&request.endpoint, &service.url()).await.unwrap();
    assert_eq!(stream.list().await, ["a:1"]);
}

#[tokio::test]
async fn what_is_registered_answers_already() {
    let directory = tempfile::tempdir().unwrap();
    let agent = Agent::start(directory.path());
    let config = config(directory.path());
    let handler = Handler::run(directory, config);
    let registered = agent.registered(1).await;
    let connected = std::os::unix::net::UnixStream::connect(registered.endpoint);
    assert!(connected.is_ok());
    assert!(handler.is_running());
}

#[tokio::test]
async fn a_late_agent_is_registered_with_within_a_fifth_of_a_second() {
    let handler = Handler::start().await;
    log_line(&[
        "INFO waiting for the Agent's socket",
        handler.directory.path().to_str().unwrap(),
    ])
    .await;
    // A busy machine may take longer, but not each time.
    soon(async {
        loop {
            let started = Instant::now();
            let agent = Agent::start(handler.directory.path());
            agent.registered(1).await;
            if started.elapsed() < Duration::from_millis(200) {
                break;
            }
        }
    })
    .await;
}

#[tokio::test]
async fn a_late_directory_is_waited_for() {
    let parent = tempfile::tempdir().unwrap();
    let directory = parent.path().join("var/lib/akri");
    let handler = Handler::run(parent, config(&directory));
    log_line(&["waiting for the directory", directory.to_str().unwrap()]).await;
    std::fs::create_dir_all(&directory).unwrap();
    let agent = Agent::start(&directory);
    agent.registered(1).await;
    assert!(handler.socket().exists());
}

#[tokio::test]
async fn rule_6_an_agent_that_restarts_without_streams_is_noticed_also_under_the_same_inode() {
    let handler = Handler::start().await;
    let mut inodes = Vec::new();
    for _ in 0..5 {
        let agent = Agent::start(handler.directory.path());
        inodes.push(std::fs::metadata(&agent.socket).unwrap().ino());
        agent.registered(1).await;
        seconds_pass().await;
        assert_eq!(agent.count(), 1, "inodes {inodes:?}");
    }
}

#[tokio::test]
async fn rule_6_an_agent_that_restarts_is_noticed_while_somebody_else_holds_a_stream() {
    let service = Service::start(list(&["a:1"])).await;
    let handler = Handler::start().await;
    let agent = Agent::start(handler.directory.path());
    agent.registered(1).await;
    let mut somebody_elses = handler.stream(&service.details()).await;
    somebody_elses.list().await;
    drop(agent);
    for _ in 0..3 {
        Agent::start(handler.directory.path()).registered(1).await;
    }
    service.now(list(&["b:1"]));
    assert_eq!(somebody_elses.list().await, ["b:1"]);
}

#[tokio::test]
async fn an_agent_that_restarts_with_streams_is_registered_with_again() {
    let service = Service::start(list(&["a:1"])).await;
    let handler = Handler::start().await;
    for _ in 0..3 {
        let agent = Agent::start(handler.directory.path());
        agent.registered(1).await;
        let mut streams = Vec::new();
        for _ in 0..3 {
            streams.push(handler.stream(&service.details()).await);
        }
        for stream in &mut streams {
            stream.list().await;
        }
        assert_eq!(agent.count(), 1);
        drop(agent);
        drop(streams);
    }
}

#[tokio::test]
async fn rule_5_it_does_not_register_again_while_a_stream_is_open() {
    let service = Service::start(list(&["a:1"])).await;
    let handler = Handler::start().await;
    let agent = Agent::start(handler.directory.path());
    agent.registered(1).await;
    let mut one = handler.stream(&service.details()).await;
    let two = handler.stream(&service.details()).await;
    one.list().await;
    drop(two);
    // The file changes, the Agent behind it does not.
    std::fs::set_permissions(&agent.socket, std::fs::Permissions::from_mode(0o700)).unwrap();
    std::fs::write(handler.directory.path().join("noise"), "").unwrap();
    seconds_pass().await;
    assert_eq!(agent.count(), 1);
    service.now(list(&["b:1"]));
    assert_eq!(one.list().await, ["b:1"]);
}

#[tokio::test]
async fn a_socket_whose_mode_changes_is_still_the_same_agents() {
    let handler = Handler::start().await;
    let agent = Agent::start(handler.directory.path());
    agent.registered(1).await;
    if std::fs::metadata(&agent.socket).unwrap().created().is_err() {
        return; // Without birth times it cannot be told from another one, and registering again is right.
    }
    for mode in [0o700, 0o755] {
        let mode = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(&agent.socket, mode).unwrap();
        seconds_pass().await;
    }
    assert_eq!(agent.count(), 1);
}

#[tokio::test]
async fn it_is_no_heartbeat() {
    let service = Service::start(list(&["a:1"])).await;
    let handler = Handler::start().await;
    let agent = Agent::start(handler.directory.path());
    agent.registered(1).await;
    let details = format!("url: {}\ninterval: 1h", service.url());
    let mut stream = handler.stream(&details).await;
    stream.list().await;
    tokio::time::pause();
    tokio::time::sleep(Duration::from_secs(3_600)).await;
    assert_eq!(agent.count(), 1);
}

#[tokio::test]
async fn rule_24_an_agent_that_opens_no_stream_is_told_again_less_and_less_often() {
    let handler = Handler::start().await;
    let agent = Agent::start(handler.directory.path());
    agent.registered(1).await;
    tokio::time::pause();
    // After 7, 21, 49, 105, 217 and 441 s, and then every 300 s.
    for (seconds, count) in [(5, 1), (13, 2), (302, 6), (3_600, 18)] {
        tokio::time::sleep(Duration::from_secs(seconds)).await;
        let told = agent.count();
        assert!(
            (count - 1..=count).contains(&told),
            "{told} instead of {count}"
        );
    }
}

#[tokio::test]
async fn when_the_agent_drops_the_last_stream_it_registers_again() {
    let service = Service::start(list(&["a:1"])).await;
    let handler = Handler::start().await;
    let agent = Agent::start(handler.directory.path());
    agent.registered(1).await;
    let one = handler.stream(&service.details()).await;
    let two = handler.stream(&service.details()).await;
    drop((one, two));
    agent.registered(2).await;
    seconds_pass().await;
    assert_eq!(agent.count(), 2);
}

#[tokio::test]
async fn an_agent_that_drops_every_stream_is_not_flooded() {
    let service = Service::start(list(&["a:1"])).await;
    let handler = Handler::start().await;
    let agent = Agent::start(handler.directory.path());
    agent.registered(1).await;
    // Waiting takes no time from here on.
    tokio::time::pause();
    let started = tokio::time::Instant::now();
    for count in 2..=12 {
        drop(handler.stream(&service.details()).await);
        agent.registered(count).await;
    }
    // A hot loop would take some milliseconds.
    let took = started.elapsed();
    assert!(
        took > Duration::from_secs(5),
        "12 registrations in {took:?}"
    );
}

#[tokio::test]
async fn a_refused_registration_is_tried_again_with_the_cause_in_the_log() {
    let handler = Handler::start().await;
    let refusal = Status::internal("not on a Monday");
    let agent = Agent::start_answering(handler.directory.path(), Some(refusal));
    agent.registered(4).await;
    let socket = agent.socket.to_str().unwrap();
    let line = log_line(&["WARN registering with", socket, "not on a Monday"]).await;
    assert!(line.contains("Internal"), "{line}");
    agent.answer(None);
    log_line(&["INFO registering with", socket, "works again after"]).await;
    assert_eq!(logged(&["WARN", socket]).len(), 1);
}

#[tokio::test]
async fn a_registration_that_the_agent_took_without_saying_so_is_not_repeated() {
    let service = Service::start(list(&["a:1"])).await;
    let handler = Handler::start().await;
    let refusal = Status::unavailable("too late");
    let agent = Agent::start_answering(handler.directory.path(), Some(refusal));
    agent.registered(1).await;
    let mut stream = handler.stream(&service.details()).await;
    stream.list().await;
    // One may be under way.
    let count = agent.count();
    seconds_pass().await;
    assert!(agent.count() <= count + 1);
}

#[tokio::test]
async fn a_socket_that_nobody_serves_is_waited_out() {
    let handler = Handler::start().await;
    let path = handler.directory.path().join("agent-registration.sock");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    log_line(&[
        "WARN registering with",
        path.to_str().unwrap(),
        "Connection refused",
    ])
    .await;
    let agent = Agent::start(handler.directory.path());
    agent.registered(1).await;
}

#[tokio::test]
async fn an_agent_that_hangs_is_given_up_for_its_successor() {
    let handler = Handler::start().await;
    let path = handler.directory.path().join("agent-registration.sock");
    let hanging = UnixListener::bind(&path).unwrap();
    let _connection = soon(hanging.accept()).await.unwrap();
    let agent = Agent::start(handler.directory.path());
    agent.registered(1).await;
    let socket = path.to_str().unwrap();
    log_line(&["WARN", socket, "the Agent's socket was replaced meanwhile"]).await;
}

#[tokio::test]
async fn a_peer_that_vanished_without_a_word_is_noticed() {
    let service = Service::start(list(&["a:1"])).await;
    let handler = Handler::start().await;
    let agent = Agent::start(handler.directory.path());
    agent.registered(1).await;
    // Its end is held open by a thread that does nothing any more.
    let endpoint = format!("unix:{}", handler.socket().display());
    let details = format!("url: {}\ninterval: 1h", service.url());
    let (opened, is_open) = tokio::sync::oneshot::channel();
    let (_gone, wait) = std::sync::mpsc::channel::<()>();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let stream = runtime.block_on(async {
            let mut stream = discover(&endpoint, &details).await.unwrap();
            stream.list().await;
            stream
        });
        opened.send(()).unwrap();
        let _ = wait.recv();
        drop(stream);
    });
    soon(is_open).await.unwrap();
    assert_eq!(agent.count(), 1);
    // From here on, waiting for a timer takes no time.
    tokio::time::pause();
    let noticed = Instant::now();
    while agent.count() < 2 {
        assert!(noticed.elapsed() < SOON);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
