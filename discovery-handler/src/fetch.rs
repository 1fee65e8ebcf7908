//! One GET of the discovery service, and whether it brought the last reply again.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use akri_device_http::{
    Client, HttpError, Reply, StatusCode, TlsInfo, Version,
    header::{
        ACCEPT, ACCEPT_ENCODING, CONTENT_ENCODING, DATE, ETAG, HeaderMap, HeaderName, HeaderValue,
        IF_MODIFIED_SINCE, IF_NONE_MATCH, LAST_MODIFIED,
    },
};
use httpdate::parse_http_date;

use crate::{
    details::DiscoveryDetails,
    unpack::{ACCEPTED, Body},
};

/// The longest body that is kept for the next poll, in bytes. Only one that is mostly blanks is longer (rule 11).
const MAX_KEPT: usize = 4 * 1024 * 1024;

/// The longest ETag or Last-Modified that is sent back, in bytes.
const MAX_VALIDATOR: usize = 1024;

/// What a server of Prometheus' HTTP SD may want to know.
const REFRESH: HeaderName = HeaderName::from_static("x-prometheus-refresh-interval-seconds");

/// A header that asks for a reply only where it is another one.
type Condition = Option<(HeaderName, HeaderValue)>;

/// The body whose devices were taken last, none where it is too long to be kept, and how to ask for what is newer.
pub struct LastBody {
    body: Option<Vec<u8>>,
    /// Changes where the same body comes again and is called another one.
    condition: Mutex<Condition>,
}

impl LastBody {
    /// Keeps `body`, if it is not too long.
    pub fn of(mut body: Vec<u8>) -> Self {
        body.shrink_to_fit();
        Self {
            body: Some(body).filter(|body| body.len() <= MAX_KEPT),
            condition: Mutex::default(),
        }
    }

    fn condition(&self) -> Condition {
        (self
            .condition
            .lock()
            .unwrap_or_else(PoisonError::into_inner))
        .clone()
    }

    fn set(&self, condition: Condition) {
        *self
            .condition
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = condition;
    }
}

/// A reply that is not the last one.
pub struct Fetched {
    /// All of it, unpacked.
    pub body: Vec<u8>,
    /// What came before it.
    pub head: Head,
}

/// What a reply says before its body.
pub struct Head {
    /// 200, or 204: an empty list in any format.
    pub status: StatusCode,
    /// Of HTTP.
    pub version: Version,
    /// Its Content-Type; empty where there is none.
    pub content_type: String,
    /// How its body was compressed, if it was.
    pub encoding: Option<HeaderValue>,
    /// Its ETag or its Last-Modified, if the next poll sends it back.
    condition: Condition,
    tls: Option<TlsInfo>,
}

impl Head {
    fn of(reply: &mut Reply) -> Self {
        Self {
            status: reply.status(),
            version: reply.version(),
            content_type: reply.content_type().to_owned(),
            encoding: reply.header(&CONTENT_ENCODING).cloned(),
            condition: condition(reply),
            tls: reply.take_tls(),
        }
    }

    /// The server's certificate, in DER, where TLS was spoken.
    pub fn certificate(&self) -> Option<&[u8]> {
        self.tls.as_ref().and_then(TlsInfo::peer_certificate)
    }

    /// What the next poll sends back, so that the server can answer 304.
    pub fn validator(&self) -> Option<&HeaderValue> {
        self.condition.as_ref().map(|(_, value)| value)
    }
}

impl Fetched {
    /// What the next [`fetch`] shall know about it.
    pub fn keep(self) -> LastBody {
        let last = LastBody::of(self.body);
        last.set(self.head.condition);
        last
    }
}

/// What is asked for. `refresh` is told in whole seconds, to servers of Prometheus' HTTP SD.
pub fn headers(accept: &'static str, refresh: Option<Duration>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(ACCEPT, HeaderValue::from_static(accept));
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static(ACCEPTED));
    if let Some(refresh) = refresh {
        headers.insert(REFRESH, refresh.as_secs().max(1).into());
    }
    headers
}

/// Asks for the list with these [`headers`]: the whole body, of at most `limit` bytes, or `None` where it is the last one
/// again, as the server says (304) or byte for byte. Dropping the future gives it up.
///
/// # Errors
/// See [`HttpError`].
pub async fn fetch(
    client: &Client,
    details: &DiscoveryDetails,
    mut headers: HeaderMap,
    last: Option<&LastBody>,
    limit: usize,
) -> Result<Option<Fetched>, HttpError> {
    headers.extend(last.and_then(LastBody::condition));
    let reply = client
        .get(&details.url, headers, details.times.timeout)
        .await;
    if let (Err(HttpError::Status(_)), Some(last)) = (&reply, last) {
        // It may be the condition that the server does not take.
        last.set(None);
    }
    let mut reply = reply?;
    match reply.status() {
        // The client lets it pass only where we have asked.
        StatusCode::NOT_MODIFIED => return Ok(None),
        StatusCode::OK | StatusCode::NO_CONTENT => {}
        // The other 2xx do not promise that this is the list.
        status => return Err(HttpError::Status(status)),
    }
    let head = Head::of(&mut reply);
    let announced = usize::try_from(reply.announced().unwrap_or(0)).unwrap_or(usize::MAX);
    if announced > limit {
        return Err(HttpError::TooLarge(limit));
    }
    let mut arriving = Arriving::new(last, announced, limit);
    if head.status != StatusCode::NO_CONTENT {
        let mut body = Body::of(reply, limit)?;
        while let Some(chunk) = body.chunk().await? {
            arriving.push(&chunk)?;
        }
    }
    let Some(body) = arriving.finish() else {
        if let Some(last) = last {
            last.set(head.condition);
        }
        return Ok(None);
    };
    Ok(Some(Fetched { body, head }))
}

