//! When Discover is called, and with what: rules 5 to 8 of docs/akri-agent.md.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod support;

use std::time::Duration;

use akri_stub_agent::{Code, Configuration, EndpointType, StubAgent};
use support::*;
use tonic::Status;

#[tokio::test]
async fn rule_5_registering_again_opens_one_more_discover_and_keeps_the_old_one() {
    let (fixture, mut handler, first) = Fixture::discovering(None).await;
    first.send(vec![device("a")]).await;
    handler.register(fixture.path()).await;
    let second = handler.stream().await;
    let state = fixture.wait_for(|s| s.open_streams == 2).await;
    assert_eq!((state.discovers, state.registrations.len()), (2, 2));
    // Another handler's registration opens no stream.
    handler.register_as(fixture.path(), "udev", true).await;
    second.send(vec![device("b")]).await;
    let state = fixture.wait_for(|s| s.instances.len() == 2).await;
    assert!(first.is_open() && handler.is_left_alone());
    assert_eq!((state.discovers, state.deleted), (2, 0));
}

#[tokio::test]
async fn rule_5_every_configuration_gets_a_stream_with_its_own_details() {
    let (fixture, mut handler, _stream) = Fixture::discovering(None).await;
    let properties = [("key".to_owned(), b"\x00\xff".to_vec())];
    let other = Configuration {
        discovery_properties: properties.into(),
        ..configuration("other")
    };
    fixture.agent.add_configuration(other).unwrap();
    let call = handler.called().await;
    assert_eq!(call.request.discovery_details, "details of other");
    assert_eq!(
        call.request.discovery_properties["key"].vec.as_deref(),
        Some(&b"\x00\xff"[..])
    );
    let _other = call.accept();
    fixture.wait_for(|s| s.open_streams == 2).await;
    handler.register(fixture.path()).await;
    let mut details =
        [handler.called().await, handler.called().await].map(|c| c.request.discovery_details);
    details.sort();
    assert_eq!(details, ["details of c", "details of other"]);
}

#[tokio::test]
async fn rule_6_an_agent_that_restarts_forgets_every_handler() {
    let (fixture, mut handler, stream) = Fixture::discovering(None).await;
    let before = fixture.agent.state().borrow().registrations.clone();
    assert_eq!(
        (before.len(), before[0].endpoint.as_str()),
        (1, handler.endpoint.as_str())
    );
    assert_eq!(
        (before[0].endpoint_type, before[0].shared),
        (EndpointType::Uds, true)
    );
    drop(fixture.agent);
    let socket = fixture.directory.path().join(akri_stub_agent::SOCKET_NAME);
    assert!(socket.exists(), "a killed Agent leaves its socket file");
    // This works at once, although the first Agent was only just dropped.
    let agent = StubAgent::start(config(fixture.directory.path(), None))
        .await
        .unwrap();
    stream.dropped().await;
    agent.add_configuration(configuration("c")).unwrap();
    assert!(agent.state().borrow().registrations.is_empty() && handler.is_left_alone());
    handler.register(fixture.directory.path()).await;
    handler.called().await;
}

#[tokio::test]
async fn a_configuration_whose_handler_comes_late_discovers_at_once() {
    let fixture = Fixture::start(None).await;
    fixture.agent.add_configuration(configuration("c")).unwrap();
    let mut handler = Handler::serve(fixture.path(), "http.sock");
    handler.register(fixture.path()).await;
    handler.called().await;
    assert!(fixture.agent.state().borrow().delays.is_empty());
}

#[tokio::test]
async fn rule_7_a_late_registration_does_not_wake_a_waiting_configuration() {
    let fixture = Fixture::start(None).await;
    let mut handler = Handler::serve(fixture.path(), "http.sock");
    handler.register(fixture.path()).await;
    fixture.agent.add_configuration(configuration("c")).unwrap();
    let first = handler.called().await;
    let at = first.at;
    first.refuse(Status::unavailable("not yet"));
    fixture.wait_for(|s| s.discover_errors.len() == 1).await;
    handler.register(fixture.path()).await;
    let waited = handler.called().await.at - at;
    let delays = fixture.agent.state().borrow().delays.clone();
    assert_eq!(delays, [Duration::from_secs(1)]);
    assert!(waited >= delays[0], "{waited:?}");
}

#[tokio::test]
async fn rule_7_the_delay_doubles_from_one_second_and_starts_over_after_a_success() {
    let fixture = Fixture::start(None).await;
    let mut handler = Handler::serve(fixture.path(), "http.sock");
    handler.register(fixture.path()).await;
    fixture.agent.add_configuration(configuration("c")).unwrap();
    let first = handler.called().await;
    let start = first.at;
    first.refuse(Status::unavailable("not yet"));
    handler
        .called()
        .await
        .refuse(Status::unavailable("not yet"));
    let third = handler.called().await;
    let waited = third.at - start;
    assert!(waited >= Duration::from_secs(3), "{waited:?}");
    drop(third.accept());
    handler.called().await.refuse(Status::unavailable("again"));
    handler.called().await;
    let delays = fixture.agent.state().borrow().delays.clone();
    assert_eq!(delays, [1, 2, 1].map(Duration::from_secs));
}

