//! What a poll costs, beside the walkthrough's way of doing it, and what the whole process takes.
//!
//! `cargo bench -p akri-http-discovery-handler`. Times vary from machine to machine; the ratios in one run do not much.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::{
    collections::BTreeMap,
    hint::black_box,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use akri_discovery::DeviceList;
use akri_http_discovery_handler::{
    fetch::{Arriving, LastBody},
    formats,
};
use akri_proto::v0::{
    Device, DiscoverRequest, DiscoverResponse, discovery_handler_client::DiscoveryHandlerClient,
};
use prost::Message;
use tonic::transport::Endpoint;

#[path = "support/handler.rs"]
mod handler;
#[path = "support/service.rs"]
mod service;

use handler::Handler;
use service::discovery_service;

const MAX_BODY: usize = 4 * 1024 * 1024;
const SIZES: [usize; 4] = [9, 1_000, 10_000, 40_000];

fn main() {
    // Test runners ask each target for its list of tests; there is none here.
    if std::env::args().any(|argument| argument == "--list") {
        return;
    }
    println!(
        "One poll's work, from the body to sent or not; median of many, and how many times cheaper\n"
    );
    println!("| devices | body | case | this handler | the walkthrough's way | ratio |");
    println!("| ---: | ---: | --- | ---: | ---: | ---: |");
    for devices in SIZES {
        let bodies = [body(devices, 0), body(devices, 1)];
        let theirs = median(devices, |_| {
            black_box(the_walkthroughs_way(black_box(&bodies[0])));
        });
        let mut last = Last::default();
        read(&mut last, &bodies[0]);
        let unchanged = median(devices, |_| assert_eq!(read(&mut last, &bodies[0]), 0));
        row(devices, &bodies[0], "unchanged", unchanged, theirs);
        let changed = median(devices, |n| {
            assert!(read(&mut last, &bodies[(n + 1) % 2]) > 0)
        });
        row(devices, &bodies[0], "one change", changed, theirs);
    }
    whole_process();
}

/// Endpoints of 22 to 25 characters; `change` makes one of them another one.
fn body(devices: usize, change: usize) -> String {
    let mut body = String::new();
    for device in 0..devices {
        let last = if device == devices / 2 { change } else { 0 };
        let (high, low) = (device / 200 + 10, device % 200 + 10);
        body += &format!("http://10.{}.{high}.{low}:808{last}\n", device % 2 + 100);
    }
    body
}

/// These endpoints as an inventory lists them.
fn json(body: &str) -> String {
    let device = |(number, endpoint): (usize, &str)| {
        format!(
            "  {{\"id\": \"sensor-{number}\", \"endpoint\": \"{endpoint}\",\n   \"properties\": {{\"SITE\": \"north\", \"RACK\": \"rack-{}\", \"ROLE\": \"temperature\"}}}}",
            number % 100
        )
    };
    let devices: Vec<_> = body.lines().enumerate().map(device).collect();
    format!("[\n{}\n]\n", devices.join(",\n"))
}

/// What a poller remembers of the poll before.
#[derive(Default)]
struct Last {
    body: Option<LastBody>,
    list: DeviceList,
}

/// As the handler does it, in the pieces that HTTP brings; the size of the message that is sent, 0 for none.
fn read(last: &mut Last, body: &str) -> usize {
    let mut arriving = Arriving::new(last.body.as_ref(), body.len(), MAX_BODY);
    for chunk in body.as_bytes().chunks(64 * 1024) {
        arriving.push(chunk).unwrap();
    }
    let Some(body) = arriving.finish() else {
        return 0;
    };
    let devices = formats::read(&body, &formats::Options::default()).unwrap();
    let list = last.list.next(&devices).unwrap();
    let changed = list != last.list;
    let parts = (0..).map_while(|part| list.encoded(part));
    let sent = if changed {
        parts.map(|part| part.len()).sum()
    } else {
        0
    };
    *last = Last {
        body: Some(LastBody::of(body)),
        list,
    };
    sent
}

/// The body as text, a `Device` for each line, and always a message.
fn the_walkthroughs_way(body: &str) -> Vec<u8> {
    let text = String::from_utf8_lossy(body.as_bytes()).into_owned();
    let device = |endpoint: &str| Device {
        id: endpoint.to_string(),
        properties: BTreeMap::from([
            ("AKRI_HTTP".to_string(), "http".to_string()),
            (
                "AKRI_HTTP_DEVICE_ENDPOINT".to_string(),
                endpoint.to_string(),
            ),
        ]),
        mounts: Vec::new(),
        device_specs: Vec::new(),
    };
    let devices = text.lines().map(device).collect();
    DiscoverResponse { devices }.encode_to_vec()
}

fn median(devices: usize, mut work: impl FnMut(usize)) -> Duration {
    let runs = (400_000 / devices).clamp(21, 2_001);
    let mut times: Vec<Duration> = (0..runs)
        .map(|n| {
            let started = Instant::now();
            work(n);
            started.elapsed()
        })
        .collect();
    times.sort();
    times[times.len() / 2]
}

fn row(devices: usize, body: &str, case: &str, ours: Duration, theirs: Duration) {
    let ratio = theirs.as_secs_f64() / ours.as_secs_f64();
    let kilobytes = body.len() as f64 / 1e3;
    println!("| {devices} | {kilobytes:.1} kB | {case} | {ours:.1?} | {theirs:.1?} | {ratio:.0} |");
}

