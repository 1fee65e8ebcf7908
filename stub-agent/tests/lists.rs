//! What a message does and how Instances are named: rules 9, 11 and 12 of docs/akri-agent.md.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod support;

use akri_proto::v0::Device;
use akri_stub_agent::{Code, DeviceSpec, Mount, State};
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
async fn rule_12_two_nodes_name_the_same_device_alike_only_if_it_is_shared() {
    let cases = [
        ("my_node", true, "my_shared_device", "c-4294ea"),
        ("my_other_node", true, "my_shared_device", "c-4294ea"),
        ("my_node", false, "my_local_device", "c-e77db4"),
        ("my_other_node", false, "my_local_device", "c-099763"),
    ];
    for (node, shared, id, name) in cases {
        let fixture = Fixture::start_on(node).await;
        let mut handler = Handler::serve(fixture.path(), "http.sock");
        handler.register_as(fixture.path(), "http", shared).await;
        fixture.agent.add_configuration(configuration("c")).unwrap();
        let stream = handler.stream().await;
        stream.send(vec![device(id)]).await;
        let state = fixture.wait_for(|s| s.created == 1).await;
        let instance = &state.instances[name];
        assert_eq!(
            (&*instance.device_id, instance.shared),
            (id, shared),
            "{node}"
        );
    }
}

/// A device that a broker reaches by this path of the host.
fn at(path: &str) -> Device {
    Device {
        mounts: vec![Mount {
            container_path: "/in/the/broker".to_owned(),
            host_path: path.to_owned(),
            read_only: true,
        }],
        device_specs: vec![DeviceSpec {
            container_path: "/dev/in_the_broker".to_owned(),
            host_path: path.to_owned(),
            permissions: "rw".to_owned(),
        }],
        ..device_with("my_shared_device", &[("PATH_ON_HOST", path)])
    }
}

/// A broker of the only Instance gets the device as it was at this path.
fn assert_gets(state: &State, path: &str) {
    let (instance, device) = (&state.instances["c-4294ea"], at(path));
    assert_eq!(instance.environment()["PATH_ON_HOST"], path);
    assert_eq!(instance.environment()["PATH_ON_HOST_4294EA"], path);
    assert_eq!(instance.mounts, device.mounts);
    assert_eq!(instance.device_specs, device.device_specs);
}

#[tokio::test]
async fn an_instance_has_the_mounts_and_device_specs_of_its_device_as_they_were_sent() {
    let (fixture, _handler, stream) = Fixture::discovering(None).await;
    stream.send(vec![at("/dev/one")]).await;
    let state = fixture.wait_for(|s| !s.instances.is_empty()).await;
    assert_gets(&state, "/dev/one");
}

#[tokio::test]
async fn rule_14_changed_properties_mounts_and_device_specs_reach_no_broker_of_the_instance() {
    let (fixture, _handler, stream) = Fixture::discovering(None).await;
    stream.send(vec![at("/dev/one")]).await;
    stream.send(vec![at("/dev/two")]).await;
    let state = fixture.wait_for(|s| s.messages == 2).await;
    assert_gets(&state, "/dev/one");
    assert_eq!(
        state.instances["c-4294ea"].properties["PATH_ON_HOST"],
        "/dev/two"
    );
    // Only a new Instance has the new ones.
    stream.send(vec![]).await;
    stream.send(vec![at("/dev/two")]).await;
    let state = fixture.wait_for(|s| s.created == 2).await;
    assert_gets(&state, "/dev/two");
}

#[tokio::test]
async fn rule_4_of_one_device_in_two_lists_the_broker_gets_the_first_and_the_instance_shows_the_last()
 {
    let (fixture, _handler, first) = Fixture::discovering(None).await;
    let mut other = Handler::serve(fixture.path(), "other.sock");
    other.register(fixture.path()).await;
    let second = other.stream().await;
    first.send(vec![at("/dev/one"), at("/dev/two")]).await;
    fixture.wait_for(|s| s.messages == 1).await;
    second.send(vec![at("/dev/three")]).await;
    let state = fixture.wait_for(|s| s.messages == 2).await;
    assert_gets(&state, "/dev/one");
    assert_eq!(
        state.instances["c-4294ea"].properties["PATH_ON_HOST"],
        "/dev/three"
    );
    // Nor is anything taken from the list that remains.
    drop(first);
    let state = fixture.wait_for(|s| s.open_streams == 1).await;
    assert_gets(&state, "/dev/one");
    assert_eq!(state.deleted, 0);
}
