//! Where this handler is served: its own socket in the directory, or TCP on `POD_IP`.

use std::{
    future::poll_fn,
    io,
    net::SocketAddr,
    os::unix::fs::FileTypeExt,
    path::{Path, PathBuf},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use akri_http_proto::v0::register_discovery_handler_request::EndpointType;
use anyhow::{Context as _, bail};
use log::warn;
use tokio::{
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    sync::{Semaphore, mpsc},
    task::JoinHandle,
    time::{sleep, timeout},
};
use tonic::{
    Code, Request,
    client::Grpc,
    codegen::http::uri::PathAndQuery,
    transport::{Channel, Endpoint},
};
use tonic_prost::ProstCodec;

use crate::{directory::FileId, outage::Outage};

/// How long another process may take to take a connection.
const ANSWER: Duration = Duration::from_secs(2);

/// How long this handler may take to answer itself, with little of a busy machine to its name (rule 17).
const PROOF: Duration = Duration::from_secs(20);

/// After a connection could not be accepted, most likely for want of file descriptors.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// How long a new TCP connection may be silent, and how many may be so at once.
const FIRST_BYTE: Duration = Duration::from_secs(10);
const SILENT_CONNECTIONS: usize = 128;

/// Connections that are accepted and not yet served.
pub type Connections<C> = mpsc::Sender<io::Result<C>>;

/// This handler's own socket, served as long as the value lives. Dropping it removes the file, if it is still ours.
pub struct OwnSocket {
    path: PathBuf,
    file: Option<FileId>,
    accepting: JoinHandle<()>,
}

impl OwnSocket {
    /// Binds `path` and hands each connection over. A file that a dead process left there is replaced.
    ///
    /// # Errors
    /// When another live process serves `path`, when what is there is no socket, and when the directory cannot be written.
    pub async fn bind(path: &Path, connections: Connections<UnixStream>) -> anyhow::Result<Self> {
        let shown = path.display();
        match std::fs::symlink_metadata(path) {
            Ok(metadata) if !metadata.file_type().is_socket() => {
                bail!(
                    "{shown} is no socket and is not replaced: remove it, or choose another DISCOVERY_HANDLER_NAME"
                );
            }
            Ok(_) => {
                match timeout(ANSWER, UnixStream::connect(path)).await {
                    Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => {}
                    Ok(Err(error)) if error.kind() == io::ErrorKind::NotFound => {}
                    Ok(Err(error)) if error.kind() == io::ErrorKind::PermissionDenied => {
                        return Err(error).with_context(|| format!("looking who serves {shown}"));
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
            Err(_) => {}
        }
        let listener = UnixListener::bind(path).with_context(|| format!("binding {shown}"))?;
        Ok(Self {
            path: path.to_path_buf(),
            file: FileId::of(path),
            accepting: tokio::spawn(accept(connections, move |cx| {
                listener.poll_accept(cx).map_ok(|(stream, _)| stream)
            })),
        })
    }

    /// Whether the file that leads here still stands; somebody may have removed it, or its whole directory.
    pub fn is_in_place(&self) -> bool {
        match (FileId::of(&self.path), self.file) {
            (Some(now), Some(bound)) => now.may_be(&bound),
            _ => false,
        }
    }
}

impl Drop for OwnSocket {
    fn drop(&mut self) {
        self.accepting.abort();
        if self.is_in_place()
            && let Err(error) = std::fs::remove_file(&self.path)
        {
            warn!("{} could not be removed: {error}", self.path.display());
        }
    }
}

/// Serves `address` and hands each connection over, until nobody takes them any more; tells the address with its port.
///
/// # Errors
/// When the address cannot be bound.
pub async fn bind_tcp(
    address: SocketAddr,
    connections: Connections<TcpStream>,
) -> anyhow::Result<SocketAddr> {
    let context = || format!("binding POD_IP as {address}");
    let listener = TcpListener::bind(address).await.with_context(context)?;
    let bound = listener.local_addr().with_context(context)?;
    let (accepted, silent) = mpsc::channel(1);
    tokio::spawn(accept(accepted, move |cx| {
        listener.poll_accept(cx).map_ok(|(stream, _)| stream)
    }));
    tokio::spawn(let_speak(silent, connections));
    Ok(bound)
}

/// Hands over the connections that say something. Anybody may connect, and one that is silent costs memory for ever.
async fn let_speak(
    mut silent: mpsc::Receiver<io::Result<TcpStream>>,
    connections: Connections<TcpStream>,
) {
    let places = Arc::new(Semaphore::new(SILENT_CONNECTIONS));
    while let Some(Ok(stream)) = silent.recv().await {
        let Ok(place) = places.clone().try_acquire_owned() else {
            continue;
        };
        // Small messages shall not wait for more; a connection that refuses it works all the same.
        let _ = stream.set_nodelay(true);
        let connections = connections.clone();
        tokio::spawn(async move {
            let speaks = timeout(FIRST_BYTE, stream.peek(&mut [0])).await;
            drop(place);
            if matches!(speaks, Ok(Ok(1))) {
                // An error means that nobody takes it any more.
                let _ = connections.send(Ok(stream)).await;
            }
        });
    }
}

async fn accept<C>(
    connections: Connections<C>,
    mut next: impl FnMut(&mut Context<'_>) -> Poll<io::Result<C>>,
) {
    let mut outage = Outage::new("accepting connections");
    loop {
        let accepted = tokio::select! {
            accepted = poll_fn(&mut next) => accepted,
            () = connections.closed() => return,
        };
        match accepted {
            // An error means that nobody takes it any more, which ends the loop.
            Ok(connection) => {
                outage.succeeded();
                drop(connections.send(Ok(connection)).await);
            }
            Err(error) => {
                outage.failed(error, "the Agent may have to wait");
                sleep(ACCEPT_AGAIN).await;
            }
        }
    }
}

/// How the Agent reaches this handler.
#[derive(Clone, Debug)]
pub struct Reach {
    /// A socket's path, or `http://IP:port`.
    pub endpoint: String,
    /// Which of the two it is.
    pub endpoint_type: EndpointType,
}

impl Reach {
    /// By the socket at `path`.
    ///
    /// # Errors
    /// When the path is not UTF-8, as the wire wants it.
    pub fn uds(path: &Path) -> anyhow::Result<Self> {
        let text = path.to_str();
        let text = text.with_context(|| format!("{} is not UTF-8", path.display()))?;
        Ok(Self {
            endpoint: text.into(),
            endpoint_type: EndpointType::Uds,
        })
    }

    /// By TCP; an IPv6 address gets its brackets.
    pub fn network(address: SocketAddr) -> Self {
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
            // A method that is not there: any gRPC server of this service says so, and nothing is started for it.
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