/// Starts the real binary with a discovery service and an Agent's end of the streams.
fn whole_process() {
    println!(
        "\nThe whole process, with HTTP, gRPC, saved lists and metrics; each poller polls ten times a second\n"
    );
    println!(
        "| devices | streams | pollers | what the polls bring | polls | messages | CPU per poll | peak resident | after a restart | in a cgroup of 24 MiB |"
    );
    println!("| ---: | ---: | ---: | --- | ---: | ---: | ---: | ---: | ---: | --- |");
    for (devices, streams, pollers, brings) in [
        (9, 1, 1, Brings::TheSame),
        (9, 60, 1, Brings::TheSame),
        (10_000, 1, 1, Brings::TheSame),
        (40_000, 1, 1, Brings::TheSame),
        (40_000, 1, 1, Brings::NotModified),
        (20_000, 1, 1, Brings::Json),
        (20_000, 1, 1, Brings::JsonNotModified),
        (10_000, 10, 10, Brings::TheSame),
        (10_000, 1, 1, Brings::OneChange),
        (10_000, 1, 1, Brings::HalfOrAll),
        (40_000, 1, 1, Brings::OneChange),
        (40_000, 6, 1, Brings::OneChange),
        (40_000, 1, 1, Brings::AllOther),
    ] {
        process(devices, streams, pollers, brings);
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Brings {
    TheSame,
    /// The same, told by a 304.
    NotModified,
    /// The same as JSON, each device with labels.
    Json,
    JsonNotModified,
    OneChange,
    /// Every other time half of the devices are missing, and kept for the grace period.
    HalfOrAll,
    /// All devices are other ones than before, which are kept for the grace period.
    AllOther,
}

impl Brings {
    fn body(self, devices: usize, poll: usize) -> String {
        match self {
            Self::TheSame | Self::NotModified => body(devices, 0),
            Self::Json | Self::JsonNotModified => json(&body(devices, 0)),
            Self::OneChange => body(devices, poll % 2),
            Self::HalfOrAll => body(devices / (1 + poll % 2), 0),
            Self::AllOther => body(devices, 0).replace("http://10.", "http://11."),
        }
    }

    fn is_json(self) -> bool {
        matches!(self, Self::Json | Self::JsonNotModified)
    }

    fn has_a_tag(self) -> bool {
        matches!(self, Self::NotModified | Self::JsonNotModified)
    }

    /// In words, and the grace period with them.
    fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::TheSame => ("the same", "1m"),
            Self::NotModified => ("304", "1m"),
            Self::Json => ("the same, JSON", "1m"),
            Self::JsonNotModified => ("304, JSON", "1m"),
            Self::OneChange => ("one change", "0s"),
            Self::HalfOrAll => ("half or all", "1m"),
            Self::AllOther => ("all others", "2s"),
        }
    }
}

fn process(devices: usize, streams: usize, pollers: usize, brings: Brings) {
    let directory = tempfile::tempdir().unwrap();
    let polls = Arc::new(AtomicU64::new(0));
    let first = body(devices, 0);
    let first = if brings.is_json() {
        json(&first)
    } else {
        first
    };
    let bodies = Arc::new(Mutex::new(first));
    let port = discovery_service(bodies.clone(), polls.clone(), brings.has_a_tag());
    let format = if brings.is_json() { "devices" } else { "lines" };
    let mut handler = Handler::start(directory.path());
    let messages = Arc::new(AtomicU64::new(0));
    let count = || {
        (
            polls.load(Ordering::Relaxed),
            messages.load(Ordering::Relaxed),
        )
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let (words, grace) = brings.words();
    let socket = directory.path().join("http.sock");
    let open = |streams| {
        for stream in 0..streams {
            let request = stream % pollers;
            let details = format!(
                "url: http://127.0.0.1:{port}/?{request}\ninterval: 100ms\ngrace: {grace}\nformat: {format}"
            );
            tokio::spawn(agent(socket.clone(), details, messages.clone()));
        }
    };
    runtime.block_on(async {
        open(streams);
        while count().1 < streams as u64 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
        let (cpu, before) = (handler.cpu(), count());
        for n in 1..=30 {
            *bodies.lock().unwrap() = brings.body(devices, n);
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        let (cpu, after) = (handler.cpu() - cpu, count());
        let (polls, messages) = (after.0 - before.0, after.1 - before.1);
        let cpu = cpu.as_secs_f64() * 1e3 / polls as f64;
        handler.scrape();
        let (peak, lives) = (handler.peak_mib(), handler.limited());

        // The next process begins with the saved lists.
        drop(handler);
        let mut handler = Handler::start(directory.path());
        let before = count();
        open(pollers);
        while handler.limited() != "killed"
            && (count().1 < before.1 + pollers as u64 || count().0 < before.0 + 2 * pollers as u64)
        {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let (peak_then, lives_then) = (handler.peak_mib(), handler.limited());
        let limited = if lives == lives_then { lives } else { "killed" };
        println!(
            "| {devices} | {streams} | {pollers} | {words} | {polls} | {messages} | {cpu:.2} ms | {peak:.1} MiB | {peak_then:.1} MiB | {limited} |"
        );
    });
}

async fn agent(socket: std::path::PathBuf, details: String, messages: Arc<AtomicU64>) {
    let endpoint = Endpoint::from_shared(format!("unix:{}", socket.display())).unwrap();
    let channel = loop {
        match endpoint.connect().await {
            Ok(channel) => break channel,
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    };
    let request = DiscoverRequest {
        discovery_details: details,
        ..Default::default()
    };
    let mut client = DiscoveryHandlerClient::new(channel);
    let mut stream = match client.discover(request).await {
        Ok(stream) => stream.into_inner(),
        Err(status) => {
            eprintln!("a stream was refused: {status}");
            std::process::exit(1);
        }
    };
    while let Ok(Some(_)) = stream.message().await {
        messages.fetch_add(1, Ordering::Relaxed);
    }
}