/// How to ask for what is newer than this reply. Only a 200 of the URL that was asked says so of the list: another URL, to which
/// it leads the next time, may mean another list by the same tag.
fn condition(reply: &Reply) -> Condition {
    let header = |name: &HeaderName| {
        let value = reply.header(name)?;
        (1..=MAX_VALIDATOR).contains(&value.len()).then_some(value)
    };
    if reply.status() != StatusCode::OK || reply.is_redirected() {
        return None;
    }
    if let Some(tag) = header(&ETAG) {
        return Some((IF_NONE_MATCH, tag.clone()));
    }
    let modified = header(&LAST_MODIFIED)?;
    // Within its second, a list may change once more, and the server would not tell (RFC 9110, 8.8.2.2).
    let date = |value: &HeaderValue| parse_http_date(value.to_str().ok()?).ok();
    let settled = date(modified)? < date(header(&DATE)?)?;
    settled.then(|| (IF_MODIFIED_SINCE, modified.clone()))
}

/// A body as it arrives. As long as it is the last one, nothing of it is held.
pub struct Arriving<'a> {
    last: Option<&'a [u8]>,
    announced: usize,
    limit: usize,
    /// How many bytes were the last body's.
    same: usize,
    /// All so far, once it differs.
    body: Option<Vec<u8>>,
}

impl<'a> Arriving<'a> {
    /// Nothing of it yet. `announced` is how many bytes it will probably have, 0 where that is not known.
    pub fn new(last: Option<&'a LastBody>, announced: usize, limit: usize) -> Self {
        let last = last.and_then(|last| last.body.as_deref());
        let body = last.is_none().then(|| Vec::with_capacity(announced));
        Self {
            last,
            announced,
            limit,
            same: 0,
            body,
        }
    }

    /// Takes the next bytes, cut anywhere.
    ///
    /// # Errors
    /// There are more bytes than the limit.
    pub fn push(&mut self, chunk: &[u8]) -> Result<(), HttpError> {
        let before = self.body.as_ref().map_or(self.same, Vec::len);
        if before + chunk.len() > self.limit {
            return Err(HttpError::TooLarge(self.limit));
        }
        let last = self.last.unwrap_or_default();
        if self.body.is_none()
            && last
                .get(self.same..)
                .is_some_and(|rest| rest.starts_with(chunk))
        {
            self.same += chunk.len();
            return Ok(());
        }
        let same = last.get(..self.same).unwrap_or_default();
        let body = self.body.get_or_insert_with(|| {
            let mut body = Vec::with_capacity(self.announced);
            body.extend_from_slice(same);
            body
        });
        body.extend_from_slice(chunk);
        Ok(())
    }

    /// The whole body, or `None` where it is the last one.
    pub fn finish(self) -> Option<Vec<u8>> {
        let last = self.last.unwrap_or_default();
        match self.body {
            Some(body) => Some(body),
            None if self.same == last.len() => None,
            None => Some(last.get(..self.same).unwrap_or_default().to_vec()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arrive(last: Option<&LastBody>, chunks: &[&str]) -> Option<String> {
        let mut arriving = Arriving::new(last, 0, 1 << 20);
        for chunk in chunks {
            arriving.push(chunk.as_bytes()).unwrap();
        }
        let body = arriving.finish();
        body.map(|body| String::from_utf8(body).unwrap())
    }

    #[test]
    fn only_the_same_bytes_are_the_last_body_however_they_are_cut() {
        let last = LastBody::of(b"a:1\nb:1\n".to_vec());
        for chunks in [
            &["a:1\nb:1\n"][..],
            &["a:1", "\nb:", "1\n"],
            &["", "a:1\nb:1\n", ""],
        ] {
            assert_eq!(arrive(Some(&last), chunks), None);
        }
        for chunks in [
            &["a:1\nb:2\n"][..],
            &["a:1\n", "b:2\n"],
            &["a:1\nb:1\n", "c:1\n"],
            &["a:1\n"],
            &["b:1\na:1\n"],
            &[],
        ] {
            assert_eq!(arrive(Some(&last), chunks), Some(chunks.concat()));
        }
        assert_eq!(
            arrive(None, &[]),
            Some(String::new()),
            "the first, also when empty"
        );
        let empty = LastBody::of(Vec::new());
        assert_eq!(arrive(Some(&empty), &[]), None);
        assert_eq!(arrive(Some(&empty), &["a:1"]), Some("a:1".into()));
    }

    #[test]
    fn a_body_that_is_large_by_its_blanks_is_not_kept_and_so_never_the_last_one() {
        let blanks = "\n".repeat(MAX_KEPT + 1);
        let last = LastBody::of(blanks.clone().into_bytes());
        let mut arriving = Arriving::new(Some(&last), 0, usize::MAX);
        arriving.push(blanks.as_bytes()).unwrap();
        assert_eq!(arriving.finish().map(|body| body.len()), Some(MAX_KEPT + 1));
    }

    #[test]
    fn a_body_over_the_limit_is_given_up_whether_it_is_the_last_one_or_not() {
        let last = LastBody::of(vec![b'a'; 10]);
        for last in [None, Some(&last)] {
            let mut arriving = Arriving::new(last, 0, 8);
            assert_eq!(arriving.push(b"aaaaaaaa"), Ok(()));
            assert_eq!(arriving.push(b"a"), Err(HttpError::TooLarge(8)));
        }
    }
}
