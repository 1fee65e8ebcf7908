//! A discovery handler that answers as the test says, and helpers for all tests.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use akri_proto::v0::discovery_handler_server::{DiscoveryHandler, DiscoveryHandlerServer};
use akri_proto::v0::registration_client::RegistrationClient;
use akri_proto::v0::{Device, DiscoverRequest, DiscoverResponse, RegisterDiscoveryHandlerRequest};
use akri_stub_agent::{Config, Configuration, EndpointType, SOCKET_NAME, State, StubAgent};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream, UnixListenerStream};
use tonic::transport::server::Connected;
use tonic::transport::{Endpoint, Server};
use tonic::{Request, Response, Status};

/// How long a test waits for an event that must happen.
pub const SOON: Duration = Duration::from_secs(20);

/// An item of a stream.
pub type Item = Result<DiscoverResponse, Status>;

/// A Discover call that waits for its response.
pub struct Call {
    pub request: DiscoverRequest,
    pub at: Instant,
    answer: oneshot::Sender<Result<mpsc::Receiver<Item>, Status>>,
}

impl Call {
    /// Opens the stream. It ends when the result is dropped, and is dropped if the Agent cancelled the call.
    pub fn accept(self) -> Stream {
        let (sender, receiver) = mpsc::channel(4);
        let _ = self.answer.send(Ok(receiver));
        Stream(sender)
    }

    pub fn refuse(self, status: Status) {
        self.answer
            .send(Err(status))
            .expect("the Agent still waits");
    }
}

/// The handler's end of a stream.
pub struct Stream(mpsc::Sender<Item>);

impl Stream {
    pub async fn send(&self, devices: Vec<Device>) {
        self.0
            .send(Ok(DiscoverResponse { devices }))
            .await
            .expect("the Agent still reads");
    }

    pub async fn fail(self, status: Status) {
        self.0
            .send(Err(status))
            .await
            .expect("the Agent still reads");
    }

    /// Waits until the Agent dropped its end.
    pub async fn dropped(&self) {
        tokio::time::timeout(SOON, self.0.closed())
            .await
            .expect("the Agent drops the stream");
    }

    pub fn is_open(&self) -> bool {
        !self.0.is_closed()
    }
}

struct Service(mpsc::Sender<Call>);

#[tonic::async_trait]
impl DiscoveryHandler for Service {
    type DiscoverStream = ReceiverStream<Item>;

    async fn discover(
        &self,
        request: Request<DiscoverRequest>,
    ) -> Result<Response<Self::DiscoverStream>, Status> {
        let (answer, answered) = oneshot::channel();
        let call = Call {
            request: request.into_inner(),
            at: Instant::now(),
            answer,
        };
        self.0.send(call).await.expect("the test still runs");
        let stream = answered
            .await
            .unwrap_or_else(|_| Err(Status::unavailable("the test does not answer")))?;
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

/// A discovery handler. Dropping it stops it.
pub struct Handler {
    pub endpoint: String,
    endpoint_type: EndpointType,
    calls: mpsc::Receiver<Call>,
    server: JoinHandle<()>,
}

impl Handler {
    /// On a socket of this name.
    pub fn serve(directory: &Path, name: &str) -> Self {
        let path = directory.join(name);
        let _ = std::fs::remove_file(&path);
        let incoming = UnixListenerStream::new(UnixListener::bind(&path).unwrap());
        Self::serve_on(incoming, path.display().to_string(), EndpointType::Uds)
    }

    /// On TCP.
    pub async fn serve_network() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let incoming = TcpListenerStream::new(listener);
        Self::serve_on(incoming, endpoint, EndpointType::Network)
    }

    fn serve_on<I>(
        incoming: impl tokio_stream::Stream<Item = std::io::Result<I>> + Send + 'static,
        endpoint: String,
        endpoint_type: EndpointType,
    ) -> Self
    where
        I: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
    {
        let (sender, calls) = mpsc::channel(16);
        let service = DiscoveryHandlerServer::new(Service(sender));
        let serving = Server::builder().serve_with_incoming(service, incoming);
        Self {
            endpoint,
            endpoint_type,
            calls,
            server: tokio::spawn(async { serving.await.unwrap() }),
        }
    }

    pub async fn register(&self, directory: &Path) {
        self.register_as(directory, "http", true).await;
    }

    pub async fn register_as(&self, directory: &Path, name: &str, shared: bool) {
        register(directory, name, &self.endpoint, self.endpoint_type, shared).await;
    }

    /// The next Discover call.
    pub async fn called(&mut self) -> Call {
        tokio::time::timeout(SOON, self.calls.recv())
            .await
            .expect("the Agent calls Discover")
            .unwrap()
    }

    /// Opens the stream of the next Discover call.
    pub async fn stream(&mut self) -> Stream {
        self.called().await.accept()
    }

    /// Whether no call waits.
    pub fn is_left_alone(&mut self) -> bool {
        self.calls.try_recv().is_err()
    }
}

impl Drop for Handler {
    fn drop(&mut self) {
        self.server.abort();
    }
}

pub async fn register(
    directory: &Path,
    name: &str,
    endpoint: &str,
    endpoint_type: EndpointType,
    shared: bool,
) {
    let socket = format!("unix:{}", directory.join(SOCKET_NAME).display());
    let channel = Endpoint::from_shared(socket)
        .unwrap()
        .connect()
        .await
        .expect("the Agent's socket answers");
    let request = RegisterDiscoveryHandlerRequest {
        name: name.to_owned(),
        endpoint: endpoint.to_owned(),
        endpoint_type: endpoint_type.into(),
        shared,
    };
    RegistrationClient::new(channel)
        .register_discovery_handler(request)
        .await
        .expect("the Agent accepts");
}

/// An Agent with its own directory.
pub struct Fixture {
    pub agent: StubAgent,
    pub directory: tempfile::TempDir,
}

impl Fixture {
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Without a Configuration, and with brokers if there is a command.
    pub async fn start(broker: Option<&str>) -> Self {
        Self::start_with(|config| config.broker = broker.map(str::to_owned)).await
    }

