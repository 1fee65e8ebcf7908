//! `http.DeviceService`: calls turned into reads, outcomes into answers.

use std::{pin::Pin, time::Duration};

use akri_http_proto::http::{
    self, ListDevicesRequest, ListDevicesResponse, ReadSensorRequest, ReadSensorResponse,
    WatchSensorRequest, WatchSensorResponse, device_service_server::DeviceService,
    watch_sensor_response,
};
use async_trait::async_trait;
use futures_util::{Stream, StreamExt};
use tonic::{Request, Response, Status};

use crate::{
    devices::Device,
    number, one_line,
    sensor::{Failure, Outcome},
    standalone::INTERVALS,
    watch::{Wanted, watch},
};

/// The interval of a watch that asks for none.
const DEFAULT_INTERVAL: Duration = Duration::from_secs(10);

/// Answers the calls.
#[derive(Debug)]
pub struct Service {
    /// What [`DeviceService::list_devices`] lists, in its order; the first is what a call means that names none.
    pub devices: Vec<Device>,
    /// The shortest interval of a watch.
    pub min_interval: Duration,
    /// Whether calls share a read that is under way.
    pub shared_reads: bool,
}

impl Service {
    fn device(&self, name: &str) -> Result<&Device, Status> {
        match name {
            "" => self.devices.first(),
            name => self.devices.iter().find(|device| *device.name == *name),
        }
        .ok_or_else(|| Status::not_found(format!("this broker holds no device {}", one_line(name))))
    }
}

#[async_trait]
impl DeviceService for Service {
    async fn read_sensor(
        &self,
        request: Request<ReadSensorRequest>,
    ) -> Result<Response<ReadSensorResponse>, Status> {
        let request = request.into_inner();
        let device = self.device(&request.endpoint)?;
        let sensor = device.sensor(&request.name).map_err(bad("name"))?;
        let outcome = if self.shared_reads {
            sensor.shared_read().await
        } else {
            sensor.own_read().await
        };
        reading(&outcome, &device.name).map(Response::new)
    }

    type WatchSensorStream =
        Pin<Box<dyn Stream<Item = Result<WatchSensorResponse, Status>> + Send>>;

    async fn watch_sensor(
        &self,
        request: Request<WatchSensorRequest>,
    ) -> Result<Response<Self::WatchSensorStream>, Status> {
        let request = request.into_inner();
        let device = self.device(&request.endpoint)?;
        let sensor = device.sensor(&request.name).map_err(bad("name"))?;
        let interval = match request.interval {
            Some(interval) => Duration::try_from(interval)
                .ok()
                .filter(|interval| interval <= INTERVALS.end())
                .ok_or_else(|| bad("interval")("expected a duration from 0s to 24h"))?,
            None => DEFAULT_INTERVAL,
        };
        if let Some(min_change) = request.min_change
            && !(min_change.is_finite() && min_change >= 0.0)
        {
            return Err(bad("min_change")("expected a number from 0 on"));
        }
        let wanted = Wanted {
            interval: interval.max(self.min_interval),
            min_change: request.min_change,
            first_age: self.min_interval,
        };
        let name = device.name.clone();
        let outcomes = watch(sensor, wanted).map(move |outcome| {
            let outcome = match &outcome.result {
                Ok(_) => watch_sensor_response::Outcome::Reading(reading(&outcome, &name)?),
                Err(cause) => watch_sensor_response::Outcome::Failure(failure(cause)),
            };
            Ok(WatchSensorResponse {
                outcome: Some(outcome),
            })
        });
        Ok(Response::new(Box::pin(outcomes)))
    }

    async fn list_devices(
        &self,
        _: Request<ListDevicesRequest>,
    ) -> Result<Response<ListDevicesResponse>, Status> {
        let state = |device: &Device| {
            let newest = device.itself.newest();
            http::Device {
                endpoint: device.name.to_string(),
                read_at: newest
                    .as_ref()
                    .and_then(|newest| newest.read_at)
                    .map(Into::into),
                failure: newest
                    .as_ref()
                    .and_then(|newest| newest.result.as_ref().err())
                    .map(failure),
            }
        };
        Ok(Response::new(ListDevicesResponse {
            devices: self.devices.iter().map(state).collect(),
        }))
    }
}

fn bad(field: &'static str) -> impl Fn(&'static str) -> Status {
    move |rule| Status::invalid_argument(format!("{field}: {rule}"))
}

fn reading(outcome: &Outcome, device: &str) -> Result<ReadSensorResponse, Status> {
    let reading = outcome
        .result
        .as_ref()
        .map_err(|failure| Status::new(failure.code, format!("{device}: {}", failure.message)))?;
    Ok(ReadSensorResponse {
        value: reading.value.clone(),
        read_at: Some(reading.read_at.into()),
        content_type: reading.content_type.clone(),
        endpoint: device.to_owned(),
        number: number(&reading.value),
    })
}

fn failure(failure: &Failure) -> http::Failure {
    http::Failure {
        code: failure.code as i32,
        message: failure.message.clone(),
        since: Some(failure.since.into()),
    }
}
