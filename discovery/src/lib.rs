//! Everything between a discovery handler and Akri's Agent, for any protocol.
//!
//! A handler says what to look for and finds it: that is [`DiscoveryHandler`]. [`start`] and [`run`] do the rest. "Rule N" is a
//! rule of Akri's Agent, see `docs/akri-agent.md`.
//!
//! This one finds the files of a directory, in all of its code:
//!
//! ```no_run
//! use std::process::ExitCode;
//!
//! use akri_discovery::{Device, DiscoveryHandler, Found, Properties, run, start};
//!
//! struct Files;
//!
//! #[async_trait::async_trait]
//! impl DiscoveryHandler for Files {
//!     /// The directory.
//!     type Request = String;
//!
//!     fn request(&self, details: &str, _: &Properties) -> anyhow::Result<String> {
//!         anyhow::ensure!(details.starts_with('/'), "expected an absolute path");
//!         Ok(details.to_owned())
//!     }
//!
//!     async fn discover(&self, directory: &String, found: &Found<'_>) -> anyhow::Result<()> {
//!         let mut devices = Vec::new();
//!         let mut entries = tokio::fs::read_dir(directory).await?;
//!         while let Some(entry) = entries.next_entry().await? {
//!             let path = entry.path().display().to_string();
//!             devices.push(Device::new(&path).with_property("FILE", &path));
//!         }
//!         found.all(devices)
//!     }
//! }
//!
//! fn main() -> ExitCode {
//!     // Other nodes have other files.
//!     let shared = false;
//!     start("files", shared, |(), settings, shutdown| run(Files, settings, shutdown))
//! }
//! ```
//!
//! A handler that is *told* of changes does not return from [`DiscoveryHandler::discover`]: it calls [`Found::all`] again
//! whenever something has happened.
//!
//! `examples/` has one of each kind: `dns_sd` asks a DNS server, `files` is told by the kernel. `docs/write-a-handler.md` goes
//! from a generated project to a broker that reads, and akri-stub-agent is what to test a handler with.
//!
//! # What a handler can rely on
//!
//! - An error of [`DiscoveryHandler::discover`] keeps the last list and the stream: no device is lost by it. It is logged when
//!   it begins, changes and ends, and the next try comes after 1 s, 2 s, 4 s and so on, up to the interval.
//! - A device that is missing from a list is kept for [`Times::grace`], and one that comes back within it costs no message.
//! - Equal requests share a poller, whatever number of streams they have. A poller ends with its last stream.
//! - Polls of many nodes do not fall into step: each delay varies by 10 %.
//! - The Agent gets a message only when the list has changed (rule 9), at most one a second, apart from the first list of a
//!   stream, which it gets three times in the first minute (rule 19). It never gets more than it accepts (rule 11).
//! - Several handlers of one name on a node take over from each other: each has a socket of its own (rule 4).
//! - All four parts of a device reach the Agent: id, properties, mounts and device specs.
//!
//! # How it is made
//!
//! [`start`] and [`run`] do it in this order:
//!
//! 1. [`Settings`]: the directory, the name, where to be served;
//! 2. `own_socket`: the handler's own socket, or TCP on `POD_IP`; `directory`: which may come late and be replaced;
//! 3. `registration`: tells the Agent about the handler, and again when the Agent may have forgotten it; `agent`: when that is;
//! 4. `service`: the Agent's Discover requests, bounded, and the streams that answer them; `streams`: what goes into one;
//! 5. `poll`: equal requests share one `poller`, which knows when to ask the handler; `saved`: the last list of a process that is
//!    no more;
//! 6. [`Devices`]: what the handler found, [`Collected`] where it is more than ids; `taken`: what becomes of it; `list`: the same,
//!    sorted, encoded once, and compared with the last one;
//!    `grace`: devices that are missing and kept; `collisions`: devices that Akri cannot tell apart; `news`: what the log says of
//!    it; `observed`: what probes and Prometheus see.

