//! A discovery handler that is *asked*: what a DNS server lists under `_http._tcp` of a domain (DNS-SD, RFC 6763).
//!
//! `discoveryDetails` are the domain. A broker gets `AKRI_HTTP_DEVICE_ENDPOINT`, which this project's brokers read, and a
//! `TXT_key` of each pair `key=value` of the TXT record. Answers hold for their TTL, as DNS has it.

use std::process::ExitCode;

use akri_discovery::{Device, DiscoveryHandler, Found, Properties, run, start};
use anyhow::{Context, Result};
use hickory_resolver::{TokioResolver, proto::rr};
use rr::{Name, RecordData, RecordType, rdata};

/// The handler; its resolver knows the DNS servers.
pub struct DnsSd(pub TokioResolver);

#[async_trait::async_trait]
impl DiscoveryHandler for DnsSd {
    /// `_http._tcp` of the domain.
    type Request = Name;

    fn request(&self, details: &str, _: &Properties) -> Result<Name> {
        let services = format!("_http._tcp.{}.", details.trim_end_matches('.'));
        Name::from_utf8(services).context("discoveryDetails must be a domain, such as example.com")
    }

    async fn discover(&self, services: &Name, found: &Found<'_>) -> Result<()> {
        let mut devices = Vec::new();
        for rdata::PTR(service) in records(&self.0, services, RecordType::PTR).await? {
            let servers = records(&self.0, &service, RecordType::SRV).await?;
            let texts = records(&self.0, &service, RecordType::TXT).await?;
            devices.extend(device(service, servers, &texts));
        }
        found.all(devices)
    }
}

/// In one order, whatever the server's. That there are none is no error, unlike a server that cannot say.
async fn records<T: RecordData>(dns: &TokioResolver, of: &Name, is: RecordType) -> Result<Vec<T>> {
    let mut answers = match dns.lookup(of.clone(), is).await {
        Ok(found) => found.answers().to_vec(),
        Err(error) if error.is_no_records_found() => Vec::new(),
        Err(error) => return Err(error).context(format!("looking up {is} of {of}")),
    };
    answers.sort_by_key(|it| it.data.to_string());
    let records = answers.iter().map(|it| T::try_borrow(&it.data).cloned());
    Ok(records.flatten().collect())
}

/// None where the service has just gone, or says that it has no server, by the root as its target.
fn device(service: Name, servers: Vec<rdata::SRV>, texts: &[rdata::TXT]) -> Option<Device> {
    let servers = servers.into_iter().filter(|srv| !srv.target.is_root());
    let rdata::SRV { target, port, .. } = servers.min_by_key(|srv| srv.priority)?;
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
