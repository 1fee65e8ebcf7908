//! The memory and the CPU that a page needs for a thousand devices with one reading in ten seconds, once their histories are
//! full: `cargo bench -p akri-http-readings`. It takes eleven minutes, or `SECONDS=` of them.
//!
//! Each page is a process of its own, with the code of the `readings` binary and brokers that it need not resolve.

#![allow(clippy::unwrap_used, clippy::panic)]

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
    net::TcpListener,
    runtime::Builder,
    sync::watch,
    time::{Instant, sleep, sleep_until},
};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{
    Request, Response, Status,
    transport::{Server, server::TcpConnectInfo},
};

const DEVICES: usize = 1_000;
const INTERVAL: Duration = Duration::from_secs(10);

/// Brokers, and browsers with the page open.
const CASES: [(usize, usize); 3] = [(10, 0), (10, 16), (1_000, 16)];

fn main() {
    let mut files = getrlimit(Resource::Nofile);
    files.current = files.maximum;
    setrlimit(Resource::Nofile, files).unwrap();
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let arguments: Vec<String> = env::args().skip(1).collect();
    match arguments.as_slice() {
        [role, page, port, brokers] if role == "page" => {
            let [page, port, brokers] =
                [page, port, brokers].map(|number| number.parse::<u16>().unwrap());
            runtime.block_on(serve_page(page, port, brokers.into()));
        }
        _ => runtime.block_on(measure()),
    }
}

/// All of 127.0.0.0/8 is this machine, so one listener is as many brokers as wanted.
fn broker(number: usize, port: u16) -> SocketAddr {
    let [high, low] = u16::try_from(number).unwrap().to_be_bytes();
    SocketAddr::from(([127, 1, high, low], port))
}

async fn serve_page(page: u16, port: u16, brokers: usize) {
    let known = (0..brokers).map(|number| broker(number, port));
    let known: Brokers = known.map(|it| (it, it.to_string())).collect();
    let (_brokers, known) = watch::channel(known);
    let (_note, note) = watch::channel(String::new());
    let config = Config {
        brokers: BrokersFrom::Known(known),
        interval: INTERVAL,
        note,
    };
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, page))
        .await
        .unwrap();
    run(config, listener, std::future::pending()).await.unwrap();
}

async fn measure() {
    let seconds = env::var("SECONDS").map_or(660, |seconds| seconds.parse().unwrap());
    let mut measured = Vec::new();
    for (brokers, browsers) in CASES {
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let service = DeviceServiceServer::new(Service(DEVICES / brokers));
        let serving = Server::builder().add_service(service);
        tokio::spawn(serving.serve_with_incoming(TcpListenerStream::new(listener)));
        // Free, and most likely still so when the page binds it.
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let page = free.local_addr().unwrap();
        drop(free);
        let arguments = [page.port(), port, u16::try_from(brokers).unwrap()];
        let child = Command::new(env::current_exe().unwrap())
            .arg("page")
            .args(arguments.map(|number| number.to_string()))
            .spawn()
            .unwrap();
        measured.push((brokers, browsers, page, child));
    }
    sleep(Duration::from_secs(2)).await;
    for (_, browsers, page, _) in &measured {
        for _ in 0..*browsers {
            tokio::spawn(browse(*page));
        }
    }
    sleep(Duration::from_secs(seconds)).await;
    println!("| devices | brokers | open pages | points in histories | peak resident | CPU |");
    println!("| ---: | ---: | ---: | ---: | ---: | ---: |");
    for (brokers, browsers, page, mut child) in measured {
        let text = all_devices(page).await;
        let devices = text.matches("\"state\":\"reading\"").count();
        // Between two points, and before the first of a device.
        let points = text.matches("],[").count() + text.matches("\"points\":[[").count();
        let (peak, cpu) = used(&child);
        println!(
            "| {devices} | {brokers} | {browsers} | {points} | {peak:.1} MiB | {:.1} % |",
            cpu * 100.0 / (seconds + 2) as f64
        );
        child.kill().unwrap();
    }
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

/// MiB, and seconds of a CPU.
fn used(child: &Child) -> (f64, f64) {
    let read = |file| fs::read_to_string(format!("/proc/{}/{file}", child.id())).unwrap();
    let status = read("status");
    let peak = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .unwrap();
    let peak: f64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
    let stat = read("stat");
    let ticks = stat
        .rsplit(") ")
        .next()
        .unwrap()
        .split(' ')
        .skip(11)
        .take(2);
    let ticks: f64 = ticks.map(|ticks| ticks.parse::<f64>().unwrap()).sum();
    (peak / 1024.0, ticks / 100.0)
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
        let endpoint = request.into_inner().endpoint;
        let first = Instant::now() + INTERVAL.mul_f64(fastrand::f64());
        let readings = unfold((first, endpoint), |(due, endpoint)| async move {
            sleep_until(due).await;
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
                (due + INTERVAL, endpoint),
            ))
        });
        Ok(Response::new(Box::pin(readings)))
    }
}
