//! The handler at a stand-in for Akri's Agent, which makes Instances of its devices.
#![allow(clippy::unwrap_used)]

use std::{future::pending, time::Duration};

use akri_discovery::{Settings, run};
use akri_stub_agent::{Config, Configuration, StubAgent};

use {{crate_name}}::Handler;

/// For what must happen: long, because a busy machine is no fault.
const SOON: Duration = Duration::from_secs(60);

#[tokio::test]
async fn a_device_becomes_an_instance_that_outlives_an_update() {
    let directory = tempfile::tempdir().unwrap();
    let agent = StubAgent::start(Config {
        configurations: vec![Configuration::new("devices", "{{handler_name}}", "attic")],
        ..Config::in_directory(directory.path())
    });
    let agent = agent.await.unwrap();

    let mut settings = Settings::in_directory(directory.path(), "{{handler_name}}");
    settings.shared = {{shared}};
    let handler = tokio::spawn(run(Handler, settings.clone(), pending()));
    let found = agent.wait_for(|state| state.instances.len() == 1, SOON);
    let instances = found.await.unwrap().instances;
    let (_, instance) = instances.first_key_value().unwrap();
    assert_eq!(instance.device_id, "attic/device-1");
    // What its broker gets.
    assert_eq!(instance.environment()["DEVICE"], "device-1");

    // The next version starts, and then this one ends.
    let _next = tokio::spawn(run(Handler, settings, pending()));
    let both = agent.wait_for(|state| state.lists == 2, SOON);
    both.await.unwrap();
    handler.abort();
    let one = agent.wait_for(|state| state.open_streams == 1, SOON);
    assert_eq!(one.await.unwrap().deleted, 0);
}
