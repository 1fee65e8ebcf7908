//! The memory and the CPU that a page needs for a thousand devices, once their histories are full: `cargo bench -p
//! akri-http-readings`. It takes eleven minutes, or `SECONDS=` of them. `cargo test` runs the hardest case for half a minute.
//! Both fail where it is more than it may be.
//!
//! Each page is a process of its own, with the code of the `readings` binary and brokers that it need not resolve.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    env, fs,
    net::{Ipv4Addr, SocketAddr},
    pin::Pin,
    process::{Child, Command},
    time::Duration,
};

use akri_http_readings::{Brokers, BrokersFrom, Config, run};
use akri_proto::http::{
    Device, ListDevicesRequest, ListDevicesResponse, ReadSensorRequest, ReadSensorResponse,
    WatchSensorRequest, WatchSensorResponse,
    device_service_server::{DeviceService, DeviceServiceServer},
    watch_sensor_response::Outcome,
};
use async_trait::async_trait;
use futures_util::{Stream, stream::unfold};
use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::{
    net::{TcpListener, TcpStream},
    runtime::Builder,
    sync::watch,
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{
    Request, Response, Status,
    transport::{Server, server::TcpConnectInfo},
};

const DEVICES: usize = 1_000;

/// Longer than anything here takes, even on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// What the file of `readings` has in memory, in MiB. Those of this test and of its brokers are in one, which does not count.
const FILE: f64 = 3.8;

/// What `cargo test` builds takes so much more than what ships, in MiB: futures and relocations are larger.
const UNOPTIMIZED: f64 = 1.5;

/// By which runs differ, in MiB.
const TOLERANCE: f64 = 1.0;

/// Each watch begins with so many readings, each so long after the one before it, so that a buffer that is used bit by bit is
/// soon used as a whole.
const FAST: (u32, Duration) = (80, Duration::from_millis(200));

#[derive(Clone, Copy)]
struct Case {
    brokers: usize,
    /// With the page open.
    browsers: usize,
    /// Between two readings of a device, in seconds.
    interval: u64,
    /// What the page may have in memory, in MiB.
    limit: f64,
}

const fn case(brokers: usize, browsers: usize, interval: u64, limit: f64) -> Case {
    Case {
        brokers,
        browsers,
        interval,
        limit,
    }
}

/// As Akri starts them: each device with a broker of its own.
const HARDEST: Case = case(1_000, 16, 10, 32.0);

/// With a reading each second a history has 600 points, otherwise 60.
const CASES: [Case; 5] = [
    case(10, 0, 10, 32.0),
    case(10, 16, 10, 32.0),
    HARDEST,
    case(10, 16, 1, 32.0),
    case(1_000, 16, 1, 40.0),
];

fn main() {
    let mut files = getrlimit(Resource::Nofile);
    files.current = files.maximum;
    setrlimit(Resource::Nofile, files).unwrap();
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let arguments: Vec<String> = env::args().skip(1).collect();
    match arguments.as_slice() {
        [role, page, port, brokers, interval] if role == "page" => {
            let [page, port, brokers, interval] =
                [page, port, brokers, interval].map(|number| number.parse::<u16>().unwrap());
            let interval = Duration::from_secs(interval.into());
            runtime.block_on(serve_page(page, port, brokers.into(), interval));
        }
        [argument] if argument == "--bench" => {
            let seconds = env::var("SECONDS").map_or(660, |seconds| seconds.parse().unwrap());
            runtime.block_on(measure(&CASES, seconds));
        }
        _ => runtime.block_on(test()),
    }
}

/// All of 127.0.0.0/8 is this machine, so one listener is as many brokers as wanted.
fn broker(number: usize, port: u16) -> SocketAddr {
    let [high, low] = u16::try_from(number).unwrap().to_be_bytes();
    SocketAddr::from(([127, 1, high, low], port))
}

async fn serve_page(page: u16, port: u16, brokers: usize, interval: Duration) {
    let known = (0..brokers).map(|number| broker(number, port));
    let known: Brokers = known.map(|it| (it, it.to_string())).collect();
    let (_brokers, known) = watch::channel(known);
    let (_note, note) = watch::channel(String::new());
    let config = Config {
        brokers: BrokersFrom::Known(known),
        interval,
        note,
    };
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, page))
        .await
        .unwrap();
    run(config, listener, std::future::pending()).await.unwrap();
}

/// A page under way, and how it began.
struct Page {
    case: Case,
    address: SocketAddr,
    process: Child,
}

async fn start(case: Case) -> Page {
    let Case {
        brokers,
        browsers,
        interval,
        ..
    } = case;
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let service = DeviceServiceServer::new(Service(DEVICES / brokers));
    let serving = Server::builder().add_service(service);
    tokio::spawn(serving.serve_with_incoming(TcpListenerStream::new(listener)));
    // Free, and most likely still so when the page binds it.
    let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = free.local_addr().unwrap();
    drop(free);
    let arguments = [address.port().into(), port.into(), brokers as u64, interval];
    let process = Command::new(env::current_exe().unwrap())
        .arg("page")
        .args(arguments.map(|number| number.to_string()))
        .spawn()
        .unwrap();
    while TcpStream::connect(address).await.is_err() {
        sleep(Duration::from_millis(20)).await;
    }
    for _ in 0..browsers {
        tokio::spawn(browse(address));
    }
    Page {
        case,
        address,
        process,
    }
}

