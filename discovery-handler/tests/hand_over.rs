//! One handler takes over from another: by an update, by a standby, on the socket and on TCP. No Instance is lost.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::{
    collections::BTreeSet,
    future::pending,
    path::Path,
    process::{Child, Command},
    time::Duration,
};

use akri_http_mock_device::Devices;
use akri_stub_agent::{Config, Configuration, State, StubAgent};
use support::{admin::Admin, *};
use tempfile::TempDir;
use tokio::net::TcpListener;

const NINE: usize = 9;

/// A discovery service with nine devices; its URL.
async fn service() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let devices = Devices {
        discovered: (1..=NINE).map(|n| format!("device-{n}:80")).collect(),
        ..Devices::default()
    };
    tokio::spawn(akri_http_mock_device::serve(listener, devices, pending()));
    format!("http://{address}/discovery")
}

fn configuration(name: &str, url: &str) -> Configuration {
    Configuration::new(name, "http", format!("{{url: '{url}', interval: 1s}}"))
}

async fn agent(directory: &TempDir, url: &str) -> StubAgent {
    let config = Config {
        configurations: vec![configuration("akri-http", url)],
        ..Config::in_directory(directory.path())
    };
    StubAgent::start(config).await.unwrap()
}

/// The real binary, killed by SIGKILL when it is dropped.
struct Killed(Child);

impl Killed {
    fn start(directory: &Path) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_discovery-handler"));
        command
            .env_clear()
            .env("DISCOVERY_HANDLERS_DIRECTORY", directory)
            .env("RUST_LOG", "error");
        Self(command.spawn().unwrap())
    }
}

