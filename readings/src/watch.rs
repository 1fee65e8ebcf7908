//! One device, as its broker watches it.

use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use akri_proto::http::{
    Failure, ReadSensorResponse, WatchSensorRequest, WatchSensorResponse,
    watch_sensor_response::Outcome as Message,
};
use backon::ExponentialBackoff;
use prost_types::Timestamp;
use tokio::{
    sync::Notify,
    time::{sleep, timeout},
};
use tonic::Code;

use crate::{
    broker::{ANSWER, pauses},
    connection::{Answer, Connection, why},
    devices::Devices,
    row::Outcome,
};

/// The longest reading, in bytes. The page shows 256 characters of it. Each watch may hold as much that is not complete.
const MAX_READING: usize = 16 * 1024;

const WATCH_SENSOR: &str = "/http.DeviceService/WatchSensor";

/// How long a watch may be silent, besides twice its interval.
const SILENCE: Duration = Duration::from_secs(30);

/// A device of a broker, and where its readings go.
pub(crate) struct Watch {
    pub(crate) broker: SocketAddr,
    pub(crate) name: Arc<str>,
    pub(crate) interval: Duration,
    pub(crate) connection: Connection,
    pub(crate) devices: Arc<Devices>,
    /// Told when the watch has ended, though it has no end of its own.
    pub(crate) doubt: Arc<Notify>,
}

impl Watch {
    /// As long as the connection is open: a watch that ends begins again.
    pub(crate) async fn run(&self) {
        let mut pauses_left = pauses();
        loop {
            let Err(why) = self.once(&mut pauses_left).await;
            let failure = Outcome::Failure { why, since: None };
            self.devices.read(self.broker, &self.name, failure);
            self.doubt.notify_one();
            if !self.connection.is_open() {
                return;
            }
            sleep(pauses_left.next().unwrap_or(SILENCE)).await;
        }
    }

    /// Ends with the reason why it does.
    async fn once(&self, pauses_left: &mut ExponentialBackoff) -> Result<Infallible, String> {
        let mut readings = self.begin().await?;
        loop {
            let outcome = self.next(&mut readings).await?;
            *pauses_left = pauses();
            self.devices.read(self.broker, &self.name, outcome);
        }
    }

    async fn begin(&self) -> Result<Answer, String> {
        // On the heap, since it is large, and only for a moment.
        let beginning = Box::pin(async {
            let request = WatchSensorRequest {
                name: "/".into(),
                endpoint: self.name.to_string(),
                interval: self.interval.try_into().ok(),
                min_change: None,
            };
            self.connection
                .call(WATCH_SENSOR, &request, MAX_READING)
                .await
        });
        match timeout(ANSWER, beginning).await {
            Ok(begun) => begun.map_err(|status| why(&status)),
            Err(_) => Err(format!("the broker began no watch within {ANSWER:?}")),
        }
    }

    async fn next(&self, readings: &mut Answer) -> Result<Outcome, String> {
        let patience = self.interval * 2 + SILENCE;
        loop {
            match timeout(patience, readings.next::<WatchSensorResponse>()).await {
                Err(_) => return Err(format!("the broker has said nothing for {patience:?}")),
                Ok(Err(status)) => return Err(why(&status)),
                Ok(Ok(None)) => return Err("the broker ended the watch".into()),
                Ok(Ok(Some(message))) => match message.outcome {
                    Some(Message::Reading(reading)) => return Ok(value(reading)),
                    Some(Message::Failure(failure)) => return Ok(failed(failure)),
                    None => {}
                },
            }
        }
    }
}

fn value(reading: ReadSensorResponse) -> Outcome {
    // A broker with Akri's own interface does not say which number it is.
    let number = reading.number.or_else(|| reading.value.trim().parse().ok());
    let text = reading.value;
    Outcome::Value { text, number }
}

fn failed(failure: Failure) -> Outcome {
    let why = match failure.message.is_empty() {
        true => format!("{:?}", Code::from_i32(failure.code)),
        false => failure.message,
    };
    let since = failure.since.as_ref().and_then(millis);
    Outcome::Failure { why, since }
}

/// `None` before 1970.
fn millis(time: &Timestamp) -> Option<u64> {
    let seconds = u64::try_from(time.seconds).ok()?;
    let millis = u64::try_from(time.nanos / 1_000_000).ok()?;
    seconds.checked_mul(1000)?.checked_add(millis)
}