#[tokio::test]
async fn rule_7_one_endpoint_that_is_gone_fails_the_request_once() {
    let fixture = Fixture::start(None).await;
    let mut handler = Handler::serve(fixture.path(), "http.sock");
    handler.register(fixture.path()).await;
    let nobody = fixture.path().join("nobody.sock").display().to_string();
    register(fixture.path(), "http", &nobody, EndpointType::Uds, true).await;
    fixture.agent.add_configuration(configuration("c")).unwrap();
    let state = fixture.wait_for(|s| !s.discover_errors.is_empty()).await;
    assert_eq!(state.discover_errors[0].endpoint, nobody);
    assert_eq!(state.discover_errors[0].code, Code::Unavailable);
    // The next try leaves out the unreachable endpoint, and succeeds. The first try may have called the other one.
    let state = loop {
        let stream = handler.stream().await;
        tokio::select! {
            () = stream.dropped() => {}
            state = fixture.wait_for(|s| s.open_streams == 1) => break state,
        }
    };
    assert_eq!(state.discover_errors.len(), 1);
}

#[tokio::test]
async fn rule_8_bad_details_are_invalid_argument_and_are_tried_again() {
    let fixture = Fixture::start(None).await;
    let mut handler = Handler::serve(fixture.path(), "http.sock");
    handler.register(fixture.path()).await;
    fixture.agent.add_configuration(configuration("c")).unwrap();
    handler
        .called()
        .await
        .refuse(Status::invalid_argument("no URL"));
    let state = fixture.wait_for(|s| !s.discover_errors.is_empty()).await;
    let error = &state.discover_errors[0];
    assert_eq!(
        (
            error.configuration.as_str(),
            error.code,
            error.message.as_str()
        ),
        ("c", Code::InvalidArgument, "no URL")
    );
    assert_eq!(error.endpoint, handler.endpoint);
    let _stream = handler.stream().await;
    fixture.wait_for(|s| s.open_streams == 1).await;
}

#[tokio::test]
async fn a_handler_that_registers_before_it_listens_is_found_unless_another_one_is_open() {
    let fixture = Fixture::start(None).await;
    fixture.agent.add_configuration(configuration("c")).unwrap();
    let path = |name: &str| fixture.path().join(name).display().to_string();
    register(
        fixture.path(),
        "http",
        &path("one.sock"),
        EndpointType::Uds,
        true,
    )
    .await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    let mut one = Handler::serve(fixture.path(), "one.sock");
    let _open = one.stream().await;
    let state = fixture.wait_for(|s| s.open_streams == 1).await;
    assert!(state.discover_errors.is_empty());
    // The request is live now, and meets the next one at once.
    register(
        fixture.path(),
        "http",
        &path("two.sock"),
        EndpointType::Uds,
        true,
    )
    .await;
    let state = fixture.wait_for(|s| !s.discover_errors.is_empty()).await;
    assert_eq!(state.discover_errors[0].endpoint, path("two.sock"));
}

#[tokio::test]
async fn a_handler_on_tcp_is_reached_too() {
    let fixture = Fixture::start(None).await;
    let mut handler = Handler::serve_network().await;
    handler.register(fixture.path()).await;
    fixture.agent.add_configuration(configuration("c")).unwrap();
    let stream = handler.stream().await;
    stream.send(vec![device("a")]).await;
    let state = fixture.wait_for(|s| s.instances.len() == 1).await;
    assert_eq!(state.registrations[0].endpoint_type, EndpointType::Network);
    assert_eq!(state.registrations[0].endpoint, handler.endpoint);
}

#[tokio::test]
async fn a_deleted_configuration_drops_its_streams_and_its_instances() {
    let (fixture, mut handler, stream) = Fixture::discovering(None).await;
    fixture
        .agent
        .add_configuration(configuration("other"))
        .unwrap();
    let other = handler.stream().await;
    stream.send(vec![device("a")]).await;
    other.send(vec![device("a")]).await;
    fixture.wait_for(|s| s.instances.len() == 2).await;
    assert!(fixture.agent.add_configuration(configuration("c")).is_err());
    fixture.agent.delete_configuration("c").await.unwrap();
    let state = fixture.agent.state().borrow().clone();
    assert_eq!(
        (state.open_streams, state.instances.len(), state.deleted),
        (1, 1, 1)
    );
    stream.dropped().await;
    assert!(other.is_open());
    assert!(fixture.agent.delete_configuration("c").await.is_err());
}