mod agent;
mod collected;
mod collisions;
mod devices;
mod directory;
mod grace;
mod list;
mod news;
mod observed;
mod own_socket;
mod poll;
mod poller;
mod preview;
mod registration;
mod saved;
mod service;
mod settings;
mod start;
mod streams;
mod taken;

use std::{
    borrow::Cow,
    collections::HashMap,
    fmt::Display,
    hash::{Hash, Hasher},
    pin::pin,
    sync::Arc,
    time::Duration,
};

use akri_daemon::{Admin, Connections, one_line, registry};
pub use akri_daemon::{AdminSettings, BadSetting, Shutdown};
pub use akri_proto::v0::{Device, DeviceSpec, Mount};
use async_trait::async_trait;
use log::info;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

pub use collected::Collected;
pub use devices::Devices;
#[cfg(feature = "bench")]
pub use list::DeviceList;
pub use preview::Preview;
pub use settings::{PodIp, Settings};
pub use start::start;

use observed::Observed;
use own_socket::Own;
use poll::Pollers;
use registration::{Registration, keep_registered};
use service::{Discover, LIMITS};

/// How long streams stay open when we are stopped: an Agent that hears of a successor in this time loses nothing (rule 4).
const GRACE: Duration = Duration::from_secs(2);

/// How long open streams may take to end then.
const DRAIN: Duration = Duration::from_secs(2);

/// `discoveryProperties` of a Configuration, with the values from Secrets and ConfigMaps that the Agent has read (rule 15).
/// They may be secret: they are in no log line, and must be in no error.
pub type Properties = HashMap<String, Vec<u8>>;

/// What a protocol brings.
#[async_trait]
pub trait DiscoveryHandler: Send + Sync + 'static {
    /// What a Configuration asks for. Equal requests share a poller. `Display` is how the log calls it, without secrets. Where
    /// `discoveryDetails` say it all, a `String` will do.
    type Request: Clone + Eq + Hash + Display + Send + Sync + 'static;

    /// Turns `discoveryDetails` and `discoveryProperties` of a Configuration into a request. Does no I/O.
    ///
    /// # Errors
    /// What can never work. The Agent is answered `INVALID_ARGUMENT`, and since it keeps the reason to itself (rule 8), the
    /// error is logged: one line that says what is wrong and what would be right, without secrets.
    fn request(&self, details: &str, properties: &Properties) -> anyhow::Result<Self::Request>;

    /// Finds the devices, and says so by [`Found::all`].
    ///
    /// *Asked*: it returns, and is called again at the interval. Where it returns without a word, the devices are the same as
    /// those that were taken last.
    ///
    /// *Told*: it does not return, and says again what there is whenever something has happened. As long as it runs, what it
    /// said last is right.
    ///
    /// It shares a thread with everything else, so it must not block. Dropping the future gives up; that happens when nothing
    /// was found within [`Times::timeout`], and when nobody asks any more.
    ///
    /// # Errors
    /// Why nothing is known about the devices, in one line without secrets. The last list stands, and the next call comes
    /// after 1 s, 2 s, 4 s and so on, up to the interval.
    async fn discover(&self, request: &Self::Request, found: &Found<'_>) -> anyhow::Result<()>;

    /// The times for `request`, where it has its own; by default those of the [`Settings`], which may be changed field by field.
    fn times(&self, _request: &Self::Request, settings: Times) -> Times {
        settings
    }

    /// Writes into `list` what decides which devices there are; a saved list is found by it. By default that is all of the
    /// request. What says only how often and how patiently one asks is better left out, so that a change of it finds the list.
    /// Where a version of the handler feeds other bytes than the one before, it does not find that one's lists, and that is
    /// all.
    fn identify(&self, request: &Self::Request, mut list: &mut dyn Hasher) {
        request.hash(&mut list);
    }

    /// A device's id as the log shows it, without secrets.
    fn shown<'a>(&self, id: &'a str) -> Cow<'a, str> {
        Cow::Owned(one_line(id))
    }
}