impl Drop for Killed {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// Waits until this many streams are open and have sent their lists.
async fn settled(agent: &StubAgent, streams: usize, messages: u64) -> State {
    let settled = |state: &State| state.open_streams == streams && state.messages >= messages;
    agent.wait_for(settled, SOON).await.unwrap()
}

fn endpoints(state: &State) -> BTreeSet<&str> {
    let names = state.registrations.iter();
    names
        .map(|it| it.endpoint.rsplit('/').next().unwrap())
        .collect()
}

#[tokio::test]
async fn ten_updates_on_the_socket_lose_nothing_and_use_two_names() {
    let url = service().await;
    let directory = tempfile::tempdir().unwrap();
    let agent = agent(&directory, &url).await;
    let mut running = Killed::start(directory.path());
    let mut messages = 1;
    let before = settled(&agent, 1, messages).await;
    assert_eq!(before.instances.len(), NINE);
    for _ in 0..10 {
        let next = Killed::start(directory.path());
        messages += 1;
        settled(&agent, 2, messages).await;
        drop(std::mem::replace(&mut running, next));
        settled(&agent, 1, messages).await;
    }
    let after = agent.state().borrow().clone();
    assert_eq!((after.deleted, after.created), (0, NINE as u64));
    assert_eq!(
        endpoints(&after),
        BTreeSet::from(["http.sock", "http-2.sock"])
    );

    // Rule 24: the one name that nobody serves now costs a new Configuration one try.
    agent
        .add_configuration(configuration("later", &url))
        .unwrap();
    let all = |state: &State| state.instances.len() == 2 * NINE;
    let state = agent.wait_for(all, SOON).await.unwrap();
    assert!(state.delays.len() <= 1, "{:?}", state.delays);
}

#[tokio::test]
async fn either_of_a_pair_may_be_killed_fifty_times_and_nothing_is_lost() {
    let url = service().await;
    let directory = tempfile::tempdir().unwrap();
    let agent = agent(&directory, &url).await;
    let mut pair = [
        Killed::start(directory.path()),
        Killed::start(directory.path()),
    ];
    let mut messages = 2;
    settled(&agent, 2, messages).await;
    for round in 0..50 {
        // Killed, and then started anew, as the kubelet does.
        let killed = &mut pair[(round / 3) % 2];
        killed.0.kill().unwrap();
        killed.0.wait().unwrap();
        settled(&agent, 1, messages).await;
        *killed = Killed::start(directory.path());
        messages += 1;
        settled(&agent, 2, messages).await;
    }
    let state = agent.state().borrow().clone();
    assert_eq!((state.deleted, state.created), (0, NINE as u64));
    assert_eq!(
        endpoints(&state),
        BTreeSet::from(["http.sock", "http-2.sock"])
    );
}

#[tokio::test]
async fn those_that_start_at_once_take_different_names() {
    let url = service().await;
    let directory = tempfile::tempdir().unwrap();
    let agent = agent(&directory, &url).await;
    for name in ["http.sock", "http-3.sock"] {
        // Left by a dead process.
        let stale = directory.path().join(name);
        drop(std::os::unix::net::UnixListener::bind(stale).unwrap());
    }
    let all: Vec<Killed> = (0..4).map(|_| Killed::start(directory.path())).collect();
    let state = settled(&agent, 4, 4).await;
    let names = ["http.sock", "http-2.sock", "http-3.sock", "http-4.sock"];
    assert_eq!(endpoints(&state), BTreeSet::from(names));
    assert_eq!(state.deleted, 0);
    drop(all);
}

#[tokio::test]
async fn an_update_on_tcp_loses_nothing() {
    let url = service().await;
    let directory = tempfile::tempdir().unwrap();
    let agent = agent(&directory, &url).await;
    let on = |address: &str| {
        let mut config = config(directory.path());
        config.handler.pod_ip.0 = Some(address.parse().unwrap());
        config.handler.network_port = 0;
        Handler::run(tempfile::tempdir().unwrap(), config)
    };
    let mut old = on("127.0.0.1");
    settled(&agent, 1, 1).await;
    for (round, address) in ["127.0.0.2", "127.0.0.3", "127.0.0.4"].iter().enumerate() {
        let new = on(address);
        settled(&agent, 2, round as u64 + 2).await;
        old.stop().await.unwrap();
        old = new;
        settled(&agent, 1, round as u64 + 2).await;
    }
    let state = agent.state().borrow().clone();
    assert_eq!((state.deleted, state.created), (0, NINE as u64));

    // Rule 24: each address that was left costs a new Configuration a try, and rule 7 doubles the delays between them.
    agent
        .add_configuration(configuration("later", &url))
        .unwrap();
    let all = |state: &State| state.instances.len() == 2 * NINE;
    let state = agent.wait_for(all, SOON).await.unwrap();
    assert_eq!(state.delays, [1, 2, 4].map(Duration::from_secs));
}

#[tokio::test]
async fn an_update_that_waits_until_the_new_handler_is_ready_loses_nothing() {
    let url = service().await;
    let directory = tempfile::tempdir().unwrap();
    let agent = agent(&directory, &url).await;
    let ready = async |update: u8| {
        let admin = Admin::on(40 + update);
        let mut config = config(directory.path());
        admin.set(&mut config);
        let handler = Handler::run(tempfile::tempdir().unwrap(), config);
        admin.ready().await;
        handler
    };
    let mut running = ready(0).await;
    for update in 1..=4 {
        let next = ready(update).await;
        running.stop().await.unwrap();
        running = next;
    }
    let state = agent.state().borrow().clone();
    assert_eq!((state.deleted, state.created), (0, NINE as u64));
}

#[tokio::test]
async fn a_handler_that_is_stopped_leaves_its_successors_socket_and_takes_its_own() {
    let mut old = Handler::start().await;
    let directory = old.directory.path().to_path_buf();
    let mut new = Handler::run(tempfile::tempdir().unwrap(), config(&directory));
    let (first, second) = (directory.join("http.sock"), directory.join("http-2.sock"));
    until(|| second.exists()).await;
    old.stop().await.unwrap();
    assert!(!first.exists() && second.exists());
    new.stop().await.unwrap();
    assert!(!second.exists());
}

#[tokio::test]
async fn a_handler_that_is_stopped_keeps_its_streams_for_two_seconds() {
    let service = Service::start(list(&["a:1"])).await;
    let mut handler = Handler::start().await;
    let mut stream = handler.stream(&service.details()).await;
    stream.list().await;
    let (stopped, _) = tokio::join!(handler.stop(), async {
        service.polled(1).await;
        service.now(list(&["b:1"]));
        assert_eq!(stream.list().await, ["b:1"]);
        assert_eq!(stream.ends().await, None);
    });
    stopped.unwrap();
}
