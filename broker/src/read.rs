//! One bounded read of one device.

use std::{
    error::Error,
    fmt, io,
    time::{Duration, SystemTime},
};

use anyhow::Context;
use reqwest::{Client, ClientBuilder, Response, StatusCode, Url, header::CONTENT_TYPE, redirect};
use rustls::CertificateError;

use crate::one_line;

/// The time that a read may take, from the look-up of the name to the last byte of the body.
pub const TIMEOUT: Duration = Duration::from_secs(5);

/// The largest body that is read.
pub const MAX_BODY_BYTES: usize = 1024 * 1024;

/// How many redirects are followed. They may not leave the device's host: a device must not make its
/// broker read what only the broker can reach.
pub const MAX_REDIRECTS: usize = 5;

/// What a device answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reading {
    /// The body, whole and unchanged.
    pub value: String,
    /// The Content-Type as [`one_line`]; empty where there is none, or none that is ASCII.
    pub content_type: String,
    /// When the whole answer was there.
    pub read_at: SystemTime,
}

/// Reads devices over HTTP, with one client that keeps connections alive.
#[derive(Clone, Debug)]
pub struct Reader {
    client: Client,
}

impl Reader {
    /// A reader that reaches devices directly: a proxy in the environment is not used. Where the
    /// system has no CA certificates, there is a warning, and no https device can be trusted.
    ///
    /// # Errors
    /// The HTTP client cannot be built.
    pub fn new() -> anyhow::Result<Self> {
        // It is an error when there is one already, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = builder().build().or_else(|error| {
            log::warn!("no https device can be trusted: {}", deepest(&error));
            builder().tls_certs_only([]).build()
        });
        Ok(Self {
            client: client.context("cannot build the HTTP client")?,
        })
    }

    /// What the device at `url` answers to a GET, within [`TIMEOUT`] and [`MAX_BODY_BYTES`]. Dropping
    /// the future gives the read up.
    ///
    /// # Errors
    /// Whatever keeps the device from giving a 2xx answer that is text.
    pub async fn read(&self, url: &Url) -> Result<Reading, ReadError> {
        let response = self
            .client
            .get(url.clone())
            .send()
            .await
            .map_err(ReadError::from)?;
        if !response.status().is_success() {
            return Err(ReadError::Status(response.status()));
        }
        let content_type = response
            .headers()
            .get(CONTENT_TYPE)
            .and_then(|value| value.to_str().ok())
            .map_or_else(String::new, one_line);
        let value = String::from_utf8(body(response).await?).map_err(|_| ReadError::NotText)?;
        Ok(Reading {
            value,
            content_type,
            read_at: SystemTime::now(),
        })
    }
}

fn builder() -> ClientBuilder {
    Client::builder()
        .user_agent(concat!("akri-http-broker/", env!("CARGO_PKG_VERSION")))
        .timeout(TIMEOUT)
        .no_proxy()
        .referer(false)
        .redirect(redirect::Policy::custom(|attempt| {
            let first = attempt.previous().first();
            if attempt.previous().len() > MAX_REDIRECTS {
                attempt.error(format!("more than {MAX_REDIRECTS} redirects"))
            } else if first.is_some_and(|first| first.host() != attempt.url().host()) {
                attempt.error("redirected to another host")
            } else {
                attempt.follow()
            }
        }))
}

/// The limit holds while reading: the length that a device announces need not be true.
async fn body(mut response: Response) -> Result<Vec<u8>, ReadError> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(ReadError::from)? {
        if body.len() + chunk.len() > MAX_BODY_BYTES {
            return Err(ReadError::TooLarge);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// Why a device could not be read. Shown in plain words, without the URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReadError {
    /// The answer was not complete within [`TIMEOUT`].
    TimedOut,
    /// No connection: unknown name, refused, no route, certificate not trusted.
    NoConnection(String),
    /// There was a connection, but no complete HTTP answer.
    NoAnswer(String),
    /// The device redirects elsewhere, or on and on.
    Redirect(String),
    /// The answer is not 2xx.
    Status(StatusCode),
    /// The body has more than [`MAX_BODY_BYTES`].
    TooLarge,
    /// The body is not UTF-8.
    NotText,
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TimedOut => write!(f, "no complete answer within {TIMEOUT:?}"),
            Self::NoConnection(cause) => write!(f, "cannot connect: {cause}"),
            Self::NoAnswer(cause) => write!(f, "no complete answer: {cause}"),
            Self::Redirect(cause) => write!(f, "redirect not followed: {cause}"),
            Self::Status(status) => write!(f, "answered {status}"),
            Self::TooLarge => write!(f, "the answer has more than {MAX_BODY_BYTES} bytes"),
            Self::NotText => write!(f, "the answer is not text (not UTF-8)"),
        }
    }
}

impl Error for ReadError {}

impl From<reqwest::Error> for ReadError {
    fn from(error: reqwest::Error) -> Self {
        let cause = deepest(&error);
        if error.is_timeout() {
            Self::TimedOut
        } else if error.is_redirect() {
            Self::Redirect(cause)
        } else if error.is_connect() {
            Self::NoConnection(cause)
        } else {
            Self::NoAnswer(cause)
        }
    }
}

/// The innermost error says what happened ("Connection refused"); those around it name layers, and
/// the outermost the URL.
pub(crate) fn deepest(error: &(dyn Error + 'static)) -> String {
    let mut deepest = error;
    while let Some(source) = deepest.source() {
        deepest = source;
    }
    // An io::Error passes over the error that it wraps, and they may be nested.
    while let Some(wrapped) = deepest
        .downcast_ref::<io::Error>()
        .and_then(io::Error::get_ref)
    {
        deepest = wrapped;
    }
    match deepest.downcast_ref::<rustls::Error>() {
        // In rustls' words these hold the current time, and would be a new cause with each read.
        Some(rustls::Error::InvalidCertificate(CertificateError::ExpiredContext { .. })) => {
            "the certificate has expired".to_owned()
        }
        Some(rustls::Error::InvalidCertificate(CertificateError::NotValidYetContext {
            ..
        })) => "the certificate is not valid yet".to_owned(),
        _ => one_line(&deepest.to_string()),
    }
}
