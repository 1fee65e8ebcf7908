//! One GET of the discovery service, bounded in every direction. Knows HTTP, and neither lists nor timers.

use std::{
    error::Error,
    fmt, io,
    sync::Once,
    time::{Duration, Instant},
};

use anyhow::Context;
use bytes::Bytes;
use log::warn;
use reqwest::{
    Client, Response, StatusCode, Url, Version,
    header::{ACCEPT, CONTENT_LENGTH, HeaderMap, HeaderValue, TRANSFER_ENCODING},
    redirect::Policy,
};
use rustls::CertificateError;

use crate::config::Config;

const USER_AGENT: &str = concat!("akri-http-discovery-handler/", env!("CARGO_PKG_VERSION"));

/// The process's one HTTP client; it keeps connections alive between polls.
pub struct Fetcher {
    client: Client,
    max_body: usize,
    max_redirects: usize,
    connect_timeout: Duration,
}

/// Why there is no list: every kind of it leaves the last list standing.
#[derive(Debug, PartialEq, Eq)]
pub enum FetchError {
    /// The service answered, and not with a 2xx.
    Status(StatusCode),
    /// A body over the limit, in bytes.
    BodyTooLarge(usize),
    /// A body that tells no length and does not end with a line feed.
    PerhapsCut,
    /// Anything else between here and the service, in plain words.
    Failed(String),
}

impl fmt::Display for FetchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // The one 2xx that says of itself that something is missing.
            Self::Status(StatusCode::PARTIAL_CONTENT) => {
                f.write_str("the service answered 206 Partial Content, which is not the whole list")
            }
            Self::Status(status) => write!(f, "the service answered {status}, not 2xx"),
            Self::BodyTooLarge(limit) => write!(f, "the reply is longer than {limit} bytes"),
            Self::PerhapsCut => f.write_str(
                "the reply tells no length and does not end with a line feed: it may have been cut",
            ),
            Self::Failed(why) => f.write_str(why),
        }
    }
}

impl Error for FetchError {}

impl Fetcher {
    /// Builds the client from the limits in `config`.
    ///
    /// # Errors
    /// When TLS cannot be set up. A system without CA certificates is no error: http works, and a warning says that https will not.
    pub fn new(config: &Config) -> anyhow::Result<Self> {
        static PROVIDER: Once = Once::new();
        // Fails only when the process has a provider already, and then that one is used.
        PROVIDER.call_once(|| drop(rustls::crypto::ring::default_provider().install_default()));
        let builder = || {
            Client::builder()
                .user_agent(USER_AGENT)
                .default_headers(HeaderMap::from_iter([(
                    ACCEPT,
                    HeaderValue::from_static("text/plain, */*;q=0.1"),
                )]))
                .connect_timeout(config.connect_timeout)
                // The discovery service is the cluster's; a proxy in the environment is for what lies beyond.
                .no_proxy()
                // A redirect must not carry the query string elsewhere.
                .referer(false)
                .redirect(Policy::limited(config.max_redirects))
        };
        let client = builder().build().or_else(|error| {
            warn!("https cannot be used, http can: {}", deepest(&error));
            builder().tls_certs_only([]).build()
        });
        Ok(Self {
            client: client.context("setting up the HTTP client")?,
            max_body: config.max_body_bytes,
            max_redirects: config.max_redirects,
            connect_timeout: config.connect_timeout,
        })
    }

