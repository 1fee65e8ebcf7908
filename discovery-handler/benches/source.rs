//! What 1,000 handlers ask of one discovery service: a cluster of that many nodes, in one process.
//!
//! `cargo bench -p akri-http-discovery-handler --bench source`. It counts; only how busy the machine is can blur it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use akri_http_discovery_handler::{Config, run};
use akri_proto::v0::{
    DiscoverRequest, DiscoverResponse, discovery_handler_client::DiscoveryHandlerClient,
};
use async_compression::tokio::write::ZstdEncoder;
use futures_util::future::join_all;
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    time::sleep,
};
use tonic::{
    Streaming,
    transport::{Channel, Endpoint},
};

const HANDLERS: usize = 1_000;
const DEVICES: usize = 10_000;

/// The default.
const INTERVAL: Duration = Duration::from_secs(10);

/// How long is counted once all have begun.
const STEADY: Duration = Duration::from_secs(60);

const SECOND: Duration = Duration::from_secs(1);

fn main() {
    // Test runners ask each target for its list of tests; there is none here.
    if std::env::args().any(|argument| argument == "--list") {
        return;
    }
    in_a_runtime(start());
    println!("\nLater, with a list of {DEVICES} devices\n");
    println!("| the source | requests/s | most in one second | kB/s | connections/s |");
    println!("| --- | ---: | ---: | ---: | ---: |");
    let source = |named, tag, zstd, keeps| Source {
        named,
        devices: DEVICES,
        tag,
        zstd,
        keeps,
    };
    for source in [
        source("sends the list", false, false, true),
        source("sends it compressed by zstd", false, true, true),
        source("has an ETag, and answers 304", true, false, true),
        source("the same, and closes connections", true, false, false),
    ] {
        in_a_runtime(later(source));
    }
}

/// One for each measurement, so that nothing of one is left for the next.
fn in_a_runtime(measurement: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(measurement);
    runtime.shutdown_background();
}

#[derive(Clone, Copy)]
struct Source {
    named: &'static str,
    devices: usize,
    tag: bool,
    zstd: bool,
    keeps: bool,
}

/// What the source has seen so far.
#[derive(Default)]
struct Counts {
    requests: AtomicU64,
    /// Of heads and bodies, both ways, without those of TCP and IP.
    bytes: AtomicU64,
    connections: AtomicU64,
}

impl Counts {
    fn now(&self) -> [u64; 3] {
        [&self.requests, &self.bytes, &self.connections].map(|count| count.load(Ordering::Relaxed))
    }
}

/// The first polls. The list is short, since one machine does here what 1,000 do elsewhere.
async fn start() {
    let fleet = Fleet::of(Source {
        named: "",
        devices: 9,
        tag: false,
        zstd: false,
        keeps: true,
    })
    .await;
    let asked = tokio::spawn(fleet.streams);
    let (mut most, mut before) = (0, 0);
    for _ in 0..10 {
        sleep(SECOND / 10).await;
        let [requests, ..] = fleet.counts.now();
        most = most.max(requests - before);
        before = requests;
    }
    println!(
        "{HANDLERS} handlers that are asked at once send {before} requests in the first second, at most {most} in a tenth of it."
    );
    drop(asked.await.unwrap());
}

async fn later(source: Source) {
    let fleet = Fleet::of(source).await;
    let counts = fleet.counts;
    let _open = fleet.streams.await;
    sleep(2 * INTERVAL).await;
    let (before, mut most) = (counts.now(), 0);
    for _ in 0..STEADY.as_secs() {
        let [requests, ..] = counts.now();
        sleep(SECOND).await;
        most = most.max(counts.now()[0] - requests);
    }
    let after = counts.now();
    let [requests, bytes, connections] =
        [0, 1, 2].map(|n| (after[n] - before[n]) as f64 / STEADY.as_secs_f64());
    println!(
        "| {} | {requests:.0} | {most} | {:.0} | {connections:.0} |",
        source.named,
        bytes / 1e3,
    );
}

