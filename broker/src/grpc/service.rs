//! `http.DeviceService`: calls turned into reads, outcomes into answers.

use std::{future::ready, pin::Pin, sync::Arc, time::Duration};

use akri_daemon::{Close, one_line};
use akri_proto::http::{
    self, ListDevicesRequest, ListDevicesResponse, ReadSensorRequest, ReadSensorResponse,
    WatchSensorRequest, WatchSensorResponse, device_service_server::DeviceService,
    watch_sensor_response,
};
use async_trait::async_trait;
use futures_util::{Stream, StreamExt};
use prometheus_client::registry::Registry;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::{Request, Response, Status};

use super::{
    device::Device,
    sensor::{Failure, Outcome, Sensor},
    untaken::{Kept, Untaken},
    watch::{Wanted, watch},
};
use crate::{interval::INTERVALS, metrics::Taken};

/// How many calls may be under way at once, watches aside.
pub const CALLS: usize = 512;

/// How many watches may be open at once.
pub const WATCHES: usize = 512;

/// The interval of a watch that does not set one.
const DEFAULT_INTERVAL: Duration = Duration::from_secs(10);

/// Answers the calls.
pub(super) struct Service {
    devices: Vec<Device>,
    min_interval: Duration,
    calls: Arc<Semaphore>,
    watches: Arc<Semaphore>,
    untaken: Untaken,
}

impl Service {
    /// Serves `devices`, in this order; a call that names none means the first.
    pub(super) fn new(
        devices: Vec<Device>,
        min_interval: Duration,
        registry: &mut Registry,
    ) -> Self {
        let mut permits = |of, name, help| {
            let permits = Arc::new(Semaphore::new(of));
            let taken = Taken {
                permits: permits.clone(),
                of,
            };
            registry.register(name, help, taken);
            permits
        };
        Self {
            devices,
            min_interval,
            calls: permits(CALLS, "open_calls", "Calls under way, watches aside"),
            watches: permits(WATCHES, "watches", "Watches that are open"),
            untaken: Untaken::default(),
        }
    }

    fn sensor(&self, endpoint: &str, name: &str) -> Result<(&Device, Arc<Sensor>), Status> {
        let device = match endpoint {
            "" => self.devices.first(),
            name => self.devices.iter().find(|device| *device.name == *name),
        };
        let device = device.ok_or_else(|| {
            Status::not_found(format!("this broker has no device {}", one_line(endpoint)))
        })?;
        let sensor = device.sensor(name).map_err(|rule| invalid("name", rule))?;
        Ok((device, sensor))
    }

    fn wanted(&self, request: &WatchSensorRequest) -> Result<Wanted, Status> {
        let interval = match request.interval {
            Some(interval) => Duration::try_from(interval)
                .ok()
                .filter(|interval| interval <= INTERVALS.end())
                .ok_or_else(|| invalid("interval", "must be from 0s to 24h"))?,
            None => DEFAULT_INTERVAL,
        };
        let valid = |min_change: f64| min_change.is_finite() && min_change >= 0.0;
        if !request.min_change.is_none_or(valid) {
            return Err(invalid("min_change", "must be a finite number from 0"));
        }
        Ok(Wanted {
            interval: interval.max(self.min_interval),
            min_change: request.min_change,
            min_interval: self.min_interval,
        })
    }
}

#[async_trait]
impl DeviceService for Service {
    async fn read_sensor(
        &self,
        request: Request<ReadSensorRequest>,
    ) -> Result<Response<ReadSensorResponse>, Status> {
        let _permit = permit(&self.calls, "calls")?;
        let (connection, kept): (Close, Kept) = (extension(&request), extension(&request));
        let request = request.into_inner();
        let (device, sensor) = self.sensor(&request.endpoint, &request.name)?;
        let outcome = sensor.read().await;
        kept.keep(self.untaken.hold(size(&outcome), &connection)?);
        reading(&outcome, &device.name).map(Response::new)
    }

    type WatchSensorStream =
        Pin<Box<dyn Stream<Item = Result<WatchSensorResponse, Status>> + Send>>;

    async fn watch_sensor(
        &self,
        request: Request<WatchSensorRequest>,
    ) -> Result<Response<Self::WatchSensorStream>, Status> {
        let permit = permit(&self.watches, "watches")?;
        let connection: Close = extension(&request);
        let request = request.into_inner();
        let (device, sensor) = self.sensor(&request.endpoint, &request.name)?;
        let (name, wanted) = (device.name.clone(), self.wanted(&request)?);
        let untaken = self.untaken.clone();
        // The next message is asked for while one is still on its way.
        let mut held = [None, None];
        let outcomes = watch(sensor, wanted).filter_map(move |outcome| {
            // The stream holds it to its end.
            let _permit = &permit;
            held.swap(0, 1);
            let [_, newest] = &mut held;
            *newest = None;
            // Without room this reading is missed, as slow watchers miss some.
            let room = untaken.hold(size(&outcome), &connection).ok();
            let message = room.map(|room| {
                *newest = Some(room);
                message(&outcome, &name)
            });
            ready(message)
        });
        Ok(Response::new(Box::pin(outcomes)))
    }

