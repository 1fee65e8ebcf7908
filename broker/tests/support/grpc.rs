//! A gRPC broker in this process, and clients of it.

#![allow(dead_code, reason = "each test file uses a part")]

use std::{net::SocketAddr, time::Duration};

use akri_http_broker::grpc::{Config, run};
use akri_proto::http::{
    Failure, ReadSensorRequest, ReadSensorResponse, WatchSensorRequest, WatchSensorResponse,
    device_service_client::DeviceServiceClient, watch_sensor_response::Outcome,
};
use tokio::{net::TcpListener, task::JoinHandle, time::timeout};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Status, Streaming, transport::Channel};

use super::PATIENCE;

pub type Client = DeviceServiceClient<Channel>;

pub struct Broker {
    pub address: SocketAddr,
    pub stop: CancellationToken,
    pub running: JoinHandle<anyhow::Result<()>>,
}

impl Broker {
    /// A broker with these devices, and the settings' defaults but for the shortest interval: 100 ms.
    pub async fn start(devices: &[&str]) -> Self {
        Self::with(devices, |_| {}).await
    }

    pub async fn with(devices: &[&str], change: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config {
            devices: devices
                .iter()
                .map(|device| device.parse().unwrap())
                .collect(),
            min_interval: Duration::from_millis(100),
            max_reads: 16,
            admin: Default::default(),
            credentials: Default::default(),
        };
        change(&mut config);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let running = tokio::spawn(run(config, listener, stop.clone().cancelled_owned()));
        Self {
            address,
            stop,
            running,
        }
    }

    pub async fn channel(&self) -> Channel {
        Channel::from_shared(format!("http://{}", self.address))
            .unwrap()
            .connect()
            .await
            .unwrap()
    }

    pub async fn client(&self) -> Client {
        DeviceServiceClient::new(self.channel().await)
    }

    /// Reads the first device.
    pub async fn read(&self, name: &str) -> Result<ReadSensorResponse, Status> {
        read(&mut self.client().await, name).await
    }

    pub async fn watch(&self, request: WatchSensorRequest) -> Streaming<WatchSensorResponse> {
        let stream = self.client().await.watch_sensor(request).await;
        stream.unwrap().into_inner()
    }
}

pub async fn read(client: &mut Client, name: &str) -> Result<ReadSensorResponse, Status> {
    let request = Request::new(ReadSensorRequest {
        name: name.to_owned(),
        ..Default::default()
    });
    let answer = timeout(PATIENCE, client.read_sensor(request)).await;
    answer
        .expect("the call did not end")
        .map(tonic::Response::into_inner)
}

/// A watch of the first device, with this interval.
pub fn every(interval: Duration) -> WatchSensorRequest {
    WatchSensorRequest {
        interval: Some(interval.try_into().unwrap()),
        ..Default::default()
    }
}

/// What comes next in a stream.
pub async fn next(stream: &mut Streaming<WatchSensorResponse>) -> Result<Outcome, Status> {
    let message = timeout(PATIENCE, stream.message())
        .await
        .expect("nothing comes")?;
    Ok(message.expect("the stream ended").outcome.unwrap())
}

pub async fn next_value(stream: &mut Streaming<WatchSensorResponse>) -> String {
    match next(stream).await.unwrap() {
        Outcome::Reading(reading) => reading.value,
        Outcome::Failure(failure) => panic!("{failure:?}"),
    }
}

pub async fn next_failure(stream: &mut Streaming<WatchSensorResponse>) -> Failure {
    match next(stream).await.unwrap() {
        Outcome::Failure(failure) => failure,
        Outcome::Reading(reading) => panic!("{reading:?}"),
    }
}

/// Waits until `condition` holds.
pub async fn until(condition: impl AsyncFn() -> bool) {
    let waited = timeout(PATIENCE, async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    waited.await.expect("it never came true");
}
