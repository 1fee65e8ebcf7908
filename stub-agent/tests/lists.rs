//! What a message does and how Instances are named: rules 9, 11 and 12 of docs/akri-agent.md.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod support;

use akri_stub_agent::Code;
use support::*;

#[tokio::test]
async fn rule_9_every_message_costs_one_apply_per_instance() {
    let (fixture, _handler, stream) = Fixture::discovering(None).await;
    for _ in 0..10 {
        stream
            .send(vec![device("a"), device("b"), device("c")])
            .await;
    }
    let state = fixture.wait_for(|s| s.messages == 10).await;
    assert_eq!((state.applies, state.created, state.deleted), (30, 3, 0));
}

#[tokio::test]
async fn rule_11_a_message_over_4_mib_fails_the_stream() {
    let (fixture, mut handler, stream) = Fixture::discovering(None).await;
    // With its tags and lengths, the first message is just below the limit and the second just above it.
    let limit = 4 * 1024 * 1024;
    stream.send(vec![device(&"a".repeat(limit - 10))]).await;
    fixture
        .wait_for(|s| s.messages == 1 && s.instances.len() == 1)
        .await;
    stream.send(vec![device(&"a".repeat(limit))]).await;
    let _again = handler.stream().await;
    let state = fixture.wait_for(|s| s.deleted == 1).await;
    assert_eq!(
        (state.messages, state.discover_errors[0].code),
        (1, Code::OutOfRange)
    );
}

#[tokio::test]
async fn rule_12_devices_are_named_by_their_hash_and_colliding_ones_vanish() {
    let (fixture, _handler, stream) = Fixture::discovering(None).await;
    let ids = [
        "my_shared_device",
        "http://10.1.0.194:8080",
        "http://10.1.12.9:8080",
    ];
    stream.send(ids.map(device).into()).await;
    let state = fixture.wait_for(|s| s.messages == 1).await;
    assert_eq!(
        state.instances.keys().collect::<Vec<_>>(),
        ["c-4294ea", "c-7e27fd"]
    );
    assert_eq!(
        state.instances["c-7e27fd"].device_id,
        "http://10.1.0.194:8080"
    );
}

#[tokio::test]
async fn rule_12_the_nodes_name_is_in_the_hash_of_a_device_that_is_not_shared() {
    let fixture = Fixture::start(None).await;
    let mut handler = Handler::serve(fixture.path(), "http.sock");
    handler.register_as(fixture.path(), "http", false).await;
    fixture.agent.add_configuration(configuration("c")).unwrap();
    let stream = handler.stream().await;
    stream.send(vec![device("my_local_device")]).await;
    let state = fixture.wait_for(|s| !s.instances.is_empty()).await;
    assert_eq!(state.instances.keys().collect::<Vec<_>>(), ["c-e77db4"]);
    assert!(!state.instances["c-e77db4"].shared);
}
