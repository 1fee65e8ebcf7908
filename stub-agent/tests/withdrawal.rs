//! What takes devices away, and what does not: rules 1 to 4 of docs/akri-agent.md.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod support;

use akri_stub_agent::{Code, State, StubAgent, instance_hash};
use support::*;
use tonic::Status;

fn instance(id: &str) -> String {
    format!("c-{}", instance_hash(id, None))
}

#[tokio::test]
async fn rule_1_a_stream_that_ends_withdraws_its_devices() {
    let (fixture, mut handler, stream) = Fixture::discovering(None).await;
    stream.send(vec![device("a"), device("b")]).await;
    fixture.wait_for(|s| s.instances.len() == 2).await;
    drop(stream);
    // The Agent calls Discover again at once, and deletes the Instances before the new stream sends a list.
    let again = handler.stream().await;
    fixture
        .wait_for(|s| s.instances.is_empty() && s.deleted == 2)
        .await;
    again.send(vec![device("a"), device("b")]).await;
    let state = fixture.wait_for(|s| s.instances.len() == 2).await;
    assert_eq!(
        (state.created, state.deleted, state.open_streams),
        (4, 2, 1)
    );
}

#[tokio::test]
async fn rule_1_a_stream_that_fails_withdraws_its_devices() {
    let (fixture, mut handler, stream) = Fixture::discovering(None).await;
    stream.send(vec![device("a")]).await;
    fixture.wait_for(|s| s.instances.len() == 1).await;
    stream.fail(Status::internal("the poll failed")).await;
    let _again = handler.stream().await;
    let state = fixture.wait_for(|s| s.deleted == 1).await;
    assert_eq!(state.discover_errors[0].code, Code::Internal);
    assert_eq!(state.discover_errors[0].message, "the poll failed");
}

#[tokio::test]
async fn rule_1_devices_of_a_handler_that_is_gone_go_with_it() {
    let (fixture, handler, stream) = Fixture::discovering(None).await;
    stream.send(vec![device("a")]).await;
    fixture.wait_for(|s| s.instances.len() == 1).await;
    std::fs::remove_file(&handler.endpoint).unwrap();
    drop((handler, stream));
    let gone = |s: &State| s.instances.is_empty() && s.deleted == 1;
    fixture.wait_for(gone).await;
}

#[tokio::test]
async fn rule_2_a_device_missing_from_one_message_is_withdrawn_at_once() {
    let (fixture, _handler, stream) = Fixture::discovering(None).await;
    stream.send(vec![device("a"), device("b")]).await;
    fixture.wait_for(|s| s.instances.len() == 2).await;
    stream.send(vec![device("b")]).await;
    let state = fixture.wait_for(|s| s.messages == 2).await;
    assert_eq!(
        state.instances.into_keys().collect::<Vec<_>>(),
        [instance("b")]
    );
    assert_eq!(state.deleted, 1);
}

#[tokio::test]
async fn rule_3_a_fresh_request_starts_empty() {
    let (fixture, handler, stream) = Fixture::discovering(None).await;
    stream.send(vec![device("a")]).await;
    fixture.wait_for(|s| s.instances.len() == 1).await;
    // The handler restarts.
    drop((handler, stream));
    let mut handler = Handler::serve(fixture.path(), "http.sock");
    handler.register(fixture.path()).await;
    let stream = handler.stream().await;
    let state = fixture.wait_for(|s| s.instances.is_empty()).await;
    assert_eq!((state.created, state.deleted), (1, 1));
    stream.send(vec![device("a")]).await;
    let state = fixture.wait_for(|s| s.instances.len() == 1).await;
    assert_eq!((state.created, state.deleted), (2, 1));
    // The Agent restarts.
    drop(fixture.agent);
    stream.dropped().await;
    let agent = StubAgent::start(config(fixture.directory.path(), None))
        .await
        .unwrap();
    assert!(agent.state().borrow().instances.is_empty());
}

#[tokio::test]
async fn rule_4_lists_of_several_endpoints_are_merged_by_instance() {
    let (fixture, _handler, stream) = Fixture::discovering(None).await;
    let mut other = Handler::serve(fixture.path(), "other.sock");
    other.register(fixture.path()).await;
    let second = other.stream().await;
    stream
        .send(vec![device_with("a", &[("FROM", "first")]), device("b")])
        .await;
    fixture.wait_for(|s| s.messages == 1).await;
    second
        .send(vec![device_with("a", &[("FROM", "second")]), device("c")])
        .await;
    let state = fixture.wait_for(|s| s.messages == 2).await;
    assert_eq!(
        (state.instances.len(), state.created, state.deleted),
        (3, 3, 0)
    );
    assert_eq!(state.instances[&instance("a")].properties["FROM"], "second");
    drop(stream);
    let state = fixture.wait_for(|s| s.instances.len() == 2).await;
    assert_eq!((state.deleted, state.open_streams), (1, 1));
    assert_eq!(state.instances[&instance("a")].properties["FROM"], "second");
}

#[tokio::test]
async fn rule_4_a_second_endpoint_hands_over_with_nothing_deleted() {
    let (fixture, old, old_stream) = Fixture::discovering(None).await;
    old_stream.send(vec![device("a"), device("b")]).await;
    let mut new = Handler::serve(fixture.path(), "new.sock");
    new.register(fixture.path()).await;
    let new_stream = new.stream().await;
    new_stream.send(vec![device("b"), device("a")]).await;
    fixture.wait_for(|s| s.messages == 2).await;
    drop((old, old_stream));
    let state = fixture.wait_for(|s| s.open_streams == 1).await;
    assert_eq!(
        (state.instances.len(), state.created, state.deleted),
        (2, 2, 0)
    );
    new_stream.send(vec![device("a")]).await;
    let state = fixture.wait_for(|s| s.messages == 3).await;
    assert_eq!((state.instances.len(), state.deleted), (1, 1));
}
