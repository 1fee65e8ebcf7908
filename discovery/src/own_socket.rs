//! Where this handler is served: an own socket, which is bound again when its file is lost, or TCP on `POD_IP`.
//!
//! The own socket is `<name>.sock`, or where another live process serves that, the first free one of a few fixed names. So a
//! handler takes over from the one before it while both live, and nothing is lost (rule 4). The names are used again and again,
//! since the Agent keeps each one that it was told until a new request fails on it (rule 24).

use std::{
    fs::File,
    io,
    net::SocketAddr,
    os::unix::fs::FileTypeExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use akri_daemon::{Connections, LineBudget, Loops, Outage, Tcp};
use akri_proto::v0::register_discovery_handler_request::EndpointType;
use anyhow::{Context as _, bail};
use log::warn;
use tokio::{
    net::{TcpListener, UnixListener, UnixStream},
    sync::watch,
    time::{sleep, timeout},
};
use tokio_util::task::AbortOnDropHandle;
use tonic::{
    Code, Request,
    client::Grpc,
    codegen::http::uri::PathAndQuery,
    transport::{Channel, Endpoint},
};
use tonic_prost::ProstCodec;

use crate::{
    DiscoveryHandler,
    directory::{FileId, look_again},
    service::Discover,
    settings::Settings,
};

/// How long another process may take to accept a connection.
const ANSWER: Duration = Duration::from_secs(2);

/// How long this handler may take to answer itself, on a busy machine with little CPU (rule 17).
const PROOF: Duration = Duration::from_secs(20);

/// How often to look whether the own socket is still there.
const LOOK: Duration = Duration::from_millis(500);

/// How long to wait for another process that looks for a free name.
const TURN: Duration = Duration::from_secs(5);

/// Where the handler is served, as long as the value lives. Dropping it removes the own socket, if it is still ours.
pub(crate) struct Own<H: DiscoveryHandler> {
    connections: Arc<Connections<Discover<H>>>,
    /// What the own socket may be called; empty on TCP.
    names: Vec<PathBuf>,
    place: watch::Sender<Place>,
    _accepting: AbortOnDropHandle<()>,
}

/// Where the Agent finds us.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    /// What it dials.
    pub reach: Reach,
    /// The own socket's file; `None` on TCP.
    socket: Option<(PathBuf, Option<FileId>)>,
    /// How often it was bound.
    pub times: u64,
}

impl Place {
    fn socket(path: PathBuf, times: u64) -> Self {
        let file = FileId::of(&path);
        Self {
            reach: Reach::socket(&path),
            socket: Some((path, file)),
            times,
        }
    }

    /// Whether the Agent finds us there. Somebody may have removed the own socket, or its whole directory.
    pub fn is_there(&self) -> bool {
        match &self.socket {
            None => true,
            Some((path, bound)) => match (FileId::of(path), bound) {
                (Some(now), Some(bound)) => now.may_be(bound),
                _ => false,
            },
        }
    }
}

impl<H: DiscoveryHandler> Own<H> {
    /// Serves `POD_IP` where it is set, and else an own socket. A socket that a dead process left there is replaced.
    ///
    /// # Errors
    /// When live processes serve all names of the own socket, when what is there is no socket, when the directory cannot be
    /// written, and when the address cannot be bound.
    pub async fn bind(
        settings: &Settings,
        connections: Arc<Connections<Discover<H>>>,
    ) -> anyhow::Result<Self> {
        let accepting = connections.clone();
        let (names, place, accepting) = match settings.pod_ip.0 {
            Some(ip) => {
                let address = SocketAddr::new(ip, settings.network_port);
                let context = || format!("binding POD_IP as {address}");
                let listener = TcpListener::bind(address).await.with_context(context)?;
                let place = Place {
                    reach: Reach::network(listener.local_addr().with_context(context)?),
                    socket: None,
                    times: 1,
                };
                let accept = async move { accepting.accept_from(Tcp(listener)).await };
                (Vec::new(), place, tokio::spawn(accept))
            }
            None => {
                let names = settings.own_sockets();
                let (path, listener) = bind_first(&names).await?;
                let accept = async move { accepting.accept_from(listener).await };
                (names, Place::socket(path, 1), tokio::spawn(accept))
            }
        };
        Ok(Self {
            connections,
            names,
            place: watch::Sender::new(place),
            _accepting: AbortOnDropHandle::new(accepting),
        })
    }

    /// Whether there is certainly no other live handler of this name on the node, which we could be about to replace.
    pub async fn is_alone(&self) -> bool {
        let ours = match &self.place.borrow().socket {
            Some((path, _)) => path.clone(),
            None => return false,
        };
        for name in self.names.iter().filter(|name| **name != ours) {
            if !matches!(is_free(name).await, Ok(true)) {
                return false;
            }
        }
        true
    }

    /// Follows where the Agent finds us.
    pub fn place(&self) -> watch::Receiver<Place> {
        self.place.subscribe()
    }

