//! Plays Akri's Agent, and with a broker command also its Controller and the kubelet, to test and watch a discovery handler
//! without a cluster. It does what the real ones do, also where that hurts; rule numbers refer to `docs/akri-agent.md`.
//!
//! The flow:
//! 1. `registration`: discovery handlers register on the Agent's socket;
//! 2. `discovery`: each Configuration calls Discover on every endpoint of its handler, and reads the lists;
//! 3. `instances`: the merged lists become Instances;
//! 4. `brokers`: a process runs for each Instance.
//!
//! [`State`] shows all of it; [`Settings`] are the binary's flags.

mod brokers;
mod discovery;
mod instances;
mod registration;
mod settings;
mod state;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

pub use akri_proto::v0::register_discovery_handler_request::EndpointType;
pub use akri_proto::v0::{DeviceSpec, Mount};
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

/// A running Agent. Dropping it is like killing the real one: connections end, and the socket file stays. Unlike in a cluster,
/// its brokers are killed too.
pub struct StubAgent {
    agent: Arc<Agent>,
    socket: Socket,
    /// Stops the registration server.
    stop: CancellationToken,
    server: AbortOnDropHandle<()>,
    /// A task for each Configuration, by name.
    configurations: Mutex<BTreeMap<String, AbortOnDropHandle<()>>>,
}

/// The parts that all steps share.
struct Agent {
    node_name: String,
    registry: Arc<Registry>,
    state: watch::Sender<State>,
    brokers: Option<Brokers>,
}

impl Agent {
    /// Makes `found` the Instances of a Configuration, and starts and stops their brokers.
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
            for instance in &changes.deleted {
                brokers.stop(&instance.name);
            }
            for instance in &changes.created {
                brokers.start(instance);
            }
        }
    }
}

impl StubAgent {
    /// Starts without a registration and without an Instance (rules 3 and 6). Handlers can register once this returns.
    ///
    /// # Errors
    /// The socket cannot be bound, for instance because another Agent serves it. The name of a Configuration is taken, or
    /// Kubernetes would refuse it.
    pub async fn start(config: Config) -> Result<Self> {
        let socket = Socket::bind(&config.directory).await?;
        let (state, _) = watch::channel(State {
            instances: config.instances,
            finalizer: config.finalizer,
            ..State::default()
        });
        let registry = Arc::new(Registry::new(state.clone()));
        let stop = CancellationToken::new();
        let serve = socket.serve(Arc::clone(&registry), stop.clone());
        let server = AbortOnDropHandle::new(tokio::spawn(async {
            if let Err(error) = serve.await {
                log::error!("the registration server failed: {error}");
            }
        }));
        let agent = Arc::new(Agent {
            node_name: config.node_name,
            registry,
            state,
            brokers: config.broker.map(Brokers::new),
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

    /// Follows the state. A receiver may skip values, so count with the counters.
    pub fn state(&self) -> watch::Receiver<State> {
        self.agent.state.subscribe()
    }

    /// Waits until `condition` holds, and returns the state in which it did.
    ///
    /// # Errors
    /// It does not within `timeout`. The message shows the state.
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
            "the condition did not hold within {timeout:?}: {}",
            state.chars().take(4_000).collect::<String>()
        )
    }

    /// Adds a Configuration. Discovery starts once its handler is registered.
    ///
    /// # Errors
    /// The name is taken, or Kubernetes would refuse it.
    pub fn add_configuration(&self, configuration: Configuration) -> Result<()> {
        configuration.check()?;
        let name = configuration.name.clone();
        let mut configurations = lock(&self.configurations);
        ensure!(
            !configurations.contains_key(&name),
            "there already is a Configuration named {name}; choose another name"
        );
        log::info!(
            "Configuration {name} added, for the discovery handler {}",
            configuration.discovery_handler
        );
        let discover = discovery::discover(Arc::clone(&self.agent), configuration);
        configurations.insert(name, AbortOnDropHandle::new(tokio::spawn(discover)));
        Ok(())
    }

    /// Deletes a Configuration: drops its streams, deletes its Instances, and starts to stop their brokers.
    ///
    /// # Errors
    /// There is no Configuration of this name.
    pub async fn delete_configuration(&self, name: &str) -> Result<()> {
        let task = lock(&self.configurations).remove(name);
        end(task.with_context(|| format!("there is no Configuration named {name}"))?).await;
        log::info!("Configuration {name} deleted");
        self.agent.reconcile(name, BTreeMap::new(), |_| {});
        Ok(())
    }

    /// Stops cleanly: no stream, broker, Instance or socket file is left. This takes up to six seconds if a broker ignores
    /// SIGTERM. Dropping the future is like dropping the Agent.
    pub async fn stop(self) {
        self.stop.cancel();
        self.socket.close();
        self.socket.remove();
        let configurations = std::mem::take(&mut *lock(&self.configurations));
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

/// Aborts the task and waits for its end, so that its last change of the state is visible.
async fn end(task: AbortOnDropHandle<()>) {
    task.abort();
    let _ = task.await;
}

impl Drop for StubAgent {
    fn drop(&mut self) {
        self.socket.close();
        self.server.abort();
        lock(&self.configurations).clear();
        if let Some(brokers) = &self.agent.brokers {
            brokers.kill_all();
        }
    }
}

/// A poisoned lock is no reason to stop: no lock here is held while its value is inconsistent.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs an Agent until `shutdown` is ready, then stops it. Dropping the future is like dropping the Agent.
///
/// # Errors
/// As for [`StubAgent::start`].
pub async fn run(config: Config, shutdown: impl Future<Output = ()>) -> Result<()> {
    let agent = StubAgent::start(config).await?;
    shutdown.await;
    agent.stop().await;
    Ok(())
}