    /// Asks for the list. `timeout` is for the whole request, the last byte of the body included.
    /// Dropping the future or the reply closes the connection if anything is still to come.
    ///
    /// # Errors
    /// See [`FetchError`].
    pub async fn get(&self, url: &Url, timeout: Duration) -> Result<Reply<'_>, FetchError> {
        let started = Instant::now();
        let send = |timeout| self.client.get(url.clone()).timeout(timeout).send();
        let response = match send(timeout).await {
            // The service may close a kept connection in the very moment we use it: that is no outage.
            Err(error) if closed_unanswered(&error) => {
                send(timeout.saturating_sub(started.elapsed())).await
            }
            response => response,
        };
        let response = response.map_err(|error| self.failed(error, timeout))?;
        let status = response.status();
        if !status.is_success() || status == StatusCode::PARTIAL_CONTENT {
            return Err(FetchError::Status(status));
        }
        let headers = response.headers();
        let ends_by_closing = response.version() < Version::HTTP_2
            && status != StatusCode::NO_CONTENT
            && !headers.contains_key(CONTENT_LENGTH)
            && !headers.contains_key(TRANSFER_ENCODING);
        let announced = response.content_length().unwrap_or(0);
        if announced > self.max_body as u64 {
            return Err(FetchError::BodyTooLarge(self.max_body));
        }
        Ok(Reply {
            fetcher: self,
            response,
            timeout,
            left: self.max_body,
            ends_by_closing,
            last: None,
        })
    }

    fn failed(&self, error: reqwest::Error, timeout: Duration) -> FetchError {
        FetchError::Failed(if error.is_timeout() && error.is_connect() {
            let within = timeout.min(self.connect_timeout);
            format!(
                "no connection within {}",
                humantime::format_duration(within)
            )
        } else if error.is_timeout() {
            let within = humantime::format_duration(timeout);
            format!("no complete reply within {within}")
        } else if error.is_redirect() {
            let max = self.max_redirects;
            format!("more than {max} redirects, or one that cannot be followed")
        } else if error.is_connect() {
            format!("cannot connect: {}", deepest(&error))
        } else {
            format!("no complete reply: {}", deepest(&error))
        })
    }
}

/// A 2xx reply whose body is read as it comes.
pub struct Reply<'a> {
    fetcher: &'a Fetcher,
    response: Response,
    timeout: Duration,
    left: usize,
    /// It tells its length in no other way, so that one that is cut looks whole.
    ends_by_closing: bool,
    last: Option<u8>,
}

impl Reply<'_> {
    /// The next bytes of the body, `None` at its proper end.
    ///
    /// # Errors
    /// When the body breaks off, is too slow or too long.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, FetchError> {
        let chunk = self.response.chunk().await;
        let chunk = chunk.map_err(|error| self.fetcher.failed(error, self.timeout))?;
        if let Some(chunk) = &chunk {
            let too_large = FetchError::BodyTooLarge(self.fetcher.max_body);
            self.left = self.left.checked_sub(chunk.len()).ok_or(too_large)?;
            self.last = chunk.last().copied().or(self.last);
        } else if self.ends_by_closing && self.last != Some(b'\n') {
            return Err(FetchError::PerhapsCut);
        }
        Ok(chunk)
    }
}

/// Whether the connection ended before any answer came.
fn closed_unanswered(error: &reqwest::Error) -> bool {
    std::iter::successors(Some(error as &(dyn Error + 'static)), |error| {
        wrapped(*error)
    })
    .any(|error| {
        let closed = |error: &io::Error| {
            matches!(
                error.kind(),
                io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe
            )
        };
        error.downcast_ref().is_some_and(closed)
            || error
                .downcast_ref()
                .is_some_and(hyper::Error::is_incomplete_message)
    })
}

/// The innermost cause says what happened; those around it name layers, and the outermost the URL with its password.
pub(crate) fn deepest(error: &(dyn Error + 'static)) -> String {
    let mut deepest = error;
    while let Some(cause) = wrapped(deepest) {
        deepest = cause;
    }
    certificate_dates(deepest).map_or_else(|| deepest.to_string(), String::from)
}

/// An `io::Error` passes over the error that it wraps when it is asked for its source.
fn wrapped<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a (dyn Error + 'static)> {
    match error
        .downcast_ref::<io::Error>()
        .and_then(io::Error::get_ref)
    {
        Some(inner) => Some(inner),
        None => error.source(),
    }
}

/// In rustls' words the time of day is part of it, so that each poll would seem to fail for another cause.
fn certificate_dates(error: &(dyn Error + 'static)) -> Option<&'static str> {
    match error.downcast_ref()? {
        rustls::Error::InvalidCertificate(CertificateError::ExpiredContext { .. }) => {
            Some("the certificate has expired")
        }
        rustls::Error::InvalidCertificate(CertificateError::NotValidYetContext { .. }) => {
            Some("the certificate is not valid yet")
        }
        _ => None,
    }
}
