//! From the discovery service to the Agent's end of the stream, as long as all goes well.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::{collections::BTreeMap, time::Duration};

use support::*;
use tonic::{Code, transport::Endpoint};

#[tokio::test]
async fn the_walkthroughs_devices_arrive_as_the_walkthrough_has_them() {
    let nine: Vec<String> = (1..=9).map(|n| format!("http://device-{n}:8080")).collect();
    let service = Service::start(Reply::List(nine.join("\n") + "\n")).await;
    let handler = Handler::start().await;

    let mut stream = handler.stream(&service.url()).await;
    let message = soon(stream.0.message()).await.unwrap().unwrap();
    assert_eq!(message.devices.len(), 9);
    for (device, endpoint) in message.devices.into_iter().zip(nine) {
        let properties = BTreeMap::from([
            ("AKRI_HTTP".to_string(), "http".to_string()),
            ("AKRI_HTTP_DEVICE_ENDPOINT".to_string(), endpoint.clone()),
        ]);
        assert_eq!(device.id, endpoint);
        assert_eq!(device.properties, properties);
        assert!(device.mounts.is_empty() && device.device_specs.is_empty());
    }
    let request = service.last_request().to_lowercase();
    assert!(
        request.starts_with("get /discovery http/1.1\r\n"),
        "{request}"
    );
    let agent = concat!(
        "user-agent: akri-http-discovery-handler/",
        env!("CARGO_PKG_VERSION")
    );
    assert!(request.contains(agent), "{request}");
    assert!(request.contains("accept: text/plain"), "{request}");
}

#[tokio::test]
async fn a_change_is_sent_once_and_nothing_else_is() {
    let service = Service::start(list(&["b:1", "a:1"])).await;
    let handler = Handler::start().await;
    let mut stream = handler.stream(&service.details()).await;
    assert_eq!(stream.list().await, ["a:1", "b:1"]);
    service.polled(3).await;
    service.now(list(&["  a:1\r", "", "b:1", "a:1"]));
    service.polled(3).await;

    service.now(list(&["a:1", "c:1"]));
    assert_eq!(stream.list().await, ["a:1", "c:1"]);
    service.polled(3).await;
    service.now(list(&[]));
    assert!(stream.list().await.is_empty());
    let port = service.key();
    log_line(&[&port, "2 devices, new: c:1, gone: b:1"]).await;
}

#[tokio::test]
async fn an_empty_list_is_a_list_and_not_one_device_without_an_id() {
    let service = Service::start(Reply::List("\n".into())).await;
    let handler = Handler::start().await;
    let mut stream = handler.stream(&service.details()).await;
    assert!(stream.list().await.is_empty());
    service.polled(3).await;
    service.now(list(&["a:1"]));
    assert_eq!(stream.list().await, ["a:1"]);
    service.now(raw("204 No Content", ""));
    assert!(stream.list().await.is_empty());
}

#[tokio::test]
async fn equal_requests_share_a_poller_and_a_late_one_gets_the_list_at_once() {
    let service = Service::start(list(&["a:1"])).await;
    let handler = Handler::start().await;
    let details = format!("url: {}\ninterval: 1h", service.url());
    let channel = connect(&format!("unix:{}", handler.socket().display())).await;
    let mut streams = Vec::new();
    for _ in 0..60 {
        streams.push(discover_on(channel.clone(), &details).await.unwrap());
    }
    for stream in &mut streams {
        assert_eq!(stream.list().await, ["a:1"]);
    }
    assert_eq!(service.polls(), 1);

    // Another interval is another request, and the same URL written otherwise is not.
    let mut other = handler
        .stream(&format!("url: {}\ninterval: 2h", service.url()))
        .await;
    assert_eq!(other.list().await, ["a:1"]);
    assert_eq!(service.polls(), 2);
    let mut same = handler
        .stream(&format!("{{url: '{}', interval: 60m}}", service.url()))
        .await;
    assert_eq!(same.list().await, ["a:1"]);
    assert_eq!(service.polls(), 2);
}

#[tokio::test]
async fn a_poller_stops_when_its_last_stream_is_gone() {
    let service = Service::start(list(&["a:1"])).await;
    let handler = Handler::start().await;
    let (mut one, two) = (
        handler.stream(&service.details()).await,
        handler.stream(&service.details()).await,
    );
    one.list().await;
    drop(two);
    service.polled(2).await;
    drop(one);
    log_line(&[&service.key(), "polling ended"]).await;
    let polls = service.polls();
    // A poller that went on would poll many times in a minute, which takes no time from here on.
    tokio::time::pause();
    tokio::time::sleep(Duration::from_secs(60)).await;
    tokio::time::resume();
    assert_eq!(service.polls(), polls);

    let mut again = handler.stream(&service.details()).await;
    assert_eq!(again.list().await, ["a:1"]);
}

/// The transport takes little from the handler as long as nobody reads, so that the stream really is held up.
async fn stream_with_a_small_window(handler: &Handler, details: &str) -> DeviceStream {
    let endpoint = Endpoint::from_shared(format!("unix:{}", handler.socket().display())).unwrap();
    let channel = endpoint
        .initial_stream_window_size(65_535)
        .connect()
        .await
        .unwrap();
    discover_on(channel, details).await.unwrap()
}

