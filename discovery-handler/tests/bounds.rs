//! What peers and replies can make the handler hold, wait for and log is bounded.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::{collections::HashMap, process::Command};

use akri_proto::v0::{
    ByteData, DiscoverRequest, DiscoverResponse, discovery_handler_client::DiscoveryHandlerClient,
};
use support::{agent::Agent, *};
use tokio_stream::{Stream, StreamExt};
use tonic::{
    Code, Request, Status, client::Grpc, codegen::http::uri::PathAndQuery, transport::Channel,
};
use tonic_prost::ProstCodec;

async fn on_tcp() -> (Handler, String) {
    let handler = Handler::start_with(|config| {
        config.handler.pod_ip.0 = Some("127.0.0.1".parse().unwrap());
        config.handler.network_port = 0;
    })
    .await;
    let agent = Agent::start(handler.directory.path());
    let endpoint = agent.registered(1).await.endpoint;
    (handler, endpoint)
}

fn request(details: impl Into<String>) -> DiscoverRequest {
    DiscoverRequest {
        discovery_details: details.into(),
        ..Default::default()
    }
}

/// A call whose request is what this stream brings.
async fn call(
    channel: Channel,
    messages: impl Stream<Item = DiscoverRequest> + Send + 'static,
) -> Result<(), Status> {
    let mut grpc = Grpc::new(channel);
    grpc.ready().await.unwrap();
    let path = PathAndQuery::from_static("/v0.DiscoveryHandler/Discover");
    let codec = ProstCodec::<DiscoverRequest, DiscoverResponse>::new();
    let answer = grpc.streaming(Request::new(messages), path, codec).await?;
    answer.into_inner().message().await.map(drop)
}

#[tokio::test]
async fn a_request_that_never_ends_is_over_after_ten_seconds() {
    let handler = Handler::start().await;
    let channel = connect(&format!("unix:{}", handler.socket().display())).await;
    tokio::time::pause();
    let started = tokio::time::Instant::now();
    let status = call(channel, tokio_stream::pending()).await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded);
    assert_eq!(started.elapsed().as_secs(), 10);
}

#[tokio::test]
async fn details_urls_and_properties_have_a_size_that_is_refused() {
    let handler = Handler::start().await;
    let channel = connect(&format!("unix:{}", handler.socket().display())).await;
    let properties = |count: usize, bytes: usize| DiscoverRequest {
        discovery_properties: (0..count)
            .map(|n| {
                let vec = Some(vec![b'x'; bytes]);
                (n.to_string(), ByteData { vec })
            })
            .collect::<HashMap<_, _>>(),
        ..request("http://127.0.0.1:1/")
    };
    let long_url = format!("http://127.0.0.1:1/{}", "x".repeat(2_048));
    for (request, code, why) in [
        (
            request("x".repeat(8_193)),
            Code::InvalidArgument,
            "discoveryDetails have 8193 bytes, more than 8192",
        ),
        (
            request("x".repeat(3_000_000)),
            Code::OutOfRange,
            "the request has more than",
        ),
        (
            request(long_url),
            Code::InvalidArgument,
            "the URL is longer than 2048 bytes",
        ),
        (
            properties(1, 262_144),
            Code::InvalidArgument,
            "1 discoveryProperties have 262145 bytes",
        ),
        (
            properties(1_001, 1),
            Code::InvalidArgument,
            "1001 discoveryProperties have",
        ),
    ] {
        let mut client = DiscoveryHandlerClient::new(channel.clone());
        let status = soon(client.discover(request)).await.unwrap_err();
        assert_eq!(status.code(), code, "{status}");
        assert!(status.message().contains(why), "{status}");
        let line = log_line(&["Discover refused", why]).await;
        assert!(line.len() < 400, "{line}");
    }
    let mut client = DiscoveryHandlerClient::new(channel);
    soon(client.discover(properties(2, 100_000))).await.unwrap();
}

#[tokio::test]
async fn silent_connections_make_room_for_an_agent_however_many_they_are() {
    let service = Service::start(list(&["a:1"])).await;
    let (_handler, endpoint) = on_tcp().await;
    let address = endpoint.strip_prefix("http://").unwrap();
    let mut held = discover(&endpoint, &service.details()).await.unwrap();
    held.list().await;
    let mut silent = Vec::new();
    for _ in 0..300 {
        let mut connection = tokio::net::TcpStream::connect(address).await.unwrap();
        tokio::io::AsyncWriteExt::write_all(&mut connection, b"P")
            .await
            .unwrap();
        silent.push(connection);
    }
    let mut stream = discover(&endpoint, &service.details()).await.unwrap();
    assert_eq!(stream.list().await, ["a:1"]);
    // The oldest ones were closed, and no stream was.
    let mut first = silent.swap_remove(0);
    let mut rest = Vec::new();
    // An error is an end, too.
    let _ = soon(tokio::io::AsyncReadExt::read_to_end(&mut first, &mut rest)).await;
    service.now(list(&["b:1"]));
    assert_eq!(held.list().await, ["b:1"]);
}

#[tokio::test]
async fn streams_are_bounded_and_one_that_ends_makes_room() {
    let service = Service::start(list(&["a:1"])).await;
    let handler = Handler::start().await;
    let endpoint = format!("unix:{}", handler.socket().display());
    let channels = [connect(&endpoint).await, connect(&endpoint).await];
    let mut streams = Vec::new();
    for n in 0..64 {
        let stream = discover_on(channels[n % 2].clone(), &service.details()).await;
        streams.push(stream.unwrap());
    }
    let refused = discover_on(channels[0].clone(), &service.details()).await;
    let status = refused.err().unwrap();
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert!(
        status.message().contains("64 streams are open already"),
        "{status}"
    );
    streams.pop();
    soon(async {
        while discover_on(channels[0].clone(), &service.details())
            .await
            .is_err()
        {}
    })
    .await;
    assert_eq!(streams[0].list().await, ["a:1"]);
}