    async fn list_devices(
        &self,
        _: Request<ListDevicesRequest>,
    ) -> Result<Response<ListDevicesResponse>, Status> {
        let _permit = permit(&self.calls, "calls")?;
        let state = |device: &Device| {
            let newest = device.itself.newest();
            let newest = newest.as_deref();
            let failed = newest.and_then(|newest| newest.result.as_ref().err());
            http::Device {
                endpoint: device.name.to_string(),
                read_at: newest.and_then(|newest| newest.read_at).map(Into::into),
                failure: failed.map(failure),
            }
        };
        Ok(Response::new(ListDevicesResponse {
            devices: self.devices.iter().map(state).collect(),
        }))
    }
}

fn permit(of: &Arc<Semaphore>, what: &str) -> Result<OwnedSemaphorePermit, Status> {
    let full = |_| Status::resource_exhausted(format!("too many {what} are open; try again later"));
    of.clone().try_acquire_owned().map_err(full)
}

/// What those around us put into each request.
fn extension<T, E: Clone + Default + Send + Sync + 'static>(request: &Request<T>) -> E {
    request.extensions().get().cloned().unwrap_or_default()
}

fn invalid(field: &str, rule: &str) -> Status {
    Status::invalid_argument(format!("{field} {rule}"))
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
        number: reading.number(),
    })
}

fn message(outcome: &Outcome, device: &str) -> Result<WatchSensorResponse, Status> {
    let outcome = match &outcome.result {
        Ok(_) => watch_sensor_response::Outcome::Reading(reading(outcome, device)?),
        Err(cause) => watch_sensor_response::Outcome::Failure(failure(cause)),
    };
    Ok(WatchSensorResponse {
        outcome: Some(outcome),
    })
}

/// Of the value, in bytes.
fn size(outcome: &Outcome) -> usize {
    let reading = outcome.result.as_ref();
    reading.map_or(0, |reading| reading.value.len())
}

fn failure(failure: &Failure) -> http::Failure {
    http::Failure {
        code: failure.code as i32,
        message: failure.message.clone(),
        since: Some(failure.since.into()),
    }
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;
    use crate::{grpc::device::devices, read::Reader};

    fn service() -> Service {
        // Nothing listens there.
        let endpoint = "127.0.0.1:1".parse().unwrap();
        let registry = &mut Registry::default();
        let devices = devices(&[endpoint], &Reader::new().unwrap(), 1, registry);
        Service::new(devices, Duration::from_secs(1), registry)
    }

    #[test]
    fn an_interval_is_never_shorter_than_the_minimum_and_10_s_by_default() {
        for (asked, interval) in [
            (Some(Duration::ZERO), 1),
            (Some(Duration::from_millis(999)), 1),
            (Some(Duration::from_secs(2)), 2),
            (None, 10),
        ] {
            let request = WatchSensorRequest {
                interval: asked.map(|asked| asked.try_into().unwrap()),
                ..Default::default()
            };
            let wanted = service().wanted(&request).unwrap();
            assert_eq!(wanted.interval, Duration::from_secs(interval));
        }
    }

    #[tokio::test]
    async fn a_call_and_a_watch_each_take_one_permit_and_give_it_back() {
        let service = service();
        let read = || service.read_sensor(Request::new(ReadSensorRequest::default()));
        assert_eq!(read().await.unwrap_err().code(), Code::Unavailable);
        assert_eq!(service.calls.available_permits(), CALLS);
        let all = service.calls.clone().try_acquire_many_owned(CALLS as u32);
        assert_eq!(read().await.unwrap_err().code(), Code::ResourceExhausted);
        let list = service
            .list_devices(Request::new(ListDevicesRequest {}))
            .await;
        assert_eq!(list.unwrap_err().code(), Code::ResourceExhausted);

        // With no call left, a watch can still begin.
        let watch = || service.watch_sensor(Request::new(WatchSensorRequest::default()));
        let stream = watch().await.unwrap();
        assert_eq!(service.watches.available_permits(), WATCHES - 1);
        drop((all, stream));
        assert_eq!(service.watches.available_permits(), WATCHES);
        let _all = service
            .watches
            .clone()
            .try_acquire_many_owned(WATCHES as u32);
        let refused = watch().await.map(drop).unwrap_err();
        assert_eq!(refused.code(), Code::ResourceExhausted);
        assert_eq!(read().await.unwrap_err().code(), Code::Unavailable);
    }
}