#[tokio::test]
async fn a_slow_reader_gets_the_newest_list_and_no_queue() {
    let devices = |port: usize| -> Reply {
        Reply::List(
            (0..3_000)
                .map(|n| format!("http://device-{n}:{port}/\n"))
                .collect(),
        )
    };
    let service = Service::start(devices(1)).await;
    let handler = Handler::start().await;
    let details = format!("url: {}\ninterval: 100ms", service.url());
    let mut slow = stream_with_a_small_window(&handler, &details).await;
    let mut fast = handler.stream(&details).await;
    for port in 1..=20 {
        service.now(devices(port));
        let wanted = format!("http://device-0:{port}/");
        soon(async { while fast.list().await.first() != Some(&wanted) {} }).await;
    }
    let mut messages = 1;
    while slow.list().await.first() != Some(&"http://device-0:20/".to_string()) {
        messages += 1;
    }
    assert!(messages <= 4, "{messages} messages waited");
}

#[tokio::test]
async fn a_list_that_came_back_before_the_reader_looked_is_not_sent_again() {
    let big = |port: usize| -> String {
        (0..3_000)
            .map(|n| format!("http://device-{n}:{port}/\n"))
            .collect()
    };
    let service = Service::start(Reply::List(big(1))).await;
    let handler = Handler::start().await;
    let details = format!("url: {}\ninterval: 100ms", service.url());
    let mut slow = stream_with_a_small_window(&handler, &details).await;
    let mut fast = handler.stream(&details).await;
    fast.list().await;
    for port in [2, 1, 2, 1] {
        service.now(Reply::List(big(port)));
        let wanted = format!("http://device-0:{port}/");
        soon(async { while fast.list().await.first() != Some(&wanted) {} }).await;
    }
    service.now(list(&["the:1"]));
    while fast.list().await != ["the:1"] {}
    let mut last = Vec::new();
    while last != ["the:1"] {
        let next = slow.list().await;
        assert_ne!(next, last);
        last = next;
    }
}

#[tokio::test]
async fn details_that_can_never_work_are_refused_at_once_with_the_reason_in_the_log() {
    let handler = Handler::start().await;
    for (details, why) in [
        ("", "it is empty"),
        (
            "file:///etc/passwd-of-this-test",
            "a scheme that is not http or https",
        ),
        (
            "url: http://d\nintervall-of-this-test: 1s",
            "unknown field `intervall-of-this-test`",
        ),
        ("url: http://d\ninterval: 42", "interval must be a duration"),
    ] {
        let status = handler.discover(details).await.err().unwrap();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().contains(why), "{}", status.message());
        log_line(&["WARN Discover refused", status.message()]).await;
    }
}

#[tokio::test]
async fn a_request_is_answered_before_the_discovery_service_is() {
    let service = Service::start(Reply::Silence).await;
    let handler = Handler::start().await;
    let details = format!("url: {}\ninterval: 200ms\ntimeout: 300ms", service.url());
    let mut stream = handler.stream(&details).await;
    service.polled(2).await;
    service.now(list(&["a:1"]));
    assert_eq!(stream.list().await, ["a:1"]);
}

#[tokio::test]
async fn rule_12_devices_that_akri_cannot_tell_apart_are_both_sent_with_one_warning() {
    let (one, two) = ("http://10.1.0.194:8080", "http://10.1.12.9:8080");
    let service = Service::start(list(&[one, two])).await;
    let handler = Handler::start().await;
    let mut stream = handler.stream(&service.details()).await;
    assert_eq!(stream.list().await, [one, two]);
    service.now(list(&[one, two, "a:1"]));
    assert_eq!(stream.list().await.len(), 3);
    let port = service.key();
    assert_eq!(logged(&["WARN", &port, one, two, "7e27fd"]).len(), 1);
}

#[tokio::test]
async fn with_pod_ip_it_is_served_on_tcp() {
    let service = Service::start(list(&["a:1"])).await;
    let handler = Handler::start_with(|config| {
        config.handler.pod_ip.0 = Some("127.0.0.1".parse().unwrap());
        config.handler.network_port = 0;
    })
    .await;
    let agent = agent::Agent::start(handler.directory.path());
    let endpoint = agent.registered(1).await.endpoint;
    let mut stream = discover(&endpoint, &service.url()).await.unwrap();
    assert_eq!(stream.list().await, ["a:1"]);
    assert!(!handler.socket().exists());
}

#[tokio::test]
async fn one_empty_reply_and_a_flapping_device_cost_no_message() {
    let service = Service::start(list(&["a:1", "b:1"])).await;
    let handler = Handler::start().await;
    let details = format!("url: {}\ninterval: 100ms\ngrace: 1h", service.url());
    let mut stream = handler.stream(&details).await;
    assert_eq!(stream.list().await, ["a:1", "b:1"]);
    for reply in [list(&[]), list(&["a:1", "b:1"]), list(&["b:1"])] {
        service.now(reply);
        service.polled(2).await;
    }
    service.now(list(&["b:1", "c:1"]));
    assert_eq!(stream.list().await, ["a:1", "b:1", "c:1"]);
    let port = service.key();
    log_line(&[
        "WARN",
        &port,
        "2 devices are missing and kept for 3600s, new: a:1 b:1",
    ])
    .await;
    log_line(&["INFO", &port, "2 devices that were missing are back"]).await;
}