/// Handlers that run, each with an Agent that has asked.
struct Fleet<S> {
    counts: Arc<Counts>,
    streams: S,
    _directory: TempDir,
}

impl Fleet<()> {
    async fn of(source: Source) -> Fleet<impl Future<Output = Vec<Streaming<DiscoverResponse>>>> {
        let counts = Arc::new(Counts::default());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let details = format!("url: http://{}/", listener.local_addr().unwrap());
        tokio::spawn(serve(listener, source, counts.clone()));
        let directory = tempfile::tempdir().unwrap();
        let mut agents = Vec::new();
        for number in 0..HANDLERS {
            let directory = directory.path().join(number.to_string());
            std::fs::create_dir(&directory).unwrap();
            let config = Config::in_directory(&directory);
            tokio::spawn(run(config, std::future::pending()));
            agents.push(connect(&directory.join("http.sock")).await);
        }
        let lists = agents
            .into_iter()
            .map(move |agent| first_list(agent, details.clone(), source.devices));
        Fleet {
            counts,
            streams: join_all(lists),
            _directory: directory,
        }
    }
}

async fn connect(socket: &Path) -> DiscoveryHandlerClient<Channel> {
    let endpoint = Endpoint::from_shared(format!("unix:{}", socket.display())).unwrap();
    loop {
        match endpoint.connect().await {
            Ok(channel) => return DiscoveryHandlerClient::new(channel),
            Err(_) => sleep(Duration::from_millis(1)).await,
        }
    }
}

/// Asks as an Agent does. The stream stays open as long as what is returned.
async fn first_list(
    mut agent: DiscoveryHandlerClient<Channel>,
    details: String,
    devices: usize,
) -> Streaming<DiscoverResponse> {
    let request = DiscoverRequest {
        discovery_details: details,
        ..Default::default()
    };
    let mut stream = agent.discover(request).await.unwrap().into_inner();
    let list = stream.message().await.unwrap().unwrap();
    assert_eq!(list.devices.len(), devices);
    stream
}

async fn serve(listener: TcpListener, source: Source, counts: Arc<Counts>) {
    let list: String = (0..source.devices)
        .map(|device| {
            format!(
                "http://10.100.{}.{}:8080\n",
                device / 200 + 10,
                device % 200 + 10
            )
        })
        .collect();
    let mut body = list.into_bytes();
    let mut head = String::from("HTTP/1.1 200 OK\r\n");
    if source.zstd {
        let mut encoder = ZstdEncoder::new(Vec::new());
        encoder.write_all(&body).await.unwrap();
        encoder.shutdown().await.unwrap();
        body = encoder.into_inner();
        head += "Content-Encoding: zstd\r\n";
    }
    if source.tag {
        head += "ETag: \"1\"\r\n";
    }
    head += &format!("Content-Length: {}\r\n\r\n", body.len());
    let whole: Arc<[u8]> = [head.as_bytes(), &body].concat().into();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        counts.connections.fetch_add(1, Ordering::Relaxed);
        tokio::spawn(answer(stream, source, whole.clone(), counts.clone()));
    }
}

async fn answer(
    stream: TcpStream,
    source: Source,
    whole: Arc<[u8]>,
    counts: Arc<Counts>,
) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let (mut line, mut asked, mut knows) = (String::new(), 0, false);
        while line != "\r\n" {
            line.clear();
            match stream.read_line(&mut line).await? {
                0 => return Ok(()),
                bytes => asked += bytes,
            }
            knows |= line.to_lowercase().starts_with("if-none-match:");
        }
        let answer = match source.tag && knows {
            true => &b"HTTP/1.1 304 Not Modified\r\nETag: \"1\"\r\n\r\n"[..],
            false => &whole,
        };
        counts.requests.fetch_add(1, Ordering::Relaxed);
        let bytes = (asked + answer.len()) as u64;
        counts.bytes.fetch_add(bytes, Ordering::Relaxed);
        stream.write_all(answer).await?;
        if !source.keeps {
            return stream.shutdown().await;
        }
    }
}