#[tokio::test]
async fn large_requests_that_never_end_take_little_memory_and_keep_no_agent_out() {
    let service = Service::start(list(&["a:1"])).await;
    let directory = tempfile::tempdir().unwrap();
    let agent = Agent::start(directory.path());
    let mut handler = Command::new(env!("CARGO_BIN_EXE_discovery-handler"))
        .env_clear()
        .env("DISCOVERY_HANDLERS_DIRECTORY", directory.path())
        .env("RUST_LOG", "error")
        .spawn()
        .unwrap();
    let endpoint = format!("unix:{}", agent.registered(1).await.endpoint);
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let channel = connect(&endpoint).await;
        for _ in 0..50 {
            let large = DiscoverRequest {
                discovery_properties: HashMap::from([(
                    "CA".to_owned(),
                    ByteData {
                        vec: Some(vec![b'x'; 250_000]),
                    },
                )]),
                ..request(service.url())
            };
            let endless = tokio_stream::once(large).chain(tokio_stream::pending());
            calls.spawn(call(channel.clone(), endless));
        }
    }
    // More than may be arriving have come when one has been dropped for others.
    let dropped = soon(calls.join_next()).await.unwrap().unwrap().unwrap_err();
    assert_eq!(dropped.code(), Code::ResourceExhausted);
    let mut stream = discover(&endpoint, &service.url()).await.unwrap();
    assert_eq!(stream.list().await, ["a:1"]);
    let status = std::fs::read_to_string(format!("/proc/{}/status", handler.id())).unwrap();
    let peak = status
        .lines()
        .find(|line| line.starts_with("VmHWM"))
        .unwrap();
    let kib: u64 = peak.split_whitespace().nth(1).unwrap().parse().unwrap();
    handler.kill().unwrap();
    handler.wait().unwrap();
    assert!(kib < 24 * 1024, "{kib} KiB");
}

#[tokio::test]
async fn ever_new_requests_that_are_dropped_at_once_do_not_fill_the_log() {
    let handler = Handler::start().await;
    let channel = connect(&format!("unix:{}", handler.socket().display())).await;
    for n in 0..300 {
        let details = format!("http://127.0.0.1:1/flood-{n}");
        let stream = discover_on(channel.clone(), &details).await.unwrap();
        tokio::task::yield_now().await;
        drop(stream);
    }
    // Of each request that was told of, its polls are told of too.
    let lines = logged(&["/flood-"]).len();
    assert!((1..=150).contains(&lines), "{lines} lines");
}

#[tokio::test]
async fn a_list_that_changes_in_every_poll_does_not_fill_the_log() {
    let service = Service::start(list(&["a:1"])).await;
    let handler = Handler::start().await;
    let details = format!("url: {}\ninterval: 100ms", service.url());
    let mut stream = handler.stream(&details).await;
    stream.list().await;
    for n in 2..40 {
        service.now(list(&[&format!("a:{n}")]));
        stream.list().await;
    }
    let port = service.key();
    let lines = logged(&[&port, "1 devices"]).len();
    // Ten at once, and one more in 10 s.
    assert!((2..=20).contains(&lines), "{lines} lines");
}

#[tokio::test]
async fn an_own_socket_that_is_removed_again_and_again_does_not_fill_the_log() {
    let handler = Handler::start().await;
    let socket = handler.socket();
    for _ in 0..20 {
        std::fs::remove_file(&socket).unwrap();
        until(|| socket.exists()).await;
    }
    let lines = logged(&[socket.to_str().unwrap(), "was lost"]).len();
    // Ten at once, and one more in 10 s.
    assert!((1..=17).contains(&lines), "{lines} lines");
}

#[tokio::test]
async fn without_threads_a_look_up_is_a_poll_that_fails() {
    // Only another user than root is bound by the limit, and only root can become one.
    let is_root = Command::new("id").arg("-u").output().unwrap().stdout == b"0\n";
    if !is_root || Command::new("setpriv").arg("--version").output().is_err() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o777);
    std::fs::set_permissions(directory.path(), open).unwrap();
    let binary = directory.path().join("discovery-handler");
    std::fs::copy(env!("CARGO_BIN_EXE_discovery-handler"), &binary).unwrap();
    for processes in ["1", "2"] {
        let agent = Agent::start(directory.path());
        let everyone = std::os::unix::fs::PermissionsExt::from_mode(0o777);
        std::fs::set_permissions(&agent.socket, everyone).unwrap();
        let log = directory.path().join(processes);
        let mut handler = Command::new("setpriv")
            .args(["--reuid=64321", "--clear-groups", "prlimit"])
            .arg(format!("--nproc={processes}"))
            .arg(&binary)
            .env("DISCOVERY_HANDLERS_DIRECTORY", directory.path())
            .stderr(std::fs::File::create(&log).unwrap())
            .spawn()
            .unwrap();
        let endpoint = format!("unix:{}", agent.registered(1).await.endpoint);
        let details = "url: http://no-such-name.example/\ninterval: 100ms";
        let _stream = discover(&endpoint, details).await.unwrap();
        let said = || std::fs::read_to_string(&log).unwrap();
        until(|| said().contains("there is no list yet")).await;
        assert!(!said().contains("panicked"), "{}", said());
        assert!(handler.try_wait().unwrap().is_none(), "{}", said());
        handler.kill().unwrap();
        handler.wait().unwrap();
    }
}
