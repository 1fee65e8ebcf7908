//! Brokers that say what a test wants, and a page to look at what becomes of it.

#![allow(dead_code, reason = "each test file, and the stage, uses a part")]
use std::{
    collections::BTreeMap,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use akri_http_readings::{Brokers, BrokersFrom, Config, run};
use akri_proto::http::{
    Device, Failure, ListDevicesRequest, ListDevicesResponse, ReadSensorRequest,
    ReadSensorResponse, WatchSensorRequest, WatchSensorResponse,
    device_service_server::{DeviceService, DeviceServiceServer},
    watch_sensor_response::Outcome,
};
use async_trait::async_trait;
use futures_util::{Stream, StreamExt};
use tokio::{
    net::TcpListener,
    runtime::Builder,
    sync::{oneshot, watch},
    task::JoinHandle,
};
use tokio_stream::wrappers::{TcpListenerStream, WatchStream};
use tonic::{Request, Response, Status, transport::Server};

pub mod http;

/// Longer than anything here takes, even on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// What a device gives: a value, or the reason why it fails. `None` ends the watches.
pub type Given = Option<Result<String, String>>;

type Devices = Arc<Mutex<BTreeMap<String, watch::Sender<Given>>>>;

/// A broker whose devices give what they are told to. Dropping it cuts it off.
pub struct Broker {
    pub address: SocketAddr,
    devices: Devices,
    _stop: oneshot::Sender<()>,
}

impl Broker {
    /// A broker with these devices, which give `0`.
    pub async fn start(devices: &[&str]) -> Self {
        Self::at("127.0.0.1:0".parse().unwrap(), devices).await
    }

    pub async fn at(address: SocketAddr, devices: &[&str]) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let given = |name: &&str| (name.to_string(), watch::Sender::new(Some(Ok("0".into()))));
        let devices: Devices = Arc::new(Mutex::new(devices.iter().map(given).collect()));
        let service = DeviceServiceServer::new(Service(devices.clone()));
        let listener = listener.into_std().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        // In a runtime of its own, with which its connections end.
        thread::spawn(move || {
            let runtime = Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let incoming = TcpListenerStream::new(TcpListener::from_std(listener).unwrap());
                let serving = Server::builder().add_service(service);
                tokio::select! {
                    ended = serving.serve_with_incoming(incoming) => ended.unwrap(),
                    _ = stopped => {}
                }
            });
        });
        Self {
            address,
            devices,
            _stop: stop,
        }
    }

    /// From now on, the device gives this.
    pub fn give(&self, device: &str, given: Result<&str, &str>) {
        let given = given.map(str::to_owned).map_err(str::to_owned);
        let devices = self.devices.lock().unwrap();
        devices[device].send_replace(Some(given));
    }

    /// Ends the watches of a device.
    pub fn end(&self, device: &str) {
        self.devices.lock().unwrap()[device].send_replace(None);
    }

    /// Adds a device, which gives `0`; the page learns of it from the next list.
    pub fn add(&self, device: &str) {
        let sender = watch::Sender::new(Some(Ok("0".into())));
        self.devices.lock().unwrap().insert(device.into(), sender);
    }

    /// Removes a device; its watches end.
    pub fn remove(&self, device: &str) {
        self.devices.lock().unwrap().remove(device);
    }

    /// How many watches of a device there are.
    pub fn watches(&self, device: &str) -> usize {
        self.devices.lock().unwrap()[device].receiver_count()
    }
}

struct Service(Devices);

fn message(given: Result<String, String>, endpoint: &str) -> WatchSensorResponse {
    let outcome = match given {
        Ok(value) => Outcome::Reading(ReadSensorResponse {
            number: value.trim().parse().ok(),
            value,
            endpoint: endpoint.into(),
            ..ReadSensorResponse::default()
        }),
        Err(message) => Outcome::Failure(Failure {
            code: 14,
            message,
            since: None,
        }),
    };
    WatchSensorResponse {
        outcome: Some(outcome),
    }
}

#[async_trait]
impl DeviceService for Service {
    async fn read_sensor(
        &self,
        _: Request<ReadSensorRequest>,
    ) -> Result<Response<ReadSensorResponse>, Status> {
        Err(Status::unimplemented("the page does not call it"))
    }

    type WatchSensorStream =
        Pin<Box<dyn Stream<Item = Result<WatchSensorResponse, Status>> + Send>>;

    async fn watch_sensor(
        &self,
        request: Request<WatchSensorRequest>,
    ) -> Result<Response<Self::WatchSensorStream>, Status> {
        let endpoint = request.into_inner().endpoint;
        let devices = self.0.lock().unwrap();
        let Some(device) = devices.get(&endpoint) else {
            return Err(Status::not_found("no such device"));
        };
        let stream = WatchStream::new(device.subscribe())
            .take_while(|given| std::future::ready(given.is_some()))
            .map(move |given| Ok(message(given.unwrap(), &endpoint)));
        Ok(Response::new(Box::pin(stream)))
    }

    async fn list_devices(
        &self,
        _: Request<ListDevicesRequest>,
    ) -> Result<Response<ListDevicesResponse>, Status> {
        let devices = self.0.lock().unwrap();
        let device = |endpoint: &String| Device {
            endpoint: endpoint.clone(),
            ..Device::default()
        };
        let devices = devices.keys().map(device).collect();
        Ok(Response::new(ListDevicesResponse { devices }))
    }
}

/// The page, with the brokers that a test says.
pub struct Page {
    pub address: SocketAddr,
    pub brokers: watch::Sender<Brokers>,
    pub note: watch::Sender<String>,
    serving: JoinHandle<anyhow::Result<()>>,
}

impl Page {
    pub async fn start() -> Self {
        Self::at("127.0.0.1:0".parse().unwrap()).await
    }

    pub async fn at(address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (brokers, known) = watch::channel(Brokers::new());
        let (note, read) = watch::channel(String::new());
        let config = Config {
            brokers: BrokersFrom::Known(known),
            interval: Duration::from_secs(1),
            note: read,
        };
        let serving = tokio::spawn(run(config, listener, std::future::pending()));
        Self {
            address,
            brokers,
            note,
            serving,
        }
    }

    /// A page that knows these brokers by their addresses.
    pub async fn of(brokers: &[&Broker]) -> Self {
        let page = Self::start().await;
        brokers.iter().for_each(|broker| page.add(broker));
        page
    }

    pub fn add(&self, broker: &Broker) {
        let (address, name) = (broker.address, broker.address.to_string());
        self.brokers
            .send_modify(|brokers| drop(brokers.insert(address, name)));
    }

    pub fn remove(&self, broker: &Broker) {
        self.brokers
            .send_modify(|brokers| drop(brokers.remove(&broker.address)));
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        self.serving.abort();
    }
}
