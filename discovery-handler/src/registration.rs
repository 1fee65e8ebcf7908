//! Keeps this handler registered with the Agent: which Agent is there, does it know us, and does it still?

use std::{error::Error, path::PathBuf, pin::pin, time::Duration};

use akri_http_proto::v0::{
    RegisterDiscoveryHandlerRequest, registration_client::RegistrationClient,
};
use anyhow::anyhow;
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
    fetch::deepest,
    outage::Outage,
};

/// The delay before the second try; the next ones double up to [`MAX_RETRY`].
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

impl Registration {
    fn log(&self) {
        let agent = self.agent_socket.display();
        let (name, endpoint, shared) = (&self.name, &self.reach.endpoint, self.shared);
        info!("registered with {agent} as {name} at {endpoint}, shared: {shared}");
    }
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
            self.outage.succeeded();
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
    /// How many streams had ended by then.
    ended: u64,
    /// Our endpoint was lost since.
    moved: bool,
    /// The socket that we try to register with, and how many streams were opened before we did.
    tried: Option<(FileId, u64)>,
}

impl Known {
    /// The Agent behind `socket` knows us, as far as the streams tell.
    fn registered(&mut self, socket: FileId, streams: Streams) {
        *self = Self {
            registered_with: Some(socket),
            ended: streams.ended,
            moved: false,
            tried: None,
        };
    }

    /// Whether the Agent behind `socket` has to be told about us.
    fn needs_us(&mut self, socket: FileId, now: Streams) -> bool {
        // An Agent that opens streams took the registration, although we did not hear so.
        if now.open > 0
            && self
                .tried
                .is_some_and(|(tried, opened)| tried == socket && now.opened > opened)
        {
            self.registered(socket, now);
        }
        let Some(registered_with) = self.registered_with else {
            return true;
        };
        if !registered_with.may_be(&socket) {
            return true;
        }
        // Open streams are proof of a living Agent that knows us (rule 5). Without them the socket may be another one
        // (rule 6), and an Agent that dropped the last stream may have forgotten us.
        now.open == 0 && (registered_with != socket || now.ended > self.ended || self.moved)
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
    let mut watch = DirectoryWatch::new(path.parent().unwrap_or(path));
    let mut outage = Outage::new(format!("registering with {shown}"));
    let mut known = Known {
        registered_with: None,
        ended: 0,
        moved: false,
        tried: None,
    };
    let mut retries = retries();
    let mut last_try: Option<Instant> = None;
    let mut next_try = Instant::now();
    let mut waiting = false;
    loop {
        if let Some(own) = &mut own {
            known.moved |= own.keep_in_place().await;
        }
        let now = *streams.borrow_and_update();
        let socket = FileId::of(path);
        if socket.is_none() && !waiting {
            info!("waiting for the Agent's socket {shown}");
        }
        waiting = socket.is_none();
        let due = socket.filter(|socket| known.needs_us(*socket, now));
        if let Some(socket) = due {
            let new = known.tried.is_none_or(|(tried, _)| tried != socket)
                && known.registered_with.is_none_or(|known| known != socket);
            if new {
                known.tried = Some((socket, now.opened));
            }
            if new || last_try.is_none_or(|last| last.elapsed() > SETTLED) {
                retries = self::retries();
                next_try = Instant::now();
            }
            if next_try <= Instant::now() {
                let started = Instant::now();
                last_try = Some(started);
                match attempt(registration, socket, &mut watch, &mut own).await {
                    Ok(()) => {
                        outage.succeeded();
                        known.registered(socket, now);
                        registration.log();
                    }
                    Err(cause) => outage.failed(cause, "trying again, at most 5 s apart"),
                }
                // From the start, so that a try that takes long does not make the next one late.
                next_try = started + retries.next().unwrap_or(MAX_RETRY);
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
    own: &mut Option<Own>,
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
                if let Some(own) = own {
                    own.keep_in_place().await;
                }
            }
        }
    }
}

async fn register(registration: &Registration) -> anyhow::Result<()> {
    let target = format!("unix:{}", registration.agent_socket.display());
    let channel = Endpoint::from_shared(target)?.connect().await;
    let channel = channel.map_err(|error| anyhow!("cannot connect: {}", deepest(&error)))?;
    let request = RegisterDiscoveryHandlerRequest {
        name: registration.name.clone(),
        endpoint: registration.reach.endpoint.clone(),
        endpoint_type: registration.reach.endpoint_type.into(),
        shared: registration.shared,
    };
    let registered = RegistrationClient::new(channel)
        .register_discovery_handler(request)
        .await;
    registered.map_err(|status| {
        // Where there is a cause, the connection broke; the Agent itself said nothing.
        if let Some(cause) = status.source() {
            return anyhow!("no answer: {}", deepest(cause));
        }
        let (code, message) = (status.code(), status.message().escape_debug());
        anyhow!("the Agent refused: {code:?}: {message}")
    })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::directory::FileTime;

    #[test]
    fn tries_come_quickly_at_first_and_at_most_five_seconds_apart() {
        let delays: Vec<Duration> = retries().take(50).collect();
        assert!(delays[0] <= Duration::from_millis(100), "{delays:?}");
        assert!(delays.iter().all(|delay| *delay <= MAX_RETRY), "{delays:?}");
        assert!(
            delays[40..].iter().all(|delay| *delay >= MAX_RETRY / 2),
            "{delays:?}"
        );
    }

    fn file(inode: u64, time: FileTime) -> FileId {
        FileId {
            inode: (1, inode),
            time,
        }
    }

    fn born(seconds: u64) -> FileTime {
        FileTime::Born(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))
    }

    #[test]
    fn who_needs_a_registration() {
        let (agent, other) = (file(1, born(1)), file(2, born(2)));
        let same_inode = file(1, born(2));
        let (unborn, touched) = (
            file(1, FileTime::Changed(1, 0)),
            file(1, FileTime::Changed(2, 0)),
        );
        let streams = |open, ended| Streams {
            open,
            opened: open as u64 + ended,
            ended,
        };
        let mut known = Known {
            registered_with: None,
            ended: 0,
            moved: false,
            tried: None,
        };
        assert!(known.needs_us(agent, streams(0, 0)), "nobody was told yet");
        known.registered(agent, streams(0, 0));
        assert!(!known.needs_us(agent, streams(0, 0)));
        assert!(!known.needs_us(agent, streams(2, 0)));
        assert!(
            !known.needs_us(agent, streams(1, 1)),
            "one of two streams dropped"
        );
        assert!(
            known.needs_us(agent, streams(0, 2)),
            "the last stream dropped"
        );
        assert!(known.needs_us(other, streams(0, 0)), "another socket");
        assert!(
            known.needs_us(other, streams(1, 0)),
            "another socket, old streams still open"
        );
        assert!(
            known.needs_us(same_inode, streams(1, 0)),
            "another socket with an old inode number, a foreign stream open"
        );
        known.moved = true;
        assert!(
            known.needs_us(agent, streams(0, 0)),
            "our endpoint was lost"
        );
        assert!(!known.needs_us(agent, streams(1, 0)));
        known.registered(unborn, streams(0, 0));
        assert!(
            known.needs_us(touched, streams(0, 0)),
            "perhaps another socket"
        );
        assert!(
            !known.needs_us(touched, streams(1, 0)),
            "perhaps the same, and a stream is proof"
        );
        known.tried = Some((other, 5));
        assert!(
            !known.needs_us(other, streams(1, 5)),
            "it opened a stream, so it knows us"
        );
    }
}
