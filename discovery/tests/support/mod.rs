//! What the examples' tests share: a node with a stub Agent, and handlers on it.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{collections::BTreeSet, path::Path, time::Duration};

use akri_discovery::{DiscoveryHandler, Settings, run};
use akri_stub_agent::{Config, Configuration, Instance, State, StubAgent};
use tempfile::TempDir;
use tokio::{sync::oneshot, task::JoinHandle};

/// For what must happen: long, because a busy machine is no fault.
pub const SOON: Duration = Duration::from_secs(60);

/// A node of a cluster with one Configuration.
pub struct Node {
    directory: TempDir,
    name: &'static str,
    configuration: Configuration,
    /// Always there; one is dropped before the next one starts.
    agent: Option<StubAgent>,
}

impl Node {
    /// With an Agent, and no handler yet.
    pub async fn start(name: &'static str, handler: &str, details: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let configuration = Configuration::new("devices", handler, details);
        let config = config(directory.path(), name, &configuration);
        let agent = Some(StubAgent::start(config).await.unwrap());
        Self {
            directory,
            name,
            configuration,
            agent,
        }
    }

    /// The defaults here, except that nothing is waited for: an interval of 100 ms, and no grace.
    pub fn settings(&self) -> Settings {
        let name = &self.configuration.discovery_handler;
        let mut settings = Settings::in_directory(self.directory.path(), name);
        settings.poll_interval = Duration::from_millis(100);
        settings.grace = Duration::ZERO;
        settings
    }

    fn agent(&self) -> &StubAgent {
        self.agent.as_ref().unwrap()
    }

    /// Waits until `condition` holds.
    pub async fn until(&self, condition: impl FnMut(&State) -> bool) -> State {
        self.agent().wait_for(condition, SOON).await.unwrap()
    }

    /// Waits until there are Instances of these devices and of no other ones.
    pub async fn has(&self, ids: &[&str]) -> State {
        let ids = BTreeSet::from_iter(ids.iter().copied());
        self.until(|state| BTreeSet::from_iter(devices(state)) == ids)
            .await
    }

    /// The Instance of a device.
    pub fn instance(&self, id: &str) -> Instance {
        let state = self.agent().state().borrow().clone();
        let found = (state.instances.values()).find(|instance| instance.device_id == id);
        found.expect("an Instance of this device").clone()
    }

    /// Kills the Agent and starts another one, which finds the Instances in the cluster.
    pub async fn restart_agent(&mut self) {
        let instances = self.agent().state().borrow().instances.clone();
        self.agent.take();
        let config = Config {
            instances,
            ..config(self.directory.path(), self.name, &self.configuration)
        };
        self.agent = Some(StubAgent::start(config).await.unwrap());
    }

    /// What every handler has by the library, tried with two of this kind, of which the first runs already: they take over
    /// from each other, and outlive the Agent. There are always Instances of `ids`.
    pub async fn has_whatever_happens<H: DiscoveryHandler>(
        &mut self,
        ids: &[&str],
        mut first: Handler,
        second: H,
        third: H,
    ) {
        // An update: the second one takes over before the first one ends.
        let before = self.has(ids).await;
        let mut second = Handler::start(second, self.settings());
        self.until(|state| state.lists == 2).await;
        first.stop().await;
        let after = self.until(|state| state.open_streams == 1).await;
        assert_eq!(after.deleted, before.deleted, "an update loses nothing");

        // The Agent restarts, and is found.
        self.restart_agent().await;
        self.until(|state| state.created == ids.len() as u64).await;
        self.has(ids).await;

        // The handler is killed, and the next one is found.
        second.kill().await;
        self.has(&[]).await;
        let _third = Handler::start(third, self.settings());
        self.has(ids).await;
    }
}

fn config(directory: &Path, name: &str, configuration: &Configuration) -> Config {
    Config {
        node_name: name.to_owned(),
        configurations: vec![configuration.clone()],
        // A deleted Instance's object goes at once, or the tests would wait for repeated lists (rule 19).
        finalizer: Duration::ZERO,
        ..Config::in_directory(directory)
    }
}

fn devices(state: &State) -> impl Iterator<Item = &str> {
    let instances = state.instances.values();
    instances.map(|instance| instance.device_id.as_str())
}

/// A handler that runs in this process.
pub struct Handler {
    stop: Option<oneshot::Sender<()>>,
    running: JoinHandle<anyhow::Result<()>>,
}

impl Handler {
    /// As its binary does it.
    pub fn start<H: DiscoveryHandler>(handler: H, settings: Settings) -> Self {
        let (stop, stopped) = oneshot::channel::<()>();
        let shutdown = async {
            let _ = stopped.await;
        };
        Self {
            stop: Some(stop),
            running: tokio::spawn(run(handler, settings, shutdown)),
        }
    }

    /// As SIGTERM does.
    pub async fn stop(&mut self) {
        self.stop.take();
        let outcome = tokio::time::timeout(SOON, &mut self.running).await;
        outcome.unwrap().unwrap().unwrap();
    }

    /// As SIGKILL does.
    pub async fn kill(&mut self) {
        self.running.abort();
        let _ = (&mut self.running).await;
    }
}

impl Drop for Handler {
    fn drop(&mut self) {
        self.running.abort();
    }
}
