//! One reading of one device.

use std::{
    error::Error,
    fmt,
    time::{Duration, SystemTime},
};

use akri_daemon::one_line;
use akri_device_http::{Client, CredentialFiles, HttpError, Redirects, Url, header::HeaderMap};

/// How long a read may take, from the look-up of the name to the last byte of the body.
pub const TIMEOUT: Duration = Duration::from_secs(5);

/// The largest body that is read, in bytes.
pub const MAX_BODY_BYTES: usize = 1024 * 1024;

/// What a device answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reading {
    /// The body, whole and unchanged.
    pub value: String,
    /// The Content-Type as one line of at most 256 characters; empty if there is none, or none that is ASCII.
    pub content_type: String,
    /// When the whole answer had arrived.
    pub read_at: SystemTime,
}

impl Reading {
    /// The value as a number, if it is a finite one. Blanks around it are ignored.
    pub(crate) fn number(&self) -> Option<f64> {
        let number = self.value.trim().parse().ok();
        number.filter(|number: &f64| number.is_finite())
    }
}

/// Reads devices. Clones share their connections, which stay open from one read to the next.
#[derive(Clone, Debug)]
pub struct Reader(Client);

impl Reader {
    /// A reader without credentials; see [`Reader::with`].
    ///
    /// # Errors
    /// The HTTP client cannot be set up.
    pub fn new() -> anyhow::Result<Self> {
        Self::with(CredentialFiles::default())
    }

    /// A reader that follows redirects only within a device's own scheme, host and port. It shows all devices the same
    /// credentials.
    ///
    /// # Errors
    /// As [`Client::new`].
    pub fn with(credentials: CredentialFiles) -> anyhow::Result<Self> {
        let user_agent = concat!("akri-http-broker/", env!("CARGO_PKG_VERSION"));
        Client::new(user_agent, Redirects::SameOrigin, credentials).map(Self)
    }

    /// Sends one GET to `url`, within [`TIMEOUT`] and [`MAX_BODY_BYTES`]. Dropping the future cancels the read.
    ///
    /// # Errors
    /// The device does not give a complete 2xx answer that is text.
    pub async fn read(&self, url: &Url) -> Result<Reading, ReadError> {
        let reply = self.0.get(url, HeaderMap::new(), TIMEOUT).await?;
        if !reply.encoding().is_empty() {
            let why = "it has a Content-Encoding, which nobody asked for";
            return Err(HttpError::NoReply(why.into()).into());
        }
        let content_type = one_line(reply.content_type());
        let body = reply.body(MAX_BODY_BYTES).await?;
        Ok(Reading {
            value: String::from_utf8(body).map_err(|_| ReadError::NotText)?,
            content_type,
            read_at: SystemTime::now(),
        })
    }
}

/// Why a device could not be read, in plain words and without the URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReadError {
    /// There is no usable answer.
    Http(HttpError),
    /// The body is not UTF-8.
    NotText,
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http(error) => error.fmt(f),
            Self::NotText => f.write_str("the reply is not text (UTF-8)"),
        }
    }
}

impl Error for ReadError {}

impl From<HttpError> for ReadError {
    fn from(error: HttpError) -> Self {
        Self::Http(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_finite_and_alone() {
        for (text, expected) in [
            ("0.5\n", Some(0.5)),
            (" -1e3 ", Some(-1000.0)),
            ("+7", Some(7.0)),
            ("", None),
            ("21.5 C", None),
            ("1,5", None),
            ("nan", None),
            ("inf", None),
            ("-Infinity", None),
            ("1e999", None),
            ("0x10", None),
        ] {
            let reading = Reading {
                value: text.to_owned(),
                content_type: String::new(),
                read_at: SystemTime::UNIX_EPOCH,
            };
            assert_eq!(reading.number(), expected, "{text:?}");
        }
    }
}
