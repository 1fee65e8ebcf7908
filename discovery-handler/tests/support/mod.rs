//! What the tests share: a handler under test, a discovery service that does as it is told, an Agent's client, the log.
#![allow(
    dead_code,
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic
)]

pub mod agent;

use std::{
    collections::VecDeque,
    future::Future,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, Once},
    time::{Duration, Instant},
};

use akri_http_discovery_handler::config::Config;
use akri_http_proto::v0::{
    DiscoverRequest, DiscoverResponse, discovery_handler_client::DiscoveryHandlerClient,
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{oneshot, watch},
    task::{JoinHandle, JoinSet},
};
use tonic::{
    Code, Status, Streaming,
    transport::{Channel, Endpoint},
};

/// How long anything that must happen may take: long, because a busy machine is no fault.
pub const SOON: Duration = Duration::from_secs(20);

/// How long to look whether something happens that must not.
pub const QUIET: Duration = Duration::from_millis(700);

/// Waits for what `future` brings.
pub async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(SOON, future)
        .await
        .expect("it did not happen in time")
}

/// Waits until `check` holds.
pub async fn until(check: impl Fn() -> bool) {
    soon(async {
        while !check() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

/// A handler in this process, in a directory of its own.
pub struct Handler {
    pub directory: TempDir,
    pub config: Config,
    stop: Option<oneshot::Sender<()>>,
    running: JoinHandle<anyhow::Result<()>>,
}

pub fn config(directory: &Path) -> Config {
    log_lines();
    Config::in_directory(directory)
}

impl Handler {
    /// Served, and waiting for an Agent.
    pub async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    pub async fn start_with(change: impl FnOnce(&mut Config)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut config = config(directory.path());
        change(&mut config);
        let handler = Self::run(directory, config);
        until(|| handler.socket().exists() || handler.config.pod_ip.0.is_some()).await;
        handler
    }

    pub fn run(directory: TempDir, config: Config) -> Self {
        let (stop, stopped) = oneshot::channel::<()>();
        let shutdown = async {
            let _ = stopped.await;
        };
        Self {
            running: tokio::spawn(akri_http_discovery_handler::run(config.clone(), shutdown)),
            directory,
            config,
            stop: Some(stop),
        }
    }

    pub fn socket(&self) -> PathBuf {
        self.config.own_socket()
    }

    /// As SIGTERM does; the outcome of the run.
    pub async fn stop(&mut self) -> anyhow::Result<()> {
        drop(self.stop.take());
        soon(&mut self.running).await.unwrap()
    }

    pub fn is_running(&self) -> bool {
        !self.running.is_finished()
    }

    /// As the Agent opens one: a connection for each stream.
    pub async fn discover(&self, details: &str) -> Result<DeviceStream, Status> {
        discover(&format!("unix:{}", self.socket().display()), details).await
    }

    /// A stream that has been opened; a list may not have come yet.
    pub async fn stream(&self, details: &str) -> DeviceStream {
        self.discover(details).await.unwrap()
    }
}

pub async fn connect(endpoint: &str) -> Channel {
    let endpoint = Endpoint::from_shared(endpoint.to_string()).unwrap();
    soon(async {
        loop {
            match endpoint.connect().await {
                Ok(channel) => return channel,
                Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    })
    .await
}

pub async fn discover(endpoint: &str, details: &str) -> Result<DeviceStream, Status> {
    discover_on(connect(endpoint).await, details).await
}

pub async fn discover_on(channel: Channel, details: &str) -> Result<DeviceStream, Status> {
    let mut client = DiscoveryHandlerClient::new(channel);
    let request = DiscoverRequest {
        discovery_details: details.into(),
        ..Default::default()
    };
    let response = soon(client.discover(request)).await?;
    Ok(DeviceStream(response.into_inner()))
}

/// The Agent's end of a stream.
pub struct DeviceStream(pub Streaming<DiscoverResponse>);

impl DeviceStream {
    /// The next message, its ids in the order sent.
    pub async fn list(&mut self) -> Vec<String> {
        let message = soon(self.0.message()).await.unwrap();
        let message = message.expect("the stream ended");
        message
            .devices
            .into_iter()
            .map(|device| device.id)
            .collect()
    }

    /// Nothing comes, neither a message nor an end.
    pub async fn stays_quiet(&mut self) {
        self.stays_quiet_for(QUIET).await;
    }

    pub async fn stays_quiet_for(&mut self, time: Duration) {
        match tokio::time::timeout(time, self.0.message()).await {
            Err(_) => {}
            Ok(Ok(Some(message))) => panic!("a message of {} devices", message.devices.len()),
            Ok(end) => panic!("the stream ended: {end:?}"),
        }
    }

    /// The stream ends as one does that was ended on purpose, or is cut off.
    pub async fn ends(&mut self) -> Option<Code> {
        loop {
            match soon(self.0.message()).await {
                Ok(Some(_)) => {}
                Ok(None) => return None,
                Err(status) => return Some(status.code()),
            }
        }
    }
}

/// What the discovery service does with a request.
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    /// 200 with this body.
    List(String),
    /// These bytes, and then the connection closes.
    Raw(Vec<u8>),
    /// These bytes, and then these again and again, with a pause.
    Drip(Vec<u8>, Vec<u8>, Duration),
    /// Nothing, for ever.
    Silence,
}

pub fn list(lines: &[&str]) -> Reply {
    Reply::List(lines.iter().map(|line| format!("{line}\n")).collect())
}

/// A 200 with these headers and this body, and then the connection closes.
pub fn raw(head: &str, body: impl AsRef<[u8]>) -> Reply {
    let mut bytes = format!("HTTP/1.1 {head}\r\n\r\n").into_bytes();
    bytes.extend_from_slice(body.as_ref());
    Reply::Raw(bytes)
}

/// A discovery service on a port of its own.
pub struct Service {
    pub port: u16,
    reply: watch::Sender<Reply>,
    seen: Arc<Mutex<VecDeque<String>>>,
    polls: watch::Sender<u64>,
    serving: Option<JoinHandle<()>>,
}

impl Service {
    pub async fn start(reply: Reply) -> Self {
        let mut service = Self {
            port: 0,
            reply: watch::Sender::new(reply),
            seen: Arc::default(),
            polls: watch::Sender::new(0),
            serving: None,
        };
        service.up().await;
        service
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}/discovery", self.port)
    }

    /// Details that poll five times a second.
    pub fn details(&self) -> String {
        format!("url: {}\ninterval: 200ms\ntimeout: 300ms", self.url())
    }

    pub fn now(&self, reply: Reply) {
        self.reply.send_replace(reply);
    }

    /// Nobody listens any more.
    pub fn down(&mut self) {
        self.serving = None.or_else(|| {
            if let Some(serving) = self.serving.take() {
                serving.abort();
            }
            None
        });
    }

    /// Listens, on the same port as before.
    pub async fn up(&mut self) {
        let listener = soon(async {
            loop {
                match TcpListener::bind(("127.0.0.1", self.port)).await {
                    Ok(listener) => return listener,
                    Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
                }
            }
        })
        .await;
        self.port = listener.local_addr().unwrap().port();
        let (reply, seen, polls) = (self.reply.clone(), self.seen.clone(), self.polls.clone());
        self.serving = Some(tokio::spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let serving = serve(stream, reply.subscribe(), seen.clone(), polls.clone());
                connections.spawn(serving);
            }
        }));
    }

    pub fn polls(&self) -> u64 {
        *self.polls.borrow()
    }

    /// Waits for that many more polls to have begun.
    pub async fn polled(&self, more: u64) {
        let wanted = self.polls() + more;
        let mut polls = self.polls.subscribe();
        soon(polls.wait_for(|polls| *polls >= wanted))
            .await
            .unwrap();
    }

    /// The last request's head.
    pub fn last_request(&self) -> String {
        self.seen
            .lock()
            .unwrap()
            .back()
            .cloned()
            .unwrap_or_default()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.down();
    }
}

