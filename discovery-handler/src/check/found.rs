//! What is printed of a poll.

use std::{
    collections::BTreeMap,
    fmt,
    io::{self, StdoutLock, Write},
    time::Duration,
};

use akri_daemon::one_line;
use akri_discovery::{Device, Preview};
use serde::Serialize;
use x509_parser::{certificate::X509Certificate, prelude::FromDer};

use super::Output;
use crate::fetch::Head;

/// A poll that brought a list.
pub struct Polled {
    pub preview: Preview,
    pub head: Head,
    /// The body's, unpacked.
    pub bytes: usize,
    pub took: Duration,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Found {
    pub devices: Vec<FoundDevice>,
    message_bytes: usize,
    max_message_bytes: usize,
    collisions: Vec<[String; 2]>,
    poll_seconds: f64,
    reply: Reply,
}

#[derive(PartialEq, Serialize)]
pub struct FoundDevice {
    pub id: String,
    /// Not known where it is not shared, since the Agent hashes its node's name too.
    pub instance: Option<String>,
    properties: BTreeMap<String, String>,
}

/// What HTTP and TLS say of it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Reply {
    status: u16,
    http: String,
    bytes: usize,
    content_type: String,
    content_encoding: Option<String>,
    /// ETag or Last-Modified.
    validator: Option<String>,
    certificate: Option<Certificate>,
}

/// The server's, as it says itself. It has been found good.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Certificate {
    subject: String,
    issuer: String,
    not_after: String,
}

impl Found {
    pub fn new(name: &str, shared: bool, polled: Polled) -> Self {
        let device = |(device, hash): (Device, String)| FoundDevice {
            id: device.id,
            instance: shared.then(|| format!("{name}-{hash}")),
            properties: device.properties.into_iter().collect(),
        };
        let Preview {
            devices,
            message_bytes,
            collisions,
        } = polled.preview;
        let collisions = collisions.into_iter().map(|(_, ids)| ids);
        Self {
            devices: devices.into_iter().map(device).collect(),
            message_bytes,
            max_message_bytes: Preview::MAX_MESSAGE_BYTES,
            collisions: collisions.filter(|_| shared).collect(),
            poll_seconds: polled.took.as_secs_f64(),
            reply: Reply::of(&polled.head, polled.bytes),
        }
    }

    pub fn print(&self, output: Output) -> anyhow::Result<()> {
        let mut out = io::stdout().lock();
        match output {
            Output::Json => {
                serde_json::to_writer(&mut out, self)?;
                writeln!(out)?;
            }
            Output::Text => self.print_text(&mut out)?,
        }
        Ok(())
    }

    fn print_text(&self, out: &mut StdoutLock<'_>) -> io::Result<()> {
        let took = self.poll_seconds * 1e3;
        let (count, bytes, most) = (
            self.devices.len(),
            self.message_bytes,
            self.max_message_bytes,
        );
        writeln!(
            out,
            "{count} devices after {took:.0} ms; the Agent gets {bytes} of at most {most} bytes"
        )?;
        writeln!(out, "{}", self.reply)?;
        for device in &self.devices {
            let instance = device.instance.as_deref().unwrap_or("one for each node");
            writeln!(out, "{instance}  {}", device.id.escape_debug())?;
            for (name, value) in &device.properties {
                writeln!(out, "    {name}={}", value.escape_debug())?;
            }
        }
        for [one, other] in &self.collisions {
            writeln!(
                out,
                "{one} and {other} have the same Instance: Akri shows only one of them"
            )?;
        }
        Ok(())
    }
}

impl Reply {
    fn of(head: &Head, bytes: usize) -> Self {
        let text = |bytes: &[u8]| one_line(&String::from_utf8_lossy(bytes));
        Self {
            status: head.status.as_u16(),
            http: format!("{:?}", head.version),
            bytes,
            content_type: one_line(&head.content_type),
            content_encoding: (head.encoding.as_ref()).map(|value| text(value.as_bytes())),
            validator: head.validator().map(|value| text(value.as_bytes())),
            certificate: head.certificate().and_then(Certificate::of),
        }
    }
}

impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            status,
            http,
            bytes,
            ..
        } = self;
        write!(f, "{http}, status {status}, {bytes} bytes")?;
        if !self.content_type.is_empty() {
            write!(f, " of {}", self.content_type)?;
        }
        if let Some(encoding) = &self.content_encoding {
            write!(f, ", came as {encoding}")?;
        }
        match &self.validator {
            Some(validator) => write!(f, ", may be asked for by {validator}")?,
            None => f.write_str(", neither ETag nor Last-Modified")?,
        }
        if let Some(Certificate {
            subject,
            issuer,
            not_after,
        }) = &self.certificate
        {
            write!(
                f,
                "; TLS certificate of {subject}, issued by {issuer}, good until {not_after}"
            )?;
        }
        Ok(())
    }
}

impl Certificate {
    /// `None` where it is not one, which TLS would not have let pass.
    fn of(der: &[u8]) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        let until = certificate.validity().not_after.to_datetime();
        Some(Self {
            subject: one_line(&certificate.subject().to_string()),
            issuer: one_line(&certificate.issuer().to_string()),
            not_after: until.date().to_string(),
        })
    }
}
