//! Plays Akri's Agent, and with a broker command also its Controller and the kubelet: to test a discovery handler without a
//! cluster, and to watch it in a terminal. It does what the real ones do, also where that hurts.
//!
//! # A test
//!
//! Any handler will do, in any language; Akri's own debug echo (0.13.26) was run too: it registers, has
//! Instances, and registers again within ten seconds of a new Agent; but its list comes once, so that where a deleted Instance's
//! object stays for a while, none comes back (rule 19). This one uses `akri-discovery`.
//!
//! ```
//! use std::{future::pending, time::Duration};
//!
//! use akri_discovery::{Device, DiscoveryHandler, Found, Properties, Settings, run};
//! use akri_stub_agent::{Config, Configuration, StubAgent, instance_hash};
//!
//! /// Finds the lamps that `discoveryDetails` name.
//! struct Lamps;
//!
//! #[async_trait::async_trait]
//! impl DiscoveryHandler for Lamps {
//!     type Request = String;
//!
//!     fn request(&self, details: &str, _: &Properties) -> anyhow::Result<String> {
//!         Ok(details.to_owned())
//!     }
//!
//!     async fn discover(&self, names: &String, found: &Found<'_>) -> anyhow::Result<()> {
//!         let lamp = |name: &str| {
//!             let lamp = Device::new(name).with_property("LAMP", name);
//!             lamp.with_mount(format!("/run/lamps/{name}"), false)
//!         };
//!         found.all(names.split(' ').map(lamp).collect::<Vec<_>>())
//!     }
//! }
//!
//! /// For what must happen; a wait ends as soon as it has.
//! const SOON: Duration = Duration::from_secs(10);
//!
//! #[tokio::main(flavor = "current_thread")] // or #[tokio::test]
//! async fn main() -> anyhow::Result<()> {
//!     let directory = tempfile::tempdir()?;
//!     let config = || Config {
//!         configurations: vec![Configuration::new("attic", "lamps", "lamp-1 lamp-2")],
//!         // A deleted Instance's object goes at once. With the default, the test would wait for a repeated list (rule 19).
//!         finalizer: Duration::ZERO,
//!         ..Config::in_directory(directory.path())
//!     };
//!     let agent = StubAgent::start(config()).await?;
//!
//!     let settings = Settings::in_directory(directory.path(), "lamps");
//!     let handler = tokio::spawn(run(Lamps, settings.clone(), pending()));
//!     let state = agent.wait_for(|s| s.instances.len() == 2, SOON).await?;
//!
//!     // What a broker gets.
//!     let name = format!("attic-{}", instance_hash("lamp-1", None));
//!     let instance = &state.instances[&name];
//!     assert_eq!(instance.environment()["LAMP"], "lamp-1");
//!     assert_eq!(instance.mounts[0].host_path, "/run/lamps/lamp-1");
//!
//!     // The Agent is killed, and the next one finds the Instances in the cluster. It deletes them, because it knows no handler
//!     // (rules 3 and 6). This one registers again, and they come back.
//!     drop(agent);
//!     let instances = state.instances;
//!     let agent = StubAgent::start(Config { instances, ..config() }).await?;
//!     let state = agent.wait_for(|s| s.created == 2, SOON).await?;
//!     assert_eq!(state.deleted, 2);
//!
//!     // A second handler takes over: the first one is killed when the Agent has both lists, and nothing is lost (rule 4).
//!     let successor = tokio::spawn(run(Lamps, settings, pending()));
//!     agent.wait_for(|s| s.lists == 2, SOON).await?;
//!     handler.abort();
//!     let state = agent.wait_for(|s| s.open_streams == 1, SOON).await?;
//!     assert_eq!((state.instances.len(), state.deleted), (2, 2));
//!
//!     // It is killed too, and nobody takes over (rule 1).
//!     successor.abort();
//!     let state = agent.wait_for(|s| s.instances.is_empty(), SOON).await?;
//!     assert_eq!(state.deleted, 4);
//!     Ok(())
//! }
//! ```
//!
//! A handler in a task is killed by dropping its future. One that is a program is told the directory by
//! `DISCOVERY_HANDLERS_DIRECTORY`, and killed by [`tokio::process::Child::start_kill`]. To see that *nothing* happens, compare
//! the counters of [`State`] before and after.
//!
//! # The rules it follows
//!
//! `docs/akri-agent.md` has them in full, and says where they come from.
//!
//! | rule | |
//! | --- | --- |
//! | 1 | The end of a stream, with or without an error, withdraws its devices. |
//! | 2 | A device that is missing from one message is withdrawn with it. |
//! | 3 | A new request starts from nothing: after a restart of the Agent or of the only handler, the Instances go first. |
//! | 4 | A name may have several endpoints, whose lists are merged. |
//! | 5 | Each registration opens one more stream for each Configuration. |
//! | 6 | A new Agent knows no handler and tells none. |
//! | 7 | A refused request is tried again after 1 s, 2 s, 4 s and so on; a registration does not shorten that. |
//! | 8 | The log does not say why a handler refused; [`State::discover_errors`] does. |
//! | 9 | A message replaces the list, and costs one apply for each device: [`State::applies`]. |
//! | 11 | A message of more than 4 MiB fails the stream. |
//! | 12 | An Instance is named by a hash of 24 bits; a second device with the same hash vanishes. |
//! | 13 | A broker's environment has each property twice; a name has to be a C identifier. |
//! | 14 | Brokers get what the Instance was created with; later changes of its device do not reach them. |
//! | 15 | A Configuration cannot be changed. |
//! | 19 | A deleted Instance's object stays for a while, and what is applied to it is lost: [`Config::finalizer`]. |
//! | 24 | A dead endpoint is dropped by the request that meets it, which fails and is tried again (rule 7). |
//!
//! # What it leaves out
//!
//! - Other nodes: nothing tells that two of them send different properties for one shared device (rule 10). A second Agent with
//!   another [`Config::node_name`] and a directory of its own shows how a device that is not shared is named there.
//! - Secrets and ConfigMaps: [`Configuration::discovery_properties`] has their values.
//! - Of a Configuration, `brokerProperties`, `brokerSpec`, `capacity` and Services: each Instance has one broker, a process that
//!   gets the environment, but not the mounts and device specs.
//! - The kubelet's slots and its restart (rules 18 and 21), the rights on the Agent's socket (rule 16), memory limits (rule 17).
//! - Time: an apply takes none, and a stream's end withdraws at once, not with the next request. A Configuration without a
//!   registered handler waits for one instead of asking again and again, and gives it a second to listen.
//!
//! # How it is made
//!
//! 1. `registration`: discovery handlers register on the Agent's socket;
//! 2. `discovery`: each Configuration calls Discover on every endpoint of its handler, and reads the lists;
//! 3. `instances`: the merged lists become Instances;
//! 4. `brokers`: a process runs for each Instance.

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
        let state = self.agent.state.borrow().summary();
        bail!("the condition did not hold within {timeout:?}: {state}")
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
