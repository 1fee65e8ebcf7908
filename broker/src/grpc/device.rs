//! The devices of a gRPC broker, and what a call names of them.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use akri_daemon::Outage;
use akri_device_http::{Endpoint, MAX_ENDPOINT_BYTES, Url};
use futures_util::FutureExt;
use prometheus_client::registry::Registry;
use tokio::sync::Semaphore;

use super::sensor::Sensor;
use crate::{
    metrics::{DeviceMetrics, Metrics},
    pod_devices::distinct,
    read::Reader,
};

/// A device of this broker.
pub(super) struct Device {
    /// How a call names it: the endpoint as it is shown, made [`distinct`].
    pub(super) name: Arc<str>,
    /// What is read at the endpoint itself.
    pub(super) itself: Arc<Sensor>,
    url: Url,
    reader: Reader,
    reads: Arc<Semaphore>,
    /// What is read at other paths, while somebody reads there.
    others: Mutex<HashMap<Url, Weak<Sensor>>>,
}

/// The devices at `endpoints`, in that order, each with at most `max_reads` reads at once.
pub(super) fn devices(
    endpoints: &[Endpoint],
    reader: &Reader,
    max_reads: usize,
    registry: &mut Registry,
) -> Vec<Device> {
    let names = distinct(endpoints.iter().map(Endpoint::to_string));
    let metrics = Metrics::new(registry, names.iter().cloned());
    let device = |((endpoint, name), metrics): ((&Endpoint, String), _)| {
        let (url, reads) = (endpoint.url(), Arc::new(Semaphore::new(max_reads)));
        let outage = Outage::new(module_path!(), &name);
        Device {
            name: name.into(),
            itself: sensor(url, reader, &reads, Some((outage, metrics))),
            url: url.clone(),
            reader: reader.clone(),
            reads,
            others: Mutex::default(),
        }
    };
    let devices = endpoints.iter().zip(names).zip(metrics.devices());
    devices.map(device).collect()
}

fn sensor(
    url: &Url,
    reader: &Reader,
    reads: &Arc<Semaphore>,
    told: Option<(Outage, DeviceMetrics)>,
) -> Arc<Sensor> {
    let at = Arc::new((reader.clone(), url.clone()));
    let read = move || {
        let at = at.clone();
        async move { at.0.read(&at.1).await }.boxed()
    };
    Arc::new(Sensor::new(Box::new(read), reads.clone(), told))
}

impl Device {
    /// What is read at `path`, which may have a query. `/` and nothing are the endpoint itself.
    ///
    /// # Errors
    /// The rule that the path breaks.
    pub(super) fn sensor(&self, path: &str) -> Result<Arc<Sensor>, &'static str> {
        if path.is_empty() || path == "/" {
            return Ok(self.itself.clone());
        }
        let url = on_host_of(&self.url, path)?;
        let mut others = self.others.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(sensor) = others.get(&url).and_then(Weak::upgrade) {
            return Ok(sensor);
        }
        // As many remain as are in use, whatever paths were asked for before.
        others.retain(|_, sensor| sensor.strong_count() > 0);
        let sensor = sensor(&url, &self.reader, &self.reads, None);
        others.insert(url, Arc::downgrade(&sensor));
        Ok(sensor)
    }
}