async fn serve(
    mut stream: TcpStream,
    reply: watch::Receiver<Reply>,
    seen: Arc<Mutex<VecDeque<String>>>,
    polls: watch::Sender<u64>,
) -> std::io::Result<()> {
    loop {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await?);
        }
        {
            let mut seen = seen.lock().unwrap();
            seen.push_back(String::from_utf8_lossy(&head).into_owned());
            if seen.len() > 10 {
                seen.pop_front();
            }
        }
        polls.send_modify(|polls| *polls += 1);
        let now = reply.borrow().clone();
        match now {
            Reply::List(body) => {
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
                stream.write_all((head + &body).as_bytes()).await?;
            }
            Reply::Raw(bytes) => {
                stream.write_all(&bytes).await?;
                return stream.shutdown().await;
            }
            Reply::Drip(first, again, pause) => {
                stream.write_all(&first).await?;
                loop {
                    tokio::time::sleep(pause).await;
                    stream.write_all(&again).await?;
                }
            }
            Reply::Silence => std::future::pending().await,
        }
    }
}

/// Every log line of this test process.
static LOG: Mutex<Vec<String>> = Mutex::new(Vec::new());

struct Capture;

impl log::Log for Capture {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        metadata.target().starts_with("akri_http")
    }

    fn log(&self, record: &log::Record<'_>) {
        if self.enabled(record.metadata()) {
            let line = format!("{} {}", record.level(), record.args());
            LOG.lock().unwrap().push(line);
        }
    }

    fn flush(&self) {}
}

fn log_lines() {
    static CAPTURE: Once = Once::new();
    CAPTURE.call_once(|| {
        log::set_boxed_logger(Box::new(Capture)).unwrap();
        log::set_max_level(log::LevelFilter::Info);
    });
}

/// The log lines so far that have all of these words; a test's own port or directory among them tells its own lines.
pub fn logged(words: &[&str]) -> Vec<String> {
    let log = LOG.lock().unwrap();
    let has = |line: &&String| words.iter().all(|word| line.contains(word));
    log.iter().filter(has).cloned().collect()
}

/// Waits for a log line with all of these words.
pub async fn log_line(words: &[&str]) -> String {
    let started = Instant::now();
    loop {
        if let Some(line) = logged(words).pop() {
            return line;
        }
        if started.elapsed() > SOON {
            panic!("no line with {words:?} in {:#?}", logged(&[]));
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
