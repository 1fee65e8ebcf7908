//! Step 1: discovery handlers register on the Agent's socket.

use std::io::ErrorKind;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use akri_http_proto::v0::register_discovery_handler_request::EndpointType;
use akri_http_proto::v0::registration_server::{Registration, RegistrationServer};
use akri_http_proto::v0::{Empty, RegisterDiscoveryHandlerRequest};
use anyhow::{Context, Result, bail, ensure};
use futures_util::stream;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{broadcast, watch};
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use tonic::{Request, Response, Status};

use crate::state::{Registered, State};

/// The file's name in the discovery handlers' directory.
pub const SOCKET_NAME: &str = "agent-registration.sock";

/// One registration's endpoint. Registering the same address again makes a new one in its place.
pub(crate) struct Endpoint {
    pub registered: Registered,
    /// Cancelled by the first failed connection; that ends the endpoint's streams, for every Configuration.
    pub closed: CancellationToken,
}

/// The endpoints that a new request asks, and the way by which running requests hear of new ones.
pub(crate) struct Registry {
    endpoints: Mutex<Vec<Arc<Endpoint>>>,
    /// A Configuration that waits after an error does not listen (rule 7).
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
        let mut endpoints = self
            .endpoints
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
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
        log::info!(
            "discovery handler {} registered {}{}",
            registered.name,
            registered.endpoint,
            if registered.shared {
                ""
            } else {
                " (devices not shared)"
            }
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
        let mut endpoints = self
            .endpoints
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        match endpoints.iter_mut().find(|e| same(&e.registered)) {
            Some(known) => *known = Arc::clone(&endpoint),
            None => endpoints.push(Arc::clone(&endpoint)),
        }
        // Nobody listens while no request runs.
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

/// The bound socket. It outlives the serving task, so that dropping the Agent closes it at once and not at some
/// later turn of the runtime.
pub(crate) struct Socket {
    path: PathBuf,
    /// Which file is ours: another Agent may have put its own in our place by the time we stop.
    file: FileStamp,
    listener: Arc<Mutex<Option<UnixListener>>>,
}

/// Device, inode and change time; the inode alone is reused at once (rule 6).
type FileStamp = (u64, u64, i64, i64);

fn stamp(path: &Path) -> std::io::Result<FileStamp> {
    let file = path.symlink_metadata()?;
    Ok((file.dev(), file.ino(), file.ctime(), file.ctime_nsec()))
}

impl Socket {
    /// Binds in `directory`, which is created if missing. The socket file of an Agent that is gone is replaced
    /// (rule 6); one that is being served, and a file that is no socket, is an error.
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

    /// Serves registrations until `stop`; then open connections are asked to end.
    pub fn serve(
        &self,
        registry: Arc<Registry>,
        stop: CancellationToken,
    ) -> impl Future<Output = Result<(), tonic::transport::Error>> + Send + use<> {
        let listener = Arc::clone(&self.listener);
        let incoming = stream::poll_fn(move |cx| {
            match &*listener.lock().unwrap_or_else(PoisonError::into_inner) {
                Some(listener) => listener
                    .poll_accept(cx)
                    .map(|accepted| Some(accepted.map(|(stream, _)| stream))),
                None => std::task::Poll::Ready(None),
            }
        });
        let service = RegistrationServer::new(RegistrationService(registry));
        Server::builder().serve_with_incoming_shutdown(service, incoming, stop.cancelled_owned())
    }

    /// Refuses connections from now on; the file stays, as a killed Agent leaves it.
    pub fn close(&self) {
        self.listener
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
    }

    /// Removes the file, unless it is another Agent's by now.
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
        "{} exists and is no socket",
        path.display()
    );
    // A full backlog makes connecting wait: that process lives as well.
    match tokio::time::timeout(Duration::from_secs(1), UnixStream::connect(path)).await {
        Ok(Err(error)) if error.kind() == ErrorKind::ConnectionRefused => {}
        Ok(Err(error)) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Ok(Err(error)) => {
            return Err(error).with_context(|| {
                format!("cannot tell whether an Agent serves {}", path.display())
            });
        }
        Ok(Ok(_)) | Err(_) => bail!(
            "{} is served by another process: is an Agent running here?",
            path.display()
        ),
    }
    std::fs::remove_file(path)
        .with_context(|| format!("cannot remove the old socket {}", path.display()))
}
