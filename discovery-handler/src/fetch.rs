//! One GET of the discovery service, and whether it brought the last reply again.

use akri_device_http::{Client, HttpError, StatusCode};

use crate::details::DiscoveryDetails;

/// The longest body that is kept for the next poll, in bytes. Only one that is mostly blanks is longer (rule 11).
const MAX_KEPT: usize = 4 * 1024 * 1024;

/// The body whose devices were taken last; none where it is too long to be kept.
pub struct LastBody(Option<Vec<u8>>);

impl LastBody {
    /// Keeps `body`, if it is not too long.
    pub fn of(mut body: Vec<u8>) -> Self {
        body.shrink_to_fit();
        Self(Some(body).filter(|body| body.len() <= MAX_KEPT))
    }
}

/// Asks for the list: the whole body, of at most `limit` bytes, or `None` where it is the last one again, byte for byte.
/// Dropping the future gives it up.
///
/// # Errors
/// See [`HttpError`].
pub async fn fetch(
    client: &Client,
    details: &DiscoveryDetails,
    last: Option<&LastBody>,
    limit: usize,
) -> Result<Option<Vec<u8>>, HttpError> {
    let accept = "text/plain, */*;q=0.1";
    let mut reply = client.get(&details.url, accept, details.timeout).await?;
    // The other 2xx do not promise that this is the list.
    if !matches!(reply.status(), StatusCode::OK | StatusCode::NO_CONTENT) {
        return Err(HttpError::Status(reply.status()));
    }
    let announced = usize::try_from(reply.announced().unwrap_or(0)).unwrap_or(usize::MAX);
    if announced > limit {
        return Err(HttpError::TooLarge(limit));
    }
    let mut arriving = Arriving::new(last, announced, limit);
    while let Some(chunk) = reply.chunk().await? {
        arriving.push(&chunk)?;
    }
    Ok(arriving.finish())
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
        let last = last.and_then(|last| last.0.as_deref());
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
