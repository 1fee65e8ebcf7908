//! Keeps this handler registered with the Agent: which Agent is there, does it know us, and does it still?

use std::{path::PathBuf, pin::pin, time::Duration};

use akri_http_proto::v0::{
    RegisterDiscoveryHandlerRequest, registration_client::RegistrationClient,
};
use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use log::{info, warn};
use tokio::{
    net::UnixStream,
    sync::watch,
    time::{Instant, sleep_until, timeout},
};
use tonic::transport::Endpoint;

use crate::{
    directory::{DirectoryWatch, FileId},
    discover::Streams,
    endpoint::{Connections, OwnSocket, Reach},
    outage::Outage,
};

/// The first delay before another try, doubling up to twice [`MAX_RETRY`]'s half with the jitter on top.
const FIRST_RETRY: Duration = Duration::from_millis(50);

/// Tries are at most this far apart.
const MAX_RETRY: Duration = Duration::from_secs(5);

/// For one registration as a whole.
const ANSWER: Duration = Duration::from_secs(5);

/// An Agent that kept us this long starts with short delays again.
const SETTLED: Duration = Duration::from_secs(30);

/// What to register, and where.
pub struct Registration {
    /// The Agent's socket.
    pub agent_socket: PathBuf,
    /// The handler's name, `DISCOVERY_HANDLER_NAME`.
    pub name: String,
    /// Whether more than one node may see the same device.
    pub shared: bool,
    /// How the Agent reaches this handler.
    pub reach: Reach,
}

/// The own socket, bound again whenever its file is lost; without one where the handler is served on TCP.
pub struct Own {
    path: PathBuf,
    connections: Connections<UnixStream>,
    socket: OwnSocket,
    outage: Outage,
}

impl Own {
    /// Binds the own socket; see [`OwnSocket::bind`].
    ///
    /// # Errors
    /// As there.
    pub async fn bind(path: PathBuf, connections: Connections<UnixStream>) -> anyhow::Result<Self> {
        Ok(Self {
            socket: OwnSocket::bind(&path, connections.clone()).await?,
            outage: Outage::new(format!("own socket {}", path.display())),
            path,
            connections,
        })
    }

    /// Says whether the socket had to be bound again. While it cannot be, open streams live on and the cause is logged.
    async fn keep_in_place(&mut self) -> bool {
        if self.socket.is_in_place() {
            return false;
        }
        match OwnSocket::bind(&self.path, self.connections.clone()).await {
            Ok(socket) => {
                self.socket = socket;
                self.outage.succeeded();
                warn!(
                    "own socket {} was lost and is bound again",
                    self.path.display()
                );
                true
            }
            Err(error) => {
                self.outage
                    .failed(format!("{error:#}"), "the Agent cannot open new streams");
                false
            }
        }
    }
}

/// What is known about the Agent.
struct Known {
    /// The Agent's socket when it last took our registration.
    registered_with: Option<FileId>,
    /// The streams when it did.
    streams: Streams,
    /// Our endpoint has changed since.
    moved: bool,
}

impl Known {
    /// Whether the Agent behind `socket` has to be told about us.
    fn needs_us(&self, socket: FileId, now: Streams) -> bool {
        let Some(registered_with) = self.registered_with else {
            return true;
        };
        if !registered_with.same_inode(&socket) {
            return true;
        }
        // Open streams are proof of a living Agent that knows us (rule 5). Without them a new socket may have
        // an old inode number (rule 6), and an Agent that dropped the last stream may have forgotten us.
        let forgotten = registered_with != socket || now.ended > self.streams.ended || self.moved;
        now.open == 0 && forgotten
    }
}

