//! One device, as its broker watches it.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use akri_http_broker::client::cause;
use akri_proto::http::{
    Failure, ReadSensorResponse, WatchSensorRequest, WatchSensorResponse,
    watch_sensor_response::Outcome as Message,
};
use prost_types::Timestamp;
use tokio::{
    sync::Notify,
    time::{sleep, timeout},
};
use tonic::{
    Code, Status, Streaming,
    client::Grpc,
    codec::{BufferSettings, Codec},
    codegen::http::uri::PathAndQuery,
};
use tonic_prost::ProstCodec;

use crate::{
    broker::{ANSWER, origin, pauses},
    connection::Connection,
    devices::Devices,
    row::Outcome,
};

/// The longest reading, in bytes. The page shows 256 characters of it.
const MAX_READING: usize = 64 * 1024;

/// What is set aside for a reading, in bytes; a longer one gets more.
const READING: usize = 512;

const METHOD: &str = "/http.DeviceService/WatchSensor";

/// How long a watch may be silent, besides twice its interval.
const SILENCE: Duration = Duration::from_secs(30);

/// A device of a broker, and who wants to know of it.
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
    /// For ever: a watch that ends begins again.
    pub(crate) async fn run(self) {
        let mut pauses_left = pauses();
        loop {
            let why = match self.begin().await {
                Ok(mut readings) => loop {
                    match self.next(&mut readings).await {
                        Ok(outcome) => {
                            pauses_left = pauses();
                            self.devices.read(self.broker, &self.name, outcome);
                        }
                        Err(why) => break why,
                    }
                },
                Err(why) => why,
            };
            let failure = Outcome::Failure { why, since: None };
            self.devices.read(self.broker, &self.name, failure);
            self.doubt.notify_one();
            sleep(pauses_left.next().unwrap_or(SILENCE)).await;
        }
    }

    async fn begin(&self) -> Result<Streaming<WatchSensorResponse>, String> {
        let request = WatchSensorRequest {
            name: "/".into(),
            endpoint: self.name.to_string(),
            interval: self.interval.try_into().ok(),
            min_change: None,
        };
        let grpc = Grpc::with_origin(self.connection.clone(), origin(self.broker));
        let mut grpc = grpc.max_decoding_message_size(MAX_READING);
        let beginning = async {
            grpc.ready()
                .await
                .map_err(|error| Status::from_error(error.into()))?;
            let request = tonic::Request::new(request);
            grpc.server_streaming(request, PathAndQuery::from_static(METHOD), Small)
                .await
        };
        // On the heap, since it is large, and only for a moment.
        match timeout(ANSWER, Box::pin(beginning)).await {
            Ok(begun) => begun.map(tonic::Response::into_inner).map_err(why),
            Err(_) => Err(format!("the broker began no watch within {ANSWER:?}")),
        }
    }

    async fn next(&self, readings: &mut Streaming<WatchSensorResponse>) -> Result<Outcome, String> {
        let patience = self.interval * 2 + SILENCE;
        loop {
            match timeout(patience, readings.message()).await {
                Err(_) => return Err(format!("the broker has said nothing for {patience:?}")),
                Ok(Err(status)) => return Err(why(status)),
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

/// As the generated client has it, but with buffers as large as a reading.
struct Small;

type Prost = ProstCodec<WatchSensorRequest, WatchSensorResponse>;

impl Codec for Small {
    type Encode = <Prost as Codec>::Encode;
    type Decode = <Prost as Codec>::Decode;
    type Encoder = <Prost as Codec>::Encoder;
    type Decoder = <Prost as Codec>::Decoder;

    fn encoder(&mut self) -> Self::Encoder {
        Prost::raw_encoder(BufferSettings::new(READING, MAX_READING))
    }

    fn decoder(&mut self) -> Self::Decoder {
        Prost::raw_decoder(BufferSettings::new(READING, MAX_READING))
    }
}

fn why(status: Status) -> String {
    match status.code() {
        Code::OutOfRange => format!("the reading is longer than {} KiB", MAX_READING / 1024),
        _ => cause(&status),
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
