//! What to make of a reply: is it the last one, and if not, which list is it? No I/O, no timers.

use std::sync::Arc;

use log::{Level, info, log_enabled, warn};

use crate::{
    collisions::{Collision, InstanceHashes},
    details::DiscoveryDetails,
    device_endpoint::shown,
    devices::DeviceList,
    lines::{ListError, ListReader},
};

/// How many devices a log line names.
const NAMED: usize = 3;

/// How many collisions are warned of at once.
const COLLISIONS_NAMED: usize = 10;

/// The last good reply, and what is known of it.
pub struct LastReply {
    /// What log lines begin with.
    name: String,
    max_message: usize,
    shared: bool,
    /// Byte for byte: the same bytes again need no parsing. None when they were too many to keep.
    body: Option<Vec<u8>>,
    list: Option<Arc<DeviceList>>,
    hashes: InstanceHashes,
    /// Those that were warned of.
    collisions: Vec<Collision>,
}

impl LastReply {
    /// None yet. For messages of up to `max_message` bytes; collisions are looked for among `shared` devices.
    pub fn new(details: &DiscoveryDetails, max_message: usize, shared: bool) -> Self {
        Self {
            name: details.to_string(),
            max_message,
            shared,
            body: None,
            list: None,
            hashes: InstanceHashes::default(),
            collisions: Vec::new(),
        }
    }

    /// Its list, if there was a good reply.
    pub fn list(&self) -> Option<&DeviceList> {
        self.list.as_deref()
    }

    /// Starts to read the next reply.
    pub fn reading(&mut self) -> Reading<'_> {
        Reading {
            same: 0,
            changed: None,
            last: self,
        }
    }

    fn accept(&mut self, list: DeviceList) -> Option<Arc<DeviceList>> {
        if self.list() == Some(&list) {
            return None;
        }
        if log_enabled!(Level::Info) {
            self.log_change(&list);
        }
        if self.shared {
            self.warn_of_collisions(&list);
        }
        let list = Arc::new(list);
        self.list = Some(list.clone());
        Some(list)
    }

    fn log_change(&self, list: &DeviceList) {
        let (name, count) = (&self.name, list.len());
        let Some(last) = self.list() else {
            info!("{name}: {count} devices");
            return;
        };
        let named = |word, endpoints: Vec<&str>| match endpoints.len() {
            0 => String::new(),
            1..=NAMED => {
                let shown: Vec<_> = endpoints.into_iter().map(shown).collect();
                format!(", {word}: {}", shown.join(" "))
            }
            many => format!(", {word}: {many} devices"),
        };
        let came = named("new", last.missing_from(list).collect());
        let went = named("gone", list.missing_from(last).collect());
        info!("{name}: {count} devices{came}{went}");
    }

    fn warn_of_collisions(&mut self, list: &DeviceList) {
        let last = self.list.take().unwrap_or_default();
        self.hashes.update(&last, list);
        let collisions = self.hashes.collisions(list);
        let name = &self.name;
        let new = (collisions.iter()).filter(|collision| !self.collisions.contains(collision));
        for Collision { hash, devices } in new.clone().take(COLLISIONS_NAMED) {
            let [one, other] = devices.each_ref().map(|device| shown(device));
            warn!(
                "{name}: {one} and {other} have the same Instance hash {hash}: Akri shows only one of them"
            );
        }
        let more = new.count().saturating_sub(COLLISIONS_NAMED);
        if more > 0 {
            warn!("{name}: {more} or more other pairs of devices have the same Instance hash");
        }
        self.collisions = collisions;
    }
}

/// A reply as it arrives. As long as it is the last one, byte for byte, nothing is parsed and nothing is held.
/// Dropping it unfinished leaves the last list standing.
pub struct Reading<'a> {
    last: &'a mut LastReply,
    /// How many bytes were the last reply's.
    same: usize,
    changed: Option<Changed>,
}

/// A reply that differs from the last one.
struct Changed {
    reader: ListReader,
    /// What may become [`LastReply::body`]; given up when it grows past any list that could be sent.
    body: Option<Vec<u8>>,
}