/// Registers as soon as there is an Agent, and again whenever it may have forgotten us: a new socket, or its last
/// stream dropped. Never while streams to a living Agent are open, and never as a heartbeat (rule 5).
/// Runs until it is dropped; failures are logged and tried again, at most 5 s apart.
pub async fn keep_registered(
    registration: &Registration,
    mut own: Option<Own>,
    mut streams: watch::Receiver<Streams>,
) {
    let path = &registration.agent_socket;
    let shown = path.display();
    let directory = path.parent().unwrap_or(path);
    let mut watch = DirectoryWatch::new(directory);
    let mut outage = Outage::new(format!("registering with {shown}"));
    let mut known = Known {
        registered_with: None,
        streams: *streams.borrow(),
        moved: false,
    };
    let mut retries = retries();
    let mut tried_with = None;
    let mut last_try = Instant::now();
    let mut next_try = last_try;
    let mut waiting = false;
    loop {
        if let Some(own) = &mut own {
            known.moved |= own.keep_in_place().await;
        }
        let now = *streams.borrow_and_update();
        let socket = FileId::of(path);
        if socket.is_none() && !std::mem::replace(&mut waiting, socket.is_none()) {
            info!("waiting for the Agent's socket {shown}");
        }
        let due = socket.filter(|socket| known.needs_us(*socket, now));
        if let Some(socket) = due {
            if tried_with != Some(socket) || last_try.elapsed() > SETTLED {
                retries = self::retries();
                next_try = Instant::now();
            }
            if next_try <= Instant::now() {
                (tried_with, last_try) = (Some(socket), Instant::now());
                waiting = false;
                let outcome = attempt(registration, socket, &mut watch).await;
                next_try = Instant::now() + retries.next().unwrap_or(MAX_RETRY);
                match outcome {
                    Ok(()) => {
                        outage.succeeded();
                        let Registration {
                            name,
                            shared,
                            reach,
                            ..
                        } = registration;
                        info!(
                            "registered with {shown} as {name} at {}, shared: {shared}",
                            reach.endpoint
                        );
                        known = Known {
                            registered_with: Some(socket),
                            streams: now,
                            moved: false,
                        };
                    }
                    // The Agent took it although we did not hear so.
                    Err(_) if streams.borrow().opened > now.opened && streams.borrow().open > 0 => {
                        known = Known {
                            registered_with: Some(socket),
                            streams: now,
                            moved: false,
                        };
                    }
                    Err(cause) => outage.failed(cause, "trying again, at most 5 s apart"),
                }
                continue;
            }
        }
        tokio::select! {
            () = watch.changed() => {}
            // The other side is held by the service, which outlives this.
            _ = streams.changed() => {}
            () = sleep_until(next_try), if due.is_some() => {}
        }
    }
}

fn retries() -> ExponentialBackoff {
    ExponentialBuilder::new()
        .with_min_delay(FIRST_RETRY)
        // The jitter adds up to once the delay.
        .with_max_delay(MAX_RETRY / 2)
        .with_jitter()
        .without_max_times()
        .build()
}

/// Registers once; gives up early when the Agent's socket becomes another one in the meantime.
async fn attempt(
    registration: &Registration,
    socket: FileId,
    watch: &mut DirectoryWatch,
) -> Result<(), String> {
    let mut registering = pin!(timeout(ANSWER, register(registration)));
    loop {
        tokio::select! {
            outcome = &mut registering => return match outcome {
                Ok(outcome) => outcome.map_err(|error| format!("{error:#}")),
                Err(_) => Err(format!("no answer within {ANSWER:?}")),
            },
            () = watch.changed() => {
                if FileId::of(&registration.agent_socket) != Some(socket) {
                    return Err("the Agent's socket was replaced meanwhile".into());
                }
            }
        }
    }
}

async fn register(registration: &Registration) -> anyhow::Result<()> {
    let target = format!("unix:{}", registration.agent_socket.display());
    let channel = Endpoint::from_shared(target)?.connect().await?;
    let request = RegisterDiscoveryHandlerRequest {
        name: registration.name.clone(),
        endpoint: registration.reach.endpoint.clone(),
        endpoint_type: registration.reach.endpoint_type.into(),
        shared: registration.shared,
    };
    RegistrationClient::new(channel)
        .register_discovery_handler(request)
        .await
        .map_err(|status| {
            anyhow::anyhow!(
                "the Agent refused: {:?}: {}",
                status.code(),
                status.message()
            )
        })?;
    Ok(())
}
