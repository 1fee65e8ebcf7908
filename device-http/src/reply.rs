//! What a server answers.

use std::time::Duration;

use bytes::Bytes;
use reqwest::{
    Response, StatusCode, Url, Version,
    header::{
        CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderName, HeaderValue, TRANSFER_ENCODING,
    },
    tls::TlsInfo,
};

use crate::HttpError;

/// A 2xx reply, or 304, whose body is read as it comes.
pub struct Reply {
    response: Response,
    timeout: Duration,
    /// It tells its length in no other way, so that one that is cut looks whole.
    ends_by_closing: bool,
    redirected: bool,
    last: Option<u8>,
}

impl Reply {
    pub(crate) fn of(response: Response, asked: &Url, timeout: Duration) -> Self {
        let mut asked = asked.clone();
        // Of these a server sees nothing in the URL.
        let _ = (asked.set_username(""), asked.set_password(None));
        asked.set_fragment(None);
        Self {
            ends_by_closing: ends_by_closing(&response),
            redirected: *response.url() != asked,
            response,
            timeout,
            last: None,
        }
    }

    /// The same, for somebody who unpacks its body, and so finds out whether that is whole.
    #[must_use]
    pub fn to_unpack(mut self) -> Self {
        self.ends_by_closing = false;
        self
    }

    /// How the body is encoded, in lower case: all of Content-Encoding but `identity`; empty where it is as it is.
    pub fn encoding(&self) -> String {
        let values = self.response.headers().get_all(CONTENT_ENCODING).iter();
        let values: Vec<_> = values
            .map(|value| String::from_utf8_lossy(value.as_bytes()))
            .collect();
        let codings = values
            .iter()
            .flat_map(|value| value.split(','))
            .map(str::trim);
        let codings = codings.map(str::to_ascii_lowercase);
        let codings: Vec<_> = codings
            .filter(|it| !matches!(&**it, "" | "identity"))
            .collect();
        codings.join(", ")
    }

    /// Whether another URL than the one that was asked has answered.
    pub fn is_redirected(&self) -> bool {
        self.redirected
    }

    /// The Content-Type; empty where there is none, or none that is ASCII.
    pub fn content_type(&self) -> &str {
        let value = self.header(&CONTENT_TYPE);
        value
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
    }

    /// A header, the first of its name.
    pub fn header(&self, name: &HeaderName) -> Option<&HeaderValue> {
        self.response.headers().get(name)
    }

    /// The status: a 2xx, or 304.
    pub fn status(&self) -> StatusCode {
        self.response.status()
    }

    /// The version of HTTP.
    pub fn version(&self) -> Version {
        self.response.version()
    }

    /// Takes out the server's certificate; `None` where no TLS was spoken.
    pub fn take_tls(&mut self) -> Option<TlsInfo> {
        self.response.extensions_mut().remove()
    }

    /// How many bytes the body will have, where the server says so.
    pub fn announced(&self) -> Option<u64> {
        self.response.content_length()
    }

    /// The next bytes of the body, `None` at its proper end.
    ///
    /// # Errors
    /// The body breaks off, is too slow, or may have been cut.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, HttpError> {
        let chunk = self.response.chunk().await;
        let chunk = chunk.map_err(|error| HttpError::new(&error, self.timeout))?;
        if let Some(chunk) = &chunk {
            self.last = chunk.last().copied().or(self.last);
        } else if self.ends_by_closing && self.last != Some(b'\n') {
            return Err(HttpError::PerhapsCut);
        }
        Ok(chunk)
    }

    /// The whole body, of at most `limit` bytes: the length that a server announces need not be true.
    ///
    /// # Errors
    /// As [`Reply::chunk`], and [`HttpError::TooLarge`].
    pub async fn body(mut self, limit: usize) -> Result<Vec<u8>, HttpError> {
        let mut body = Vec::new();
        while let Some(chunk) = self.chunk().await? {
            if body.len() + chunk.len() > limit {
                return Err(HttpError::TooLarge(limit));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }
}

/// Whether nothing but the end of its connection tells where the body ends.
fn ends_by_closing(response: &Response) -> bool {
    let headers = response.headers();
    let is_chunked = |value: &HeaderValue| {
        let last = value
            .to_str()
            .ok()
            .and_then(|codings| codings.rsplit(',').next());
        last.is_some_and(|coding| coding.trim().eq_ignore_ascii_case("chunked"))
    };
    let has_length = match headers.get_all(TRANSFER_ENCODING).iter().next_back() {
        Some(codings) => is_chunked(codings),
        None => headers.contains_key(CONTENT_LENGTH),
    };
    let has_body = response.status().is_success() && response.status() != StatusCode::NO_CONTENT;
    has_body && !has_length && response.version() < Version::HTTP_2
}
