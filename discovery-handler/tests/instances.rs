//! Mock devices, this handler and the stub Agent together: which Instances there are, and that none is lost.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::{collections::BTreeMap, future::pending, net::SocketAddr, path::Path, time::Duration};

use akri_http_mock_device::Devices;
use akri_stub_agent::{Config, Configuration, Instance, State, StubAgent, instance_hash};
use support::*;
use tokio::{net::TcpListener, task::JoinHandle};

const NINE: usize = 9;

fn endpoints(count: usize) -> Vec<String> {
    (1..=count)
        .map(|n| format!("http://device-{n}:8080"))
        .collect()
}

/// The mock's discovery service; aborting the task stops it.
async fn mock(address: SocketAddr, discovered: Vec<String>) -> (JoinHandle<()>, SocketAddr) {
    let listener = loop {
        match TcpListener::bind(address).await {
            Ok(listener) => break listener,
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    };
    let address = listener.local_addr().unwrap();
    let devices = Devices {
        discovered,
        ..Devices::default()
    };
    let serving = tokio::spawn(async move {
        akri_http_mock_device::serve(listener, devices, pending())
            .await
            .unwrap();
    });
    (serving, address)
}

async fn agent(directory: &Path, service: SocketAddr) -> StubAgent {
    agent_with(directory, service, "200ms", BTreeMap::new()).await
}

/// An Agent whose cluster holds these Instances already.
async fn agent_with(
    directory: &Path,
    service: SocketAddr,
    interval: &str,
    instances: BTreeMap<String, Instance>,
) -> StubAgent {
    let details = format!("{{url: 'http://{service}/discovery', interval: {interval}}}");
    let configuration = Configuration::new("akri-http", "http", details);
    let config = Config {
        node_name: "node".into(),
        configurations: vec![configuration],
        instances,
        // As long as the longest that was seen.
        finalizer: Duration::from_secs(10),
        ..Config::in_directory(directory)
    };
    StubAgent::start(config).await.unwrap()
}

async fn instances(agent: &StubAgent, count: usize) -> State {
    agent
        .wait_for(|state| state.instances.len() == count, SOON)
        .await
        .unwrap()
}

fn any() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

#[tokio::test]
async fn the_walkthroughs_nine_devices_become_instances_with_akris_names() {
    let (_mock, service) = mock(any(), endpoints(NINE)).await;
    let handler = Handler::start().await;
    let agent = agent(handler.directory.path(), service).await;
    let state = instances(&agent, NINE).await;
    for endpoint in endpoints(NINE) {
        let name = format!("akri-http-{}", instance_hash(&endpoint, None));
        let instance = &state.instances[&name];
        assert_eq!(instance.device_id, endpoint);
        assert_eq!(instance.properties["AKRI_HTTP_DEVICE_ENDPOINT"], endpoint);
        assert_eq!(instance.properties["AKRI_HTTP"], "http");
    }
    assert_eq!((state.messages, state.registrations.len()), (1, 1));
}

#[tokio::test]
async fn an_outage_of_the_discovery_service_costs_no_instance_and_no_message() {
    let (mock_service, service) = mock(any(), endpoints(NINE)).await;
    let handler = Handler::start().await;
    let agent = agent(handler.directory.path(), service).await;
    let before = instances(&agent, NINE).await;
    mock_service.abort();
    let port = service.port().to_string();
    log_line(&["WARN", &port, "the last list of 9 devices stands"]).await;
    let (_mock, _) = mock(service, endpoints(NINE)).await;
    log_line(&["INFO", &port, "works again after"]).await;
    let after = agent.state().borrow().clone();
    assert_eq!(
        (after.deleted, after.messages, after.applies),
        (0, before.messages, before.applies)
    );
    assert_eq!((after.open_streams, after.discovers), (1, 1));
}

#[tokio::test]
async fn empty_replies_half_ones_and_a_flapping_device_cost_no_instance_and_no_message() {
    let all = endpoints(NINE);
    let all: Vec<&str> = all.iter().map(String::as_str).collect();
    let service = Service::start(list(&all)).await;
    let handler = Handler::start_with(|config| config.handler.grace = SOON).await;
    let mut config = Config::in_directory(handler.directory.path());
    let details = format!("{{url: '{}', interval: 100ms}}", service.url());
    config.configurations = vec![Configuration::new("akri-http", "http", details)];
    let agent = StubAgent::start(config).await.unwrap();
    instances(&agent, NINE).await;
    for reply in [&[][..], &all[4..], &all[..8], &all, &all[..8], &all, &[]] {
        service.now(list(reply));
        // The second one that begins now has this reply whole.
        service.polled(2).await;
    }
    service.now(list(&all));
    log_line(&[
        "INFO",
        &service.key(),
        "9 devices that were missing are back",
    ])
    .await;
    let state = agent.state().borrow().clone();
    assert_eq!((state.messages, state.created, state.deleted), (1, 9, 0));
}

#[tokio::test]
async fn a_handler_that_meets_a_restarted_agent_gets_all_instances_back() {
    let (_mock, service) = mock(any(), endpoints(NINE)).await;
    let handler = Handler::start().await;
    let first = agent(handler.directory.path(), service).await;
    instances(&first, NINE).await;
    drop(first);
    let second = agent(handler.directory.path(), service).await;
    let state = instances(&second, NINE).await;
    assert_eq!(
        (state.registrations.len(), state.open_streams, state.deleted),
        (1, 1, 0)
    );
}

#[tokio::test]
async fn a_deleted_configuration_takes_its_instances_and_its_poller_and_the_handler_stays_known() {
    let (_mock, service) = mock(any(), endpoints(NINE)).await;
    let handler = Handler::start().await;
    let agent = agent(handler.directory.path(), service).await;
    instances(&agent, NINE).await;
    agent.delete_configuration("akri-http").await.unwrap();
    log_line(&[&service.port().to_string(), "polling ended"]).await;
    agent
        .wait_for(|state| state.registrations.len() == 2, SOON)
        .await
        .unwrap();
    let again = Configuration::new("again", "http", format!("http://{service}/discovery"));
    agent.add_configuration(again).unwrap();
    instances(&agent, NINE).await;
}

#[tokio::test]
async fn rule_12_of_two_devices_with_one_hash_akri_shows_one() {
    let two = ["http://10.1.0.194:8080", "http://10.1.12.9:8080"].map(String::from);
    let (_mock, service) = mock(any(), two.to_vec()).await;
    let handler = Handler::start().await;
    let agent = agent(handler.directory.path(), service).await;
    let state = instances(&agent, 1).await;
    assert!(state.instances.contains_key("akri-http-7e27fd"));
    log_line(&[
        "WARN",
        &service.port().to_string(),
        "have the same Instance hash 7e27fd",
    ])
    .await;
}

#[tokio::test]
async fn rule_19_after_twenty_restarts_of_the_agent_no_device_stays_away() {
    let (_mock, service) = mock(any(), endpoints(NINE)).await;
    let handler = Handler::start().await;
    let mut left = BTreeMap::new();
    for restart in 0..20 {
        let agent = agent_with(handler.directory.path(), service, "10s", left).await;
        if restart > 0 {
            // The first list meets Instances that are being deleted, and what is applied to them is lost.
            let first = agent.wait_for(|state| state.messages == 1, SOON).await;
            assert_eq!(first.unwrap().instances.len(), 0, "restart {restart}");
        }
        // Waiting takes no time from here on.
        tokio::time::pause();
        left = instances(&agent, NINE).await.instances;
        tokio::time::resume();
    }
}

#[tokio::test]
async fn after_its_first_minute_a_stream_is_silent_until_something_changes() {
    let (_mock, service) = mock(any(), endpoints(NINE)).await;
    let handler = Handler::start().await;
    let agent = agent_with(handler.directory.path(), service, "10s", BTreeMap::new()).await;
    instances(&agent, NINE).await;
    tokio::time::pause();
    tokio::time::sleep(Duration::from_secs(61)).await;
    assert_eq!(agent.state().borrow().messages, 3);
    tokio::time::sleep(Duration::from_secs(3_600)).await;
    let state = agent.state().borrow().clone();
    assert_eq!((state.messages, state.deleted), (3, 0));
}
