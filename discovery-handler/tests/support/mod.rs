//! What the tests share: a handler under test, a discovery service that does as it is told, an Agent's client, the log.
#![allow(
    dead_code,
    missing_docs,
    unused_imports,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic
)]

pub mod admin;
pub mod agent;
pub mod checked;
pub mod service;
pub mod tls;

use std::{
    future::Future,
    path::{Path, PathBuf},
    sync::{Mutex, Once},
    time::{Duration, Instant},
};

pub use service::*;

use akri_http_discovery_handler::Config;
use akri_proto::v0::{
    ByteData, DiscoverRequest, DiscoverResponse, discovery_handler_client::DiscoveryHandlerClient,
};
use tempfile::TempDir;
use tokio::{sync::oneshot, task::JoinHandle};
use tonic::{
    Code, Status, Streaming,
    transport::{Channel, Endpoint},
};

/// How long anything that must happen may take: long, because a busy machine is no fault.
pub const SOON: Duration = Duration::from_secs(60);

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
    let mut config = Config::in_directory(directory);
    // What goes is gone at once, except where a test says otherwise.
    config.handler.grace = Duration::ZERO;
    config
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
        until(|| handler.socket().exists() || handler.config.handler.pod_ip.0.is_some()).await;
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
        (self.config.handler.discovery_handlers_directory).join("http.sock")
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

    /// The same, with `discoveryProperties`.
    pub async fn discover_with(
        &self,
        details: &str,
        properties: &[(&str, &str)],
    ) -> Result<DeviceStream, Status> {
        let channel = connect(&format!("unix:{}", self.socket().display())).await;
        let properties = (properties.iter()).map(|(name, value)| {
            let vec = Some(value.as_bytes().to_vec());
            ((*name).to_owned(), ByteData { vec })
        });
        let request = DiscoverRequest {
            discovery_details: details.into(),
            discovery_properties: properties.collect(),
        };
        let mut client = DiscoveryHandlerClient::new(channel);
        let response = soon(client.discover(request)).await?;
        Ok(DeviceStream(response.into_inner()))
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

/// Every log line of this test process.
static LOG: Mutex<Vec<String>> = Mutex::new(Vec::new());

struct Capture;

impl log::Log for Capture {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        metadata.target().starts_with("akri_")
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
