//! Step 1: discovery handlers register on the Agent's socket.

use std::io::ErrorKind;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use akri_daemon::one_line;
use akri_proto::v0::register_discovery_handler_request::EndpointType;
use akri_proto::v0::registration_server::{Registration, RegistrationServer};
use akri_proto::v0::{Empty, RegisterDiscoveryHandlerRequest};
use anyhow::{Context, Result, bail, ensure};
use futures_util::stream;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{broadcast, watch};
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use tonic::{Request, Response, Status};

use crate::lock;
use crate::state::{Registered, State};

/// The name of the Agent's socket in the discovery handlers' directory.
pub const SOCKET_NAME: &str = "agent-registration.sock";

/// The endpoint of one registration. A new registration of the same address replaces it.
pub(crate) struct Endpoint {
    pub registered: Registered,
    /// Cancelled when a connection fails. That ends the endpoint's streams for every Configuration.
    pub closed: CancellationToken,
}

/// The endpoints that a new request calls, and the announcements of new ones to running requests.
pub(crate) struct Registry {
    endpoints: Mutex<Vec<Arc<Endpoint>>>,
    /// A Configuration that waits for its next try does not listen (rule 7).
    announcements: broadcast::Sender<Arc<Endpoint>>,
    state: watch::Sender<State>,
}

impl Registry {
    pub fn new(state: watch::Sender<State>) -> Self {
        // The real Agent's capacity.
        let (announcements, _) = broadcast::channel(10);
        Self {
            endpoints: Mutex::default(),
            announcements,
            state,
        }
    }

    /// The open endpoints of the handler called `name`, in the order of their first registration.
    pub fn endpoints(&self, name: &str) -> Vec<Arc<Endpoint>> {
        let mut endpoints = lock(&self.endpoints);
        endpoints.retain(|e| !e.closed.is_cancelled());
        endpoints
            .iter()
            .filter(|e| e.registered.name == name)
            .cloned()
            .collect()
    }

    pub fn subscribe(&self) -> broadcast::Receiver<Arc<Endpoint>> {
        self.announcements.subscribe()
    }

    fn register(&self, registered: Registered) {
        let not_shared = match registered.shared {
            true => "",
            false => " (devices not shared)",
        };
        log::info!(
            "discovery handler {} registered {}{not_shared}",
            one_line(&registered.name),
            one_line(&registered.endpoint),
        );
        self.state
            .send_modify(|s| s.remember_registration(registered.clone()));
        let endpoint = Arc::new(Endpoint {
            registered,
            closed: CancellationToken::new(),
        });
        let same = |e: &Registered| {
            e.name == endpoint.registered.name && e.endpoint == endpoint.registered.endpoint
        };
        let mut endpoints = lock(&self.endpoints);
        match endpoints.iter_mut().find(|e| same(&e.registered)) {
            Some(known) => *known = Arc::clone(&endpoint),
            None => endpoints.push(Arc::clone(&endpoint)),
        }
        // An error means that no request is listening.
        let _ = self.announcements.send(endpoint);
    }
}

struct RegistrationService(Arc<Registry>);

#[tonic::async_trait]
impl Registration for RegistrationService {
    async fn register_discovery_handler(
        &self,
        request: Request<RegisterDiscoveryHandlerRequest>,
    ) -> Result<Response<Empty>, Status> {
        let request = request.into_inner();
        let endpoint_type = EndpointType::try_from(request.endpoint_type).map_err(|_| {
            Status::invalid_argument("endpoint_type must be UDS (0) or NETWORK (1)")
        })?;
        self.0.register(Registered {
            name: request.name,
            endpoint: request.endpoint,
            endpoint_type,
            shared: request.shared,
        });
        Ok(Response::new(Empty {}))
    }
}

/// The bound socket. The server only borrows its listener, so that dropping the Agent closes it at once.
pub(crate) struct Socket {
    path: PathBuf,
    /// Identifies our file: another Agent may have replaced it by the time we stop.
    file: FileStamp,
    listener: Arc<Mutex<Option<UnixListener>>>,
}

/// Device, inode and change time, because a file system may reuse an inode at once (rule 6).
type FileStamp = (u64, u64, i64, i64);

fn stamp(path: &Path) -> std::io::Result<FileStamp> {
    let file = path.symlink_metadata()?;
    Ok((file.dev(), file.ino(), file.ctime(), file.ctime_nsec()))
}

impl Socket {
    /// Binds in `directory`, which is created if missing. Replaces the socket file of a dead Agent (rule 6).
    ///
    /// # Errors
    /// Another process serves the socket, its path holds another kind of file, or the directory is not writable.
    pub async fn bind(directory: &Path) -> Result<Self> {
        std::fs::create_dir_all(directory).with_context(|| {
            format!(
                "cannot create the discovery handlers' directory {}",
                directory.display()
            )
        })?;
        let path = directory.join(SOCKET_NAME);
        remove_stale(&path).await?;
        let listener =
            UnixListener::bind(&path).with_context(|| format!("cannot bind {}", path.display()))?;
        let file = stamp(&path).with_context(|| format!("cannot read {}", path.display()))?;
        Ok(Self {
            path,
            file,
            listener: Arc::new(Mutex::new(Some(listener))),
        })
    }

    /// Serves registrations until `stop`, and then until the open connections end.
    pub fn serve(
        &self,
        registry: Arc<Registry>,
        stop: CancellationToken,
    ) -> impl Future<Output = Result<(), tonic::transport::Error>> + Send + use<> {
        let listener = Arc::clone(&self.listener);
        let incoming = stream::poll_fn(move |cx| match &*lock(&listener) {
            Some(listener) => listener
                .poll_accept(cx)
                .map(|accepted| Some(accepted.map(|(stream, _)| stream))),
            None => std::task::Poll::Ready(None),
        });
        let service = RegistrationServer::new(RegistrationService(registry));
        Server::builder().serve_with_incoming_shutdown(service, incoming, stop.cancelled_owned())
    }

    /// Refuses connections from now on. The file stays, as a killed Agent leaves it.
    pub fn close(&self) {
        lock(&self.listener).take();
    }

    /// Removes the file, unless another Agent replaced it.
    pub fn remove(&self) {
        if stamp(&self.path).is_ok_and(|file| file == self.file)
            && let Err(error) = std::fs::remove_file(&self.path)
        {
            log::warn!("cannot remove {}: {error}", self.path.display());
        }
    }
}

async fn remove_stale(path: &Path) -> Result<()> {
    let file = match path.symlink_metadata() {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        file => file.with_context(|| format!("cannot read {}", path.display()))?,
    };
    ensure!(
        file.file_type().is_socket(),
        "{} is not a socket; remove it or choose another directory",
        path.display()
    );
    // Connecting waits if the backlog is full, so that process lives too.
    match tokio::time::timeout(Duration::from_secs(1), UnixStream::connect(path)).await {
        Ok(Err(error)) if error.kind() == ErrorKind::ConnectionRefused => {}
        Ok(Err(error)) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Ok(Err(error)) => {
            return Err(error).with_context(|| {
                format!("cannot tell whether an Agent serves {}", path.display())
            });
        }
        Ok(Ok(_)) | Err(_) => bail!(
            "another process serves {}; stop that Agent or choose another directory",
            path.display()
        ),
    }
    std::fs::remove_file(path)
        .with_context(|| format!("cannot remove the old socket {}", path.display()))
}