/// How often, how patiently, and how soon a device is given up. A time out of its bounds counts as the next one within.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Times {
    /// From one poll to the next, and the longest wait after a failure, `POLL_INTERVAL`; 100 ms to 24 h. A handler that is told
    /// has a short one, so that it is soon listening again.
    pub interval: Duration,
    /// For one poll as a whole, `POLL_TIMEOUT`; 100 ms to 10 min. A handler that is told has it for its first list.
    pub timeout: Duration,
    /// How long a device is kept that is missing from every list, `GRACE`; 0 s, which is not at all, to 24 h. It is given up at
    /// the next poll, or up to a minute late where the handler is told.
    pub grace: Duration,
}

/// Takes what [`DiscoveryHandler::discover`] finds.
pub struct Found<'a>(&'a (dyn Fn(Devices) -> anyhow::Result<()> + Send + Sync));

impl Found<'_> {
    /// These are all devices that are there now, in any order. The Agent hears of it only where they are other ones than
    /// before (rule 9), at most once a second.
    ///
    /// # Errors
    /// They are more than the Agent accepts in a message (rule 11), and the last list stands. Return this error from
    /// `discover`; it is not logged here.
    pub fn all(&self, devices: impl Into<Devices>) -> anyhow::Result<()> {
        (self.0)(devices.into())
    }
}

/// Serves `handler`, registers it and polls until `shutdown` is ready. Then the own socket is removed, and 2 s later streams
/// and pollers end, within 5 s in all whatever the Agent and the handler do. Dropping the future ends all at once.
///
/// The directory and the Agent may come, go and be replaced at any time.
///
/// # Errors
/// A bad setting ([`BadSetting`]), or the handler cannot be served: its socket belongs to another live process,
/// the directory cannot be written, or the address cannot be bound.
pub async fn run<H: DiscoveryHandler>(
    handler: H,
    settings: Settings,
    shutdown: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    settings.check()?;
    let observed = Observed::new();
    let _admin = admin(&observed).serve(&settings.admin).await?;
    let mut shutdown = pin!(shutdown);
    if settings.pod_ip.0.is_none() {
        tokio::select! {
            () = directory::wait_for(&settings.discovery_handlers_directory) => {}
            () = &mut shutdown => return Ok(()),
        }
    }
    let stop = CancellationToken::new();
    let _stop_when_dropped = stop.clone().drop_guard();
    let pollers = Pollers::new(handler, &settings, observed.clone(), stop.clone());
    let service = Discover::new(pollers, stop.clone());
    let connections = Arc::new(Connections::new(service, LIMITS, stop.clone()));

    let outcome = async {
        let own = Own::bind(&settings, connections.clone()).await?;
        info!("serving at {}", own.place().borrow().reach.endpoint);
        observed.set_alone(own.is_alone().await);
        let registration = Registration::new(&settings);
        let registered = keep_registered(registration, own.place(), observed.clone());
        tokio::select! {
            () = own.keep(&observed.loops) => Ok(()),
            registered = registered => registered,
        }
    };
    let outcome = tokio::select! {
        outcome = outcome => outcome,
        () = shutdown => {
            let mut streams = observed.streams.subscribe();
            // The other side is held here.
            let _ = timeout(GRACE, streams.wait_for(|streams| streams.open == 0)).await;
            Ok(())
        }
    };
    stop.cancel();
    connections.end(DRAIN).await;
    outcome
}

/// What the admin port shows.
fn admin(observed: &Arc<Observed>) -> Admin {
    let mut metrics = registry();
    observed.register(&mut metrics);
    let (loops, observed) = (observed.loops.clone(), observed.clone());
    Admin {
        metrics,
        loops,
        not_ready: Box::new(move || observed.not_ready()),
    }
}