/// The hardest case, though without full histories.
async fn test() {
    let page = start(HARDEST).await;
    let reading = async {
        while states(&all_devices(page.address).await) < DEVICES {
            sleep(Duration::from_secs(1)).await;
        }
    };
    timeout(PATIENCE, reading)
        .await
        .expect("all devices are there");
    sleep(Duration::from_secs(25)).await;
    let peak = page.used().peak;
    let limit = page.case.limit + TOLERANCE + UNOPTIMIZED;
    assert!(peak <= limit, "{peak:.1} MiB for a thousand brokers");
    println!("{peak:.1} MiB for a thousand brokers");
}

async fn measure(cases: &[Case], seconds: u64) {
    let mut pages = Vec::new();
    for case in cases {
        pages.push(start(*case).await);
    }
    sleep(Duration::from_secs(seconds)).await;
    println!(
        "| devices | brokers | open pages | interval | points in histories | peak resident | CPU |"
    );
    println!("| ---: | ---: | ---: | ---: | ---: | ---: | ---: |");
    let mut too_much = false;
    for page in pages {
        let Case {
            brokers,
            browsers,
            interval,
            limit,
        } = page.case;
        let text = all_devices(page.address).await;
        let devices = states(&text);
        // Between two points, and before the first of a device.
        let points = text.matches("],[").count() + text.matches("\"points\":[[").count();
        let Used { peak, cpu } = page.used();
        println!(
            "| {devices} | {brokers} | {browsers} | {interval} s | {points} | {peak:.1} MiB | {:.1} % |",
            cpu * 100.0 / seconds as f64
        );
        too_much |= peak > limit + TOLERANCE;
    }
    assert!(!too_much, "more than the page may have");
}

/// How many devices are reading.
fn states(text: &str) -> usize {
    text.matches("\"state\":\"reading\"").count()
}

async fn all_devices(page: SocketAddr) -> String {
    let answer = client()
        .get(format!("http://{page}/api/devices"))
        .send()
        .await;
    answer.unwrap().text().await.unwrap()
}

fn client() -> reqwest::Client {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = reqwest::Client::builder().no_proxy().tls_certs_only([]);
    client.build().unwrap()
}

/// Takes all events, as a browser does.
async fn browse(page: SocketAddr) {
    let events = client()
        .get(format!("http://{page}/api/events"))
        .send()
        .await;
    let mut events = events.unwrap();
    while let Ok(Some(_)) = events.chunk().await {}
}

/// MiB at most, and seconds of a CPU.
struct Used {
    peak: f64,
    cpu: f64,
}

impl Drop for Page {
    fn drop(&mut self) {
        let _ = self.process.kill();
    }
}

impl Page {
    fn used(&self) -> Used {
        let read =
            |file| fs::read_to_string(format!("/proc/{}/{file}", self.process.id())).unwrap();
        let status = read("status");
        let mib = |name| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let kib = line.unwrap().trim().trim_end_matches(" kB");
            kib.parse::<f64>().unwrap() / 1024.0
        };
        let stat = read("stat");
        let ticks = stat.rsplit(") ").next().unwrap().split(' ');
        let ticks = ticks.skip(11).take(2);
        Used {
            peak: mib("VmHWM:") - mib("RssFile:") + FILE,
            cpu: ticks
                .map(|ticks| ticks.parse::<f64>().unwrap())
                .sum::<f64>()
                / 100.0,
        }
    }
}

/// Brokers with so many devices each, whose names say which broker it is.
struct Service(usize);

#[async_trait]
impl DeviceService for Service {
    async fn read_sensor(
        &self,
        _: Request<ReadSensorRequest>,
    ) -> Result<Response<ReadSensorResponse>, Status> {
        Err(Status::unimplemented("the page does not call it"))
    }

    async fn list_devices(
        &self,
        request: Request<ListDevicesRequest>,
    ) -> Result<Response<ListDevicesResponse>, Status> {
        let connection: &TcpConnectInfo = request.extensions().get().unwrap();
        let broker = connection.local_addr().unwrap().ip();
        let device = |number| Device {
            endpoint: format!("http://sensor-{number}.{broker}:8080/temperature"),
            ..Device::default()
        };
        let devices = (0..self.0).map(device).collect();
        Ok(Response::new(ListDevicesResponse { devices }))
    }

    type WatchSensorStream =
        Pin<Box<dyn Stream<Item = Result<WatchSensorResponse, Status>> + Send>>;

    async fn watch_sensor(
        &self,
        request: Request<WatchSensorRequest>,
    ) -> Result<Response<Self::WatchSensorStream>, Status> {
        let request = request.into_inner();
        let interval = Duration::try_from(request.interval.unwrap()).unwrap();
        let first = Instant::now() + FAST.1.mul_f64(fastrand::f64());
        let readings = unfold(
            (0, request.endpoint),
            move |(readings, endpoint)| async move {
                let fast = FAST.0.min(readings);
                sleep_until(first + FAST.1 * fast + interval * (readings - fast)).await;
                let number = 20.0 + fastrand::f64();
                let reading = ReadSensorResponse {
                    value: number.to_string(),
                    number: Some(number),
                    endpoint: endpoint.clone(),
                    ..ReadSensorResponse::default()
                };
                let outcome = Some(Outcome::Reading(reading));
                Some((
                    Ok(WatchSensorResponse { outcome }),
                    (readings + 1, endpoint),
                ))
            },
        );
        Ok(Response::new(Box::pin(readings)))
    }
}