/// `path` on the scheme, host and port of `device`. It is never parsed as a URL, so it cannot name another host. A path
/// that an HTTP client would change before it asks for it is refused.
fn on_host_of(device: &Url, path: &str) -> Result<Url, &'static str> {
    let allowed =
        |byte: u8| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@/?%".contains(&byte);
    if path.len() > MAX_ENDPOINT_BYTES {
        return Err("must have at most 2048 bytes");
    }
    if !path.starts_with('/') {
        return Err("must begin with /");
    }
    if path.starts_with("//") {
        return Err("must not begin with //");
    }
    if !path.bytes().all(allowed) {
        return Err("must be percent-encoded");
    }
    let (path, query) = match path.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (path, None),
    };
    let mut url = device.clone();
    url.set_path(path);
    url.set_query(query);
    url.set_fragment(None);
    if url.path() != path {
        return Err("must not have a segment . or ..");
    }
    Ok(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(endpoints: &[&str]) -> Vec<Device> {
        let endpoints: Vec<Endpoint> = endpoints.iter().map(|text| text.parse().unwrap()).collect();
        let reader = Reader::new().unwrap();
        devices(&endpoints, &reader, 1, &mut Registry::default())
    }

    #[test]
    fn a_path_stays_on_the_devices_scheme_host_and_port() {
        let device = Url::parse("https://user:pass@device:8443/a/b?token=x").unwrap();
        for (path, url) in [
            ("/sensor", "https://user:pass@device:8443/sensor"),
            (
                "/sensor?unit=C&x=/?",
                "https://user:pass@device:8443/sensor?unit=C&x=/?",
            ),
            ("/?all", "https://user:pass@device:8443/?all"),
            (
                "/x:y@evil:80/",
                "https://user:pass@device:8443/x:y@evil:80/",
            ),
            ("/50%25", "https://user:pass@device:8443/50%25"),
            ("/a//b", "https://user:pass@device:8443/a//b"),
            (
                "/go?to=http://evil",
                "https://user:pass@device:8443/go?to=http://evil",
            ),
        ] {
            assert_eq!(on_host_of(&device, path).unwrap().as_str(), url);
        }
    }

    #[test]
    fn a_path_that_could_leave_the_device_is_refused() {
        let device = Url::parse("http://device/").unwrap();
        let long = format!("/{}", "x".repeat(2048));
        for (path, rule) in [
            ("sensor", "must begin with /"),
            ("@evil", "must begin with /"),
            (":81/", "must begin with /"),
            ("?x", "must begin with /"),
            ("http://evil/", "must begin with /"),
            ("http://device/", "must begin with /"),
            ("//evil", "//"),
            ("//evil/../x", "//"),
            ("/\\evil", "percent-encoded"),
            ("/a b", "percent-encoded"),
            ("/a\r\nHost: evil", "percent-encoded"),
            ("/a\0", "percent-encoded"),
            ("/a#b", "percent-encoded"),
            ("/ä", "percent-encoded"),
            ("/..", ". or .."),
            ("/../../etc/passwd", ". or .."),
            ("/a/../b", ". or .."),
            ("/a/./b", ". or .."),
            ("/a/%2e%2E/b", ". or .."),
            ("/.%2e//evil", ". or .."),
            (&*long, "2048 bytes"),
        ] {
            let refused = on_host_of(&device, path).unwrap_err();
            assert!(refused.contains(rule), "{path:?}: {refused}");
        }
    }

    #[test]
    fn each_device_has_a_name_of_its_own_without_secrets() {
        let devices = held(&["a:1", "b:1?token=x", "b:1?token=y", "http://u:p@c", "b:1"]);
        let names: Vec<&str> = devices.iter().map(|device| &*device.name).collect();
        assert_eq!(names, ["a:1", "b:1", "b:1#2", "http://c", "b:1#3"]);
    }

    #[test]
    fn a_path_is_one_sensor_while_it_is_used() {
        let devices = held(&["a:1/own"]);
        let device = &devices[0];
        for itself in ["", "/"] {
            assert!(Arc::ptr_eq(&device.sensor(itself).unwrap(), &device.itself));
        }
        let sensor = device.sensor("/x").unwrap();
        assert!(Arc::ptr_eq(&sensor, &device.sensor("/x").unwrap()));
        for n in 0..100 {
            drop(device.sensor(&format!("/{n}")).unwrap());
        }
        assert!(device.others.lock().unwrap().len() <= 2);
        assert!(Arc::ptr_eq(&sensor, &device.sensor("/x").unwrap()));
    }
}