impl Reading<'_> {
    /// Takes the next bytes, cut anywhere.
    ///
    /// # Errors
    /// At the first line that is no endpoint.
    pub fn push(&mut self, chunk: &[u8]) -> Result<(), ListError> {
        if self.changed.is_none() && self.rest_of_last().is_some_and(|r| r.starts_with(chunk)) {
            self.same += chunk.len();
            return Ok(());
        }
        let max_message = self.last.max_message;
        let changed = self.changed()?;
        changed.body = changed
            .body
            .take()
            .filter(|body| body.len() + chunk.len() <= max_message);
        if let Some(body) = &mut changed.body {
            body.extend_from_slice(chunk);
        }
        changed.reader.push(chunk)
    }

    /// Ends the reply: the list if it is another one than the last.
    ///
    /// # Errors
    /// When the last line is no endpoint, or the list does not fit into one message.
    pub fn finish(mut self) -> Result<Option<Arc<DeviceList>>, ListError> {
        if self.changed.is_none() && self.rest_of_last().is_some_and(<[u8]>::is_empty) {
            return Ok(None);
        }
        self.changed()?;
        let Some(Changed { reader, mut body }) = self.changed else {
            return Ok(None);
        };
        let list = reader.finish()?;
        if let Some(body) = &mut body {
            body.shrink_to_fit();
        }
        self.last.body = body;
        Ok(self.last.accept(list))
    }

    fn rest_of_last(&self) -> Option<&[u8]> {
        self.last.body.as_deref()?.get(self.same..)
    }

    /// From here on the reply is parsed, from its beginning.
    fn changed(&mut self) -> Result<&mut Changed, ListError> {
        let changed = match self.changed.take() {
            Some(changed) => changed,
            None => {
                let last = self.last.body.as_deref().unwrap_or_default();
                let same = last.get(..self.same).unwrap_or_default();
                let mut reader = ListReader::new(self.last.max_message);
                reader.push(same)?;
                Changed {
                    reader,
                    body: Some(same.to_vec()),
                }
            }
        };
        Ok(self.changed.insert(changed))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const LIMIT: usize = 4 * 1024 * 1024;

    fn last_reply() -> LastReply {
        let details = DiscoveryDetails::parse("http://d", Duration::MAX, Duration::MAX).unwrap();
        LastReply::new(&details, LIMIT, true)
    }

    fn reply(last: &mut LastReply, chunks: &[&str]) -> Result<Option<usize>, ListError> {
        let mut reading = last.reading();
        for chunk in chunks {
            reading.push(chunk.as_bytes())?;
        }
        Ok(reading.finish()?.map(|list| list.len()))
    }

    #[test]
    fn only_a_set_that_differs_is_a_change_however_the_reply_is_cut() {
        let mut last = last_reply();
        assert_eq!(
            reply(&mut last, &[]),
            Ok(Some(0)),
            "the first list, also when empty"
        );
        assert_eq!(reply(&mut last, &[]), Ok(None));
        assert_eq!(reply(&mut last, &["a:1\nb:1\n"]), Ok(Some(2)));
        assert_eq!(reply(&mut last, &["a:1\n", "b:1\n"]), Ok(None));
        assert_eq!(reply(&mut last, &["a:1\nb", ":1\n"]), Ok(None));
        assert_eq!(
            reply(&mut last, &["b:1\n", "a:1\nb:1"]),
            Ok(None),
            "another order"
        );
        assert_eq!(reply(&mut last, &["b:1\n", "a:1\nb:2"]), Ok(Some(3)));
        assert_eq!(
            reply(&mut last, &["b:1\n", "a:1\nb:"]).map_err(|_| ()),
            Err(())
        );
        assert_eq!(reply(&mut last, &["b:1\na:1\nb:2"]), Ok(None), "it stood");
        assert_eq!(
            reply(&mut last, &["b:1\n"]),
            Ok(Some(1)),
            "the beginning of the last"
        );
        assert_eq!(
            reply(&mut last, &["b:1\nc:1\n"]),
            Ok(Some(2)),
            "more than the last"
        );
        assert_eq!(reply(&mut last, &[]), Ok(Some(0)));
    }

    #[test]
    fn a_reply_that_is_large_only_by_its_blanks_is_taken_and_not_kept() {
        let mut last = last_reply();
        let blanks = "\n".repeat(LIMIT);
        assert_eq!(reply(&mut last, &[&blanks, "a:1"]), Ok(Some(1)));
        assert_eq!(last.body, None);
        assert_eq!(reply(&mut last, &[&blanks, "a:1"]), Ok(None));
        assert_eq!(reply(&mut last, &[]), Ok(Some(0)));
    }
}
