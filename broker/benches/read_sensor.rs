//! What `ReadSensor` brings and costs, beside the plain HTTP device that is read: the limit.
//!
//! `cargo bench -p akri-http-broker`. Device, broker and callers share one machine, so the numbers are small; those of
//! one run can be compared. Each caller has a connection of its own and calls again as soon as it has its answer.
//!
//! `OTHER_BROKER=/path/to/binary` measures one more broker that speaks `http.proto` and takes `--grpc_endpoint` and
//! `AKRI_HTTP_DEVICE_ENDPOINT`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::{
    fs,
    net::{SocketAddr, TcpListener},
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use akri_device_http::Endpoint;
use akri_http_broker::read::Reader;
use akri_http_mock_device::{Devices, serve};
use akri_proto::http::{ReadSensorRequest, device_service_client::DeviceServiceClient};
use tokio::task::JoinSet;
use tonic::transport::Channel;

const CALLERS: [usize; 3] = [1, 16, 64];
const WARM_UP: Duration = Duration::from_millis(500);
const MEASURED: Duration = Duration::from_secs(4);

#[tokio::main(flavor = "current_thread")]
async fn main() {
    // Test runners ask each target for its list of tests; there is none here.
    if std::env::args().any(|argument| argument == "--list") {
        return;
    }
    let device = device();
    println!(
        "| read | callers | requests/s | p50 | p99 | broker CPU per request | peak resident |"
    );
    println!("| --- | ---: | ---: | ---: | ---: | ---: | ---: |");
    let endpoint: Endpoint = device.to_string().parse().unwrap();
    let reader = Reader::new().unwrap();
    for callers in CALLERS {
        let caller = Caller::Device(reader.clone(), endpoint.clone());
        let measured = measure(vec![caller; callers]).await;
        measured.row("the device itself", callers, "", "");
    }
    let ours = env!("CARGO_BIN_EXE_grpc-broker");
    broker("this broker", ours, device).await;
    if let Ok(other) = std::env::var("OTHER_BROKER") {
        broker("the other broker", &other, device).await;
    }
}

/// A mock device with a thread of its own.
fn device() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(|| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            serve(listener, Devices::default(), std::future::pending()).await
        })
    });
    address
}

/// The broker that `binary` is, with all numbers of callers one after the other.
async fn broker(name: &str, binary: &str, device: SocketAddr) {
    // Not every broker takes port 0 and tells what it got.
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap();
    drop(free);
    let broker = Broker(
        Command::new(binary)
            .arg(format!("--grpc_endpoint={address}"))
            .env("AKRI_HTTP_DEVICE_ENDPOINT", format!("http://{device}"))
            .env("RUST_LOG", "error")
            .stderr(Stdio::null())
            .spawn()
            .unwrap(),
    );
    for callers in CALLERS {
        let mut connected = Vec::new();
        for _ in 0..callers {
            connected.push(Caller::Broker(connect(address).await));
        }
        let before = broker.cpu();
        let measured = measure(connected).await;
        let cpu = (broker.cpu() - before) / measured.all;
        let peak = broker.peak_kib() as f64 / 1024.0;
        let (cpu, peak) = (format!("{cpu:.0?}"), format!("{peak:.1} MiB"));
        measured.row(name, callers, &cpu, &peak);
    }
}

async fn connect(address: SocketAddr) -> DeviceServiceClient<Channel> {
    let started = Instant::now();
    loop {
        match DeviceServiceClient::connect(format!("http://{address}")).await {
            Ok(client) => return client,
            Err(error) if started.elapsed() > Duration::from_secs(10) => panic!("{error}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

/// Somebody who reads again and again.
#[derive(Clone)]
enum Caller {
    Device(Reader, Endpoint),
    Broker(DeviceServiceClient<Channel>),
}

impl Caller {
    async fn read(&mut self) {
        match self {
            Self::Device(reader, endpoint) => drop(reader.read(endpoint.url()).await.unwrap()),
            Self::Broker(client) => {
                let name = "/".to_owned();
                let request = ReadSensorRequest {
                    name,
                    ..Default::default()
                };
                drop(client.read_sensor(request).await.unwrap());
            }
        }
    }
}

struct Measured {
    /// Of the reads within [`MEASURED`], sorted.
    times: Vec<Duration>,
    /// Reads with those of the warm-up.
    all: u32,
}

async fn measure(callers: Vec<Caller>) -> Measured {
    let warm = Instant::now() + WARM_UP;
    let end = warm + MEASURED;
    let mut reading = JoinSet::new();
    for mut caller in callers {
        reading.spawn(async move {
            let (mut times, mut all) = (Vec::new(), 0);
            loop {
                let started = Instant::now();
                caller.read().await;
                all += 1;
                let now = Instant::now();
                if now > end {
                    return (times, all);
                }
                if started > warm {
                    times.push(now - started);
                }
            }
        });
    }
    let mut measured = Measured {
        times: Vec::new(),
        all: 0,
    };
    while let Some(caller) = reading.join_next().await {
        let (times, all) = caller.unwrap();
        measured.times.extend(times);
        measured.all += all;
    }
    measured.times.sort();
    measured
}

impl Measured {
    fn row(&self, name: &str, callers: usize, cpu: &str, peak: &str) {
        let reads = self.times.len();
        let rate = reads as f64 / MEASURED.as_secs_f64();
        let (p50, p99) = (self.times[reads / 2], self.times[reads * 99 / 100]);
        println!("| {name} | {callers} | {rate:.0} | {p50:.0?} | {p99:.0?} | {cpu} | {peak} |");
    }
}

struct Broker(Child);

impl Broker {
    /// What all its threads have used so far.
    fn cpu(&self) -> Duration {
        let tasks = format!("/proc/{}/task", self.0.id());
        let used = |task: &Path| -> u64 {
            let text = fs::read_to_string(task.join("schedstat")).unwrap_or_default();
            let used = text.split(' ').next();
            used.and_then(|ns| ns.parse().ok()).unwrap_or(0)
        };
        let tasks = fs::read_dir(tasks).unwrap().flatten();
        Duration::from_nanos(tasks.map(|task| used(&task.path())).sum())
    }

    fn peak_kib(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.0.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmHWM"));
        let kib = line.unwrap().split_whitespace().nth(1);
        kib.unwrap().parse().unwrap()
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
