//! Where this handler is served: its own socket, which is bound again when its file is lost, or TCP on `POD_IP`.

use std::{
    io,
    net::SocketAddr,
    os::unix::fs::FileTypeExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use akri_daemon::{Connections, LineBudget, Outage, Tcp};
use akri_http_proto::v0::register_discovery_handler_request::EndpointType;
use anyhow::{Context as _, bail};
use log::warn;
use tokio::{
    net::{TcpListener, UnixListener, UnixStream},
    sync::watch,
    time::timeout,
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

/// Where the handler is served, as long as the value lives. Dropping it removes the own socket, if it is still ours.
pub(crate) struct Own<H: DiscoveryHandler> {
    connections: Arc<Connections<Discover<H>>>,
    reach: Reach,
    place: watch::Sender<Place>,
    _accepting: AbortOnDropHandle<()>,
}

/// What the Agent dials.
#[derive(Clone)]
pub(crate) struct Place {
    /// The own socket and its file; `None` on TCP.
    socket: Option<(PathBuf, Option<FileId>)>,
    /// How often it was bound.
    pub times: u64,
}

impl Place {
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
    /// Serves `POD_IP` where it is set, and else the own socket. A socket that a dead process left there is replaced.
    ///
    /// # Errors
    /// When another live process serves the own socket, when what is there is no socket, when the directory cannot be
    /// written, and when the address cannot be bound.
    pub async fn bind(
        settings: &Settings,
        connections: Arc<Connections<Discover<H>>>,
    ) -> anyhow::Result<Self> {
        let (reach, socket, accepting) = match settings.pod_ip.0 {
            Some(ip) => {
                let address = SocketAddr::new(ip, settings.network_port);
                let context = || format!("binding POD_IP as {address}");
                let listener = TcpListener::bind(address).await.with_context(context)?;
                let reach = Reach::network(listener.local_addr().with_context(context)?);
                let connections = connections.clone();
                let accept = async move { connections.accept_from(Tcp(listener)).await };
                (reach, None, tokio::spawn(accept))
            }
            None => {
                let path = settings.own_socket();
                let listener = bind_socket(&path).await?;
                let file = FileId::of(&path);
                let reach = Reach::socket(&path);
                let connections = connections.clone();
                let accept = async move { connections.accept_from(listener).await };
                (reach, Some((path, file)), tokio::spawn(accept))
            }
        };
        Ok(Self {
            connections,
            reach,
            place: watch::Sender::new(Place { socket, times: 1 }),
            _accepting: AbortOnDropHandle::new(accepting),
        })
    }

    /// How the Agent reaches this handler.
    pub fn reach(&self) -> &Reach {
        &self.reach
    }

    /// Follows the own socket.
    pub fn place(&self) -> watch::Receiver<Place> {
        self.place.subscribe()
    }

    /// Binds the own socket again whenever its file is lost. While that fails, open streams live on, and the cause is
    /// logged. Runs until it is dropped, and removes the own socket then.
    pub async fn keep(mut self) {
        let Some((path, _)) = self.place.borrow().socket.clone() else {
            return std::future::pending().await;
        };
        let mut outage = Outage::new(module_path!(), format!("own socket {}", path.display()));
        let mut lines = LineBudget::default();
        loop {
            look_again().await;
            if self.place.borrow().is_there() {
                outage.succeeded();
                continue;
            }
            match bind_socket(&path).await {
                Ok(listener) => {
                    outage.succeeded();
                    if let Some(left_out) = lines.take() {
                        let path = path.display();
                        warn!("own socket {path} was lost and is bound again{left_out}");
                    }
                    let connections = self.connections.clone();
                    let accept = async move { connections.accept_from(listener).await };
                    self._accepting = AbortOnDropHandle::new(tokio::spawn(accept));
                    let file = FileId::of(&path);
                    self.place.send_modify(|place| {
                        place.socket = Some((path.clone(), file));
                        place.times += 1;
                    });
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

async fn bind_socket(path: &Path) -> anyhow::Result<UnixListener> {
    let shown = path.display();
    if let Ok(metadata) = std::fs::symlink_metadata(path) {
        if !metadata.file_type().is_socket() {
            bail!(
                "{shown} is no socket and is not replaced: remove it, or choose another DISCOVERY_HANDLER_NAME"
            );
        }
        match timeout(ANSWER, UnixStream::connect(path)).await {
            Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => {}
            Ok(Err(error)) if error.kind() == io::ErrorKind::NotFound => {}
            Ok(Err(error)) if error.kind() == io::ErrorKind::PermissionDenied => {
                return Err(error).with_context(|| format!("checking who serves {shown}"));
            }
            _ => bail!(
                "another live process serves {shown}: stop it, or choose another DISCOVERY_HANDLER_NAME"
            ),
        }
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("removing the stale {shown}"));
            }
            _ => {}
        }
    }
    UnixListener::bind(path).with_context(|| format!("binding {shown}"))
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
