//! What can go wrong with a GET, in plain words and without the URL.

use std::{error::Error, fmt, io, time::Duration};

use akri_daemon::{causes, innermost, one_line};
use reqwest::StatusCode;
use rustls::CertificateError;

use crate::client::MAX_REDIRECTS;

/// Why there is no reply that can be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HttpError {
    /// The reply was not complete within this time.
    TimedOut(Duration),
    /// No connection: unknown name, refused, no route, certificate not trusted.
    NoConnection(String),
    /// The process's own credentials cannot be read, and why.
    Credentials(String),
    /// There was a connection, but no complete HTTP reply.
    NoReply(String),
    /// A redirect that is not followed, and why.
    Redirect(String),
    /// The status is not 2xx, or it is 206.
    Status(StatusCode),
    /// The body is longer than this, in bytes.
    TooLarge(usize),
    /// The reply has neither a length nor a line feed at its end, so that nobody can tell whether it is whole.
    PerhapsCut,
}

impl fmt::Display for HttpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TimedOut(timeout) => write!(f, "no complete reply within {timeout:?}"),
            Self::NoConnection(cause) => write!(f, "cannot connect: {cause}"),
            Self::Credentials(cause) => write!(f, "no credentials: {cause}"),
            Self::NoReply(cause) => write!(f, "no complete reply: {cause}"),
            Self::Redirect(cause) => write!(f, "redirect not followed: {cause}"),
            Self::Status(status) => write!(f, "answered {status}"),
            Self::TooLarge(limit) => write!(f, "the reply is longer than {limit} bytes"),
            Self::PerhapsCut => f.write_str(
                "the reply may be truncated: it has no Content-Length and does not end with a line feed",
            ),
        }
    }
}

impl Error for HttpError {}

impl HttpError {
    pub(crate) fn new(error: &reqwest::Error, timeout: Duration) -> Self {
        if error.is_timeout() && error.is_connect() {
            Self::NoConnection("it took too long".into())
        } else if error.is_timeout() {
            Self::TimedOut(timeout)
        } else if error.is_redirect() {
            let cause = innermost(error).to_string();
            Self::Redirect(match cause.as_str() {
                "too many redirects" => format!("more than {MAX_REDIRECTS} redirects"),
                _ => cause,
            })
        } else if error.is_connect() {
            Self::NoConnection(cause(error))
        } else {
            Self::NoReply(cause(error))
        }
    }
}

/// Whether the connection ended before any answer came.
pub(crate) fn closed_unanswered(error: &reqwest::Error) -> bool {
    let io_kind = |error: &io::Error| {
        matches!(
            error.kind(),
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe
        )
    };
    causes(error).any(|error| {
        error
            .downcast_ref::<hyper::Error>()
            .is_some_and(hyper::Error::is_incomplete_message)
            || error.downcast_ref::<io::Error>().is_some_and(io_kind)
    })
}

/// The innermost cause, in words that are the same each time.
pub(crate) fn cause(error: &(dyn Error + 'static)) -> String {
    let error = innermost(error);
    match error.downcast_ref::<rustls::Error>() {
        // In rustls' words these hold the time of day, so that each poll would seem to fail for another cause.
        Some(rustls::Error::InvalidCertificate(CertificateError::ExpiredContext { .. })) => {
            "the certificate has expired".to_owned()
        }
        Some(rustls::Error::InvalidCertificate(CertificateError::NotValidYetContext {
            ..
        })) => "the certificate is not valid yet".to_owned(),
        // As `openssl req -x509` makes it. webpki's own type would have to be a dependency.
        Some(rustls::Error::InvalidCertificate(CertificateError::Other(other)))
            if other.to_string() == "CaUsedAsEndEntity" =>
        {
            "the certificate is an authority's (CA:TRUE), and a server needs one with CA:FALSE"
                .to_owned()
        }
        _ => one_line(&error.to_string()),
    }
}