    /// On a node of this name.
    pub async fn start_on(node: &str) -> Self {
        Self::start_with(|config| config.node_name = node.to_owned()).await
    }

    async fn start_with(change: impl FnOnce(&mut Config)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut config = config(directory.path(), None);
        change(&mut config);
        let agent = StubAgent::start(config).await.unwrap();
        Self { agent, directory }
    }

    /// With the Configuration `c` and an open stream for it.
    pub async fn discovering(broker: Option<&str>) -> (Self, Handler, Stream) {
        let fixture = Self::start(broker).await;
        let mut handler = Handler::serve(fixture.path(), "http.sock");
        handler.register(fixture.path()).await;
        fixture.agent.add_configuration(configuration("c")).unwrap();
        let stream = handler.stream().await;
        (fixture, handler, stream)
    }

    /// The first state in which the condition holds.
    pub async fn wait_for(&self, condition: impl FnMut(&State) -> bool) -> State {
        self.agent.wait_for(condition, SOON).await.unwrap()
    }
}

pub fn config(directory: &Path, broker: Option<&str>) -> Config {
    Config {
        node_name: "my_node".to_owned(),
        broker: broker.map(str::to_owned),
        finalizer: Duration::ZERO,
        ..Config::in_directory(directory)
    }
}

pub fn configuration(name: &str) -> Configuration {
    Configuration::new(name, "http", format!("details of {name}"))
}

pub fn device(id: &str) -> Device {
    Device {
        id: id.to_owned(),
        ..Device::default()
    }
}

pub fn device_with(id: &str, properties: &[(&str, &str)]) -> Device {
    let owned = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
    Device {
        properties: properties.iter().map(owned).collect(),
        ..device(id)
    }
}

/// Waits for a file that another process renames into place, and reads it.
pub async fn appears(path: PathBuf) -> String {
    let content = async {
        loop {
            match std::fs::read_to_string(&path) {
                Ok(content) => return content,
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    };
    tokio::time::timeout(SOON, content)
        .await
        .unwrap_or_else(|_| panic!("{} appears", path.display()))
}

/// Waits until a process has ended. A zombie has.
pub async fn is_gone(pid: &str) {
    let gone = async {
        while is_alive(pid) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(SOON, gone)
        .await
        .unwrap_or_else(|_| panic!("process {pid} ends"));
}

pub fn is_alive(pid: &str) -> bool {
    let status = std::process::Command::new("sh")
        .args([
            "-c",
            "kill -0 \"$0\" 2>/dev/null && ! grep -q '^State:.Z' \"/proc/$0/status\" 2>/dev/null",
            pid.trim(),
        ])
        .status();
    status.unwrap().success()
}
