//! What is printed of a poll.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    fmt,
    io::{self, ErrorKind, Write},
    time::Duration,
};

use akri_daemon::one_line;
use akri_discovery::{Device, Preview};
use serde::Serialize;
use x509_parser::{certificate::X509Certificate, prelude::FromDer};

use super::Output;
use crate::{fetch::Head, formats::ENDPOINT, shown_id};

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
            ..
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

    /// Where nobody reads any more, as with `| head`, that is no error.
    pub fn print(&self, output: Output) -> anyhow::Result<()> {
        let text = match output {
            Output::Json => serde_json::to_string(self)? + "\n",
            Output::Text => self.to_string(),
        };
        match io::stdout().lock().write_all(text.as_bytes()) {
            Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error.into()),
            _ => Ok(()),
        }
    }
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (count, took) = (self.devices.len(), self.poll_seconds * 1e3);
        let s = if count == 1 { "" } else { "s" };
        let (bytes, most) = (self.message_bytes, self.max_message_bytes);
        writeln!(
            f,
            "{count} device{s} after {took:.0} ms; the Agent gets {bytes} of at most {most} bytes"
        )?;
        writeln!(f, "{}", self.reply)?;
        for device in &self.devices {
            let instance = device.instance.as_deref().unwrap_or("one for each node");
            writeln!(f, "{instance}  {}", shown_id(&device.id))?;
            for (name, value) in &device.properties {
                let value = match name.as_str() {
                    ENDPOINT => shown_id(value),
                    _ => Cow::Owned(value.escape_debug().to_string()),
                };
                writeln!(f, "    {name}={value}")?;
            }
        }
        for [one, other] in &self.collisions {
            let (one, other) = (shown_id(one), shown_id(other));
            writeln!(
                f,
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
