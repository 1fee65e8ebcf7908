//! Plays Akri's Agent, and with a broker command its Controller and the kubelet, so that a discovery handler can be
//! tested and watched without a cluster. Faithful to what the real ones do, also where that hurts: the numbers of the
//! rules in these files are those of `docs/akri-agent.md`.
//!
//! The flow:
//! 1. `registration`: discovery handlers register on the Agent's socket;
//! 2. `discovery`: each Configuration opens Discover on every endpoint of its handler, and reads the lists;
//! 3. `instances`: the lists, merged, become Instances;
//! 4. `brokers`: a process runs for each Instance.
//!
//! [`State`] shows all of it from outside; [`Settings`] are the binary's flags.

mod brokers;
mod discovery;
mod instances;
mod registration;
mod settings;
mod state;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

pub use akri_http_proto::v0::register_discovery_handler_request::EndpointType;
use anyhow::{Context, Result, bail, ensure};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
pub use tonic::Code;

use brokers::Brokers;
use instances::Changes;
pub use instances::{Instance, instance_hash};
pub use registration::SOCKET_NAME;
use registration::{Registry, Socket};
pub use settings::{Config, Configuration, Settings};
pub use state::{DiscoverError, Registered, State};

/// A running Agent. Dropping it is like killing the real one: connections end, the socket file stays behind. Other
/// than in a cluster, the brokers do not survive it.
pub struct StubAgent {
    agent: Arc<Agent>,
    socket: Socket,
    /// Asks the registration server to end.
    stop: CancellationToken,
    server: AbortOnDropHandle<()>,
    /// One task per Configuration, by name.
    configurations: Mutex<BTreeMap<String, AbortOnDropHandle<()>>>,
}

/// What all steps share.
struct Agent {
    node_name: String,
    registry: Arc<Registry>,
    state: watch::Sender<State>,
    brokers: Option<Brokers>,
}

impl Agent {
    /// Makes the Instances of a Configuration those that were `found`, and their brokers with them.
    fn reconcile(
        &self,
        configuration: &str,
        found: BTreeMap<String, Instance>,
        count: impl FnOnce(&mut State),
    ) {
        let mut changes = Changes::default();
        self.state.send_modify(|state| {
            count(state);
            changes = state.reconcile(configuration, found);
        });
        changes.log();
        if let Some(brokers) = &self.brokers {
            changes
                .deleted
                .iter()
                .for_each(|instance| brokers.stop(&instance.name));
            changes
                .created
                .iter()
                .for_each(|instance| brokers.start(instance));
        }
    }
}

impl StubAgent {
    /// Starts with nothing: no registration, no Instance (rules 3 and 6). Handlers can register once this returns.
    ///
    /// # Errors
    /// The socket cannot be bound, for instance because an Agent that lives serves it; or a Configuration has a name
    /// that Kubernetes refuses, or one that is taken.
    pub async fn start(config: Config) -> Result<Self> {
        config
            .configurations
            .iter()
            .try_for_each(Configuration::check)?;
        let socket = Socket::bind(&config.directory).await?;
        let (state, _) = watch::channel(State::default());
        let registry = Arc::new(Registry::new(state.clone()));
        let stop = CancellationToken::new();
        let serve = socket.serve(Arc::clone(&registry), stop.clone());
        let server = AbortOnDropHandle::new(tokio::spawn(async {
            if let Err(error) = serve.await {
                log::error!("the registration server failed: {error}");
            }
        }));
        let brokers = config.broker.map(Brokers::new);
        let agent = Arc::new(Agent {
            node_name: config.node_name,
            registry,
            state,
            brokers,
        });
        let agent = Self {
            agent,
            socket,
            stop,
            server,
            configurations: Mutex::default(),
        };
        log::info!(
            "waiting for discovery handlers in {}",
            config.directory.display()
        );
        for configuration in config.configurations {
            if let Err(error) = agent.add_configuration(configuration) {
                agent.stop().await;
                return Err(error);
            }
        }
        Ok(agent)
    }

    /// Follows the state. Values may be skipped, so count with the counters.
    pub fn state(&self) -> watch::Receiver<State> {
        self.agent.state.subscribe()
    }

    /// Waits until `condition` holds, and returns the state in which it did.
    ///
    /// # Errors
    /// It did not within `timeout`; the message shows the state.
    pub async fn wait_for(
        &self,
        condition: impl FnMut(&State) -> bool,
        timeout: Duration,
    ) -> Result<State> {
        let mut state = self.state();
        if let Ok(Ok(state)) = tokio::time::timeout(timeout, state.wait_for(condition)).await {
            return Ok(state.clone());
        }
        let state = format!("{:?}", *self.agent.state.borrow());
        bail!(
            "not so within {timeout:?}: {}",
            state.chars().take(4_000).collect::<String>()
        )
    }

    /// Starts to discover for one more Configuration: at once where its handler is registered, else by rule 7.
    ///
    /// # Errors
    /// Kubernetes would refuse the name, or it is taken.
    pub fn add_configuration(&self, configuration: Configuration) -> Result<()> {
        configuration.check()?;
        let name = configuration.name.clone();
        let mut configurations = self
            .configurations
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        ensure!(
            !configurations.contains_key(&name),
            "there is a Configuration named {name} already"
        );
        log::info!(
            "Configuration {name} added, for the discovery handler {}",
            configuration.discovery_handler
        );
        let discover = discovery::discover(Arc::clone(&self.agent), configuration);
        configurations.insert(name, AbortOnDropHandle::new(tokio::spawn(discover)));
        Ok(())
    }

    /// Deletes a Configuration: its streams are dropped from the Agent's side, its Instances go, and their brokers are
    /// being stopped when this returns.
    ///
    /// # Errors
    /// There is none of this name.
    pub async fn delete_configuration(&self, name: &str) -> Result<()> {
        let task = self
            .configurations
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(name);
        end(task.with_context(|| format!("there is no Configuration named {name}"))?).await;
        log::info!("Configuration {name} deleted");
        self.agent.reconcile(name, BTreeMap::new(), |_| {});
        Ok(())
    }

    /// Ends cleanly: no stream, no broker, no Instance and no socket file is left. Takes up to six seconds when
    /// a broker does not stop by itself. Dropping the future is like dropping the Agent.
    pub async fn stop(self) {
        self.stop.cancel();
        self.socket.close();
        self.socket.remove();
        let configurations = std::mem::take(
            &mut *self
                .configurations
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
        );
        for (_, task) in configurations {
            end(task).await;
        }
        if let Some(brokers) = &self.agent.brokers {
            brokers.stop_all().await;
        }
        self.agent.state.send_modify(|state| {
            state.deleted += state.instances.len() as u64;
            state.instances.clear();
        });
        log::info!("stopped");
    }
}

/// Waits until the task is really gone, so that what it did last is seen.
async fn end(task: AbortOnDropHandle<()>) {
    task.abort();
    let _ = task.await;
}

impl Drop for StubAgent {
    fn drop(&mut self) {
        self.socket.close();
        self.server.abort();
        self.configurations
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
        if let Some(brokers) = &self.agent.brokers {
            brokers.kill_all();
        }
    }
}

/// The binary's life: runs an Agent until `shutdown`, and stops it. Dropping the future is like dropping the Agent.
///
/// # Errors
/// Those of [`StubAgent::start`].
pub async fn run(config: Config, shutdown: impl Future<Output = ()>) -> Result<()> {
    let agent = StubAgent::start(config).await?;
    shutdown.await;
    agent.stop().await;
    Ok(())
}