    /// Binds the own socket again whenever its file is lost. While that fails, open streams live on, and the cause is
    /// logged. Runs until it is dropped, and removes the own socket then.
    pub async fn keep(mut self, loops: &Loops) {
        if self.names.is_empty() {
            return std::future::pending().await;
        }
        let turning = loops.begin("own socket");
        let mut outage = Outage::new(module_path!(), "the lost own socket");
        let mut lines = LineBudget::default();
        loop {
            turning.turns(LOOK);
            sleep(LOOK).await;
            if self.place.borrow().is_there() {
                outage.succeeded();
                continue;
            }
            match bind_first(&self.names).await {
                Ok((path, listener)) => {
                    outage.succeeded();
                    if let Some(left_out) = lines.take() {
                        let path = path.display();
                        warn!("own socket {path} was lost and is bound again{left_out}");
                    }
                    let connections = self.connections.clone();
                    let accept = async move { connections.accept_from(listener).await };
                    self._accepting = AbortOnDropHandle::new(tokio::spawn(accept));
                    let times = self.place.borrow().times + 1;
                    self.place.send_replace(Place::socket(path, times));
                }
                Err(error) => {
                    outage.failed(format!("{error:#}"), "the Agent cannot open new streams");
                }
            }
        }
    }
}

impl<H: DiscoveryHandler> Drop for Own<H> {
    fn drop(&mut self) {
        let place = self.place.borrow();
        if let Some((path, _)) = &place.socket
            && place.is_there()
            && let Err(error) = std::fs::remove_file(path)
        {
            warn!("{} could not be removed: {error}", path.display());
        }
    }
}

/// Binds the first of these that no live process serves.
async fn bind_first(names: &[PathBuf]) -> anyhow::Result<(PathBuf, UnixListener)> {
    let directory = names.first().and_then(|path| path.parent());
    let _turn = my_turn(directory.unwrap_or(Path::new("/"))).await;
    for path in names {
        let context = || format!("binding {}", path.display());
        if is_free(path).await.with_context(context)? {
            let listener = UnixListener::bind(path).with_context(context)?;
            return Ok((path.clone(), listener));
        }
    }
    let names: Vec<String> = names
        .iter()
        .map(|path| path.display().to_string())
        .collect();
    bail!(
        "other live processes serve {}: stop them, or choose another DISCOVERY_HANDLER_NAME",
        names.join(", ")
    )
}

/// Of processes that look for a free name at the same time, one does so after the other: the directory is locked until the
/// value is dropped. One that holds it for long is ignored.
async fn my_turn(directory: &Path) -> Option<File> {
    let directory = File::open(directory).ok()?;
    let locked = timeout(TURN, async {
        while directory.try_lock().is_err() {
            look_again().await;
        }
    });
    // Without the lock two processes may take the same name; the one that loses its socket so takes another one.
    let _ = locked.await;
    Some(directory)
}

/// Whether nobody serves `path`. What a dead process left there is removed.
async fn is_free(path: &Path) -> anyhow::Result<bool> {
    let Ok(metadata) = std::fs::symlink_metadata(path) else {
        return Ok(true);
    };
    if !metadata.file_type().is_socket() {
        bail!(
            "it is no socket and is not replaced: remove it, or choose another DISCOVERY_HANDLER_NAME"
        );
    }
    match timeout(ANSWER, UnixStream::connect(path)).await {
        Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => {}
        Ok(Err(error)) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
        Ok(Err(error)) if error.kind() == io::ErrorKind::PermissionDenied => {
            return Err(error).context("checking who serves it");
        }
        // Somebody accepts, or is too busy to.
        _ => return Ok(false),
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).context("removing what a dead process left")
        }
        _ => Ok(true),
    }
}

/// How the Agent reaches this handler.
#[derive(Clone, Debug)]
pub(crate) struct Reach {
    /// A socket's path, or `http://IP:port`.
    pub endpoint: String,
    /// Which of the two it is.
    pub endpoint_type: EndpointType,
}

impl Reach {
    /// By the socket at `path`, which is UTF-8 (see [`Settings::check`]).
    fn socket(path: &Path) -> Self {
        Self {
            endpoint: path.to_string_lossy().into_owned(),
            endpoint_type: EndpointType::Uds,
        }
    }

    /// By TCP; an IPv6 address gets its brackets.
    fn network(address: SocketAddr) -> Self {
        Self {
            endpoint: format!("http://{address}"),
            endpoint_type: EndpointType::Network,
        }
    }

    /// Calls this handler as the Agent would, so that nothing is registered that does not answer.
    ///
    /// # Errors
    /// When it cannot be reached, or something else answers there.
    pub async fn prove(&self) -> anyhow::Result<()> {
        let target = match self.endpoint_type {
            EndpointType::Uds => format!("unix:{}", self.endpoint),
            EndpointType::Network => self.endpoint.clone(),
        };
        let answer = timeout(PROOF, async {
            let channel: Channel = Endpoint::from_shared(target)?.connect().await?;
            let mut grpc = Grpc::new(channel);
            grpc.ready().await?;
            // A method that does not exist: the answer proves that gRPC is served, and nothing is started for it.
            let path = PathAndQuery::from_static("/v0.DiscoveryHandler/Prove");
            let answer = grpc
                .unary(Request::new(()), path, ProstCodec::<(), ()>::new())
                .await;
            anyhow::Ok(answer)
        });
        let endpoint = &self.endpoint;
        match answer.await {
            Ok(Ok(Err(status))) if status.code() == Code::Unimplemented => Ok(()),
            Ok(Ok(other)) => bail!("something else answers at {endpoint}: {other:?}"),
            Ok(Err(error)) => Err(error.context(format!("calling {endpoint}"))),
            Err(_) => bail!("{endpoint} does not answer within {PROOF:?}"),
        }
    }
}
