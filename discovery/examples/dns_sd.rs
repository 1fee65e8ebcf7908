//! A discovery handler that is *asked*: what a DNS server lists under `_http._tcp` of a domain (DNS-SD, RFC 6763).
//!
//! `discoveryDetails` are the domain. A broker gets `AKRI_HTTP_DEVICE_ENDPOINT`, which this project's brokers read, and a
//! `TXT_key` of each pair `key=value` of the TXT record. Answers hold for their TTL, as DNS has it.

use std::process::ExitCode;

use akri_discovery::{Device, DiscoveryHandler, Found, Properties, run, start};
use anyhow::Context;
use hickory_resolver::{TokioResolver, proto::rr};
use rr::{Name, RecordData, RecordType, rdata};

/// The handler; its resolver knows the DNS servers.
pub struct DnsSd(pub TokioResolver);

#[async_trait::async_trait]
impl DiscoveryHandler for DnsSd {
    /// `_http._tcp` of the domain.
    type Request = Name;

    fn request(&self, details: &str, _: &Properties) -> anyhow::Result<Name> {
        let services = format!("_http._tcp.{}.", details.trim_end_matches('.'));
        Name::from_utf8(services).context("discoveryDetails must be a domain, such as example.com")
    }

    async fn discover(&self, services: &Name, found: &Found<'_>) -> anyhow::Result<()> {
        let mut devices = Vec::new();
        for rdata::PTR(service) in self.records(services, RecordType::PTR).await? {
            let servers = self.records(&service, RecordType::SRV).await?;
            let texts = self.records(&service, RecordType::TXT).await?;
            devices.extend(device(service, &servers, &texts));
        }
        found.all(devices)
    }
}

impl DnsSd {
    /// That there are none is no error, unlike a server that cannot say.
    async fn records<T: RecordData>(&self, of: &Name, is: RecordType) -> anyhow::Result<Vec<T>> {
        let answers = match self.0.lookup(of.clone(), is).await {
            Ok(found) => found.answers().to_vec(),
            Err(error) if error.is_no_records_found() => Vec::new(),
            Err(error) => return Err(error).context(format!("looking up {is} of {of}")),
        };
        let records = answers.iter().map(|it| T::try_borrow(&it.data).cloned());
        Ok(records.flatten().collect())
    }
}

/// None where the service has just gone.
fn device(service: Name, servers: &[rdata::SRV], texts: &[rdata::TXT]) -> Option<Device> {
    // Answers have any order, and a device shall be the same each time.
    let rdata::SRV { target, port, .. } = servers.iter().min_by_key(|srv| srv.to_string())?;
    let endpoint = format!("http://{}:{port}", target.to_ascii().trim_end_matches('.'));
    let mut device = Device::new(service.to_ascii());
    // Of a key that is there twice, the first counts. The prefix keeps `PATH` and the like as they are.
    let pairs = texts.iter().flat_map(|txt| &txt.txt_data).rev();
    let pairs = pairs.filter_map(|pair| std::str::from_utf8(pair).ok()?.split_once('='));
    let pairs = pairs.map(|(key, value)| (format!("TXT_{key}"), value.to_owned()));
    device.properties.extend(pairs);
    Some(device.with_property("AKRI_HTTP_DEVICE_ENDPOINT", endpoint))
}

fn main() -> ExitCode {
    start("dns-sd", true, |(), settings, stop| async {
        let handler = DnsSd(TokioResolver::builder_tokio()?.build()?);
        run(handler, settings, stop).await
    })
}
