//! Which devices that are missing from a good reply are kept for a while: one reply that is empty or half is not believed. The
//! Agent itself has no grace period (rule 2). No I/O, no timers.

use std::{collections::BTreeMap, time::Duration};

use tokio::time::Instant;

use crate::{devices::Devices, list::DeviceList};

/// The devices that are missing, and since when.
#[derive(Debug, Default)]
pub(crate) struct Missing(BTreeMap<String, Instant>);

/// What a reply has changed about them.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Kept<'a> {
    /// All that are kept, in their order.
    pub all: Vec<&'a str>,
    /// Those of them that this reply is the first to miss.
    pub new: Vec<&'a str>,
    /// How many were missing and are there again.
    pub back: usize,
}

impl Missing {
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Those that have been missing for `grace`, and are kept no longer.
    pub fn given_up(&mut self, now: Instant, grace: Duration) -> Vec<String> {
        let is_over = |_: &String, since: &mut Instant| now - *since >= grace;
        self.0.extract_if(.., is_over).map(|(id, _)| id).collect()
    }

    /// Compares the last list with what was found `now`. A device is kept as long as it has not been missing for `grace` from
    /// every reply.
    pub fn keep<'a>(
        &mut self,
        known: &'a DeviceList,
        found: &Devices,
        now: Instant,
        grace: Duration,
    ) -> Kept<'a> {
        let mut before = std::mem::take(&mut self.0);
        let were_missing = before.len();
        let mut kept = Kept::default();
        let mut withdrawn = 0;
        let mut found = found.ids().peekable();
        for id in known.ids() {
            while found.next_if(|found| *found < id).is_some() {}
            if found.next_if_eq(&id).is_some() {
                continue;
            }
            let missing = before.remove_entry(id);
            let is_new = missing.is_none();
            let (id_then, since) = missing.unwrap_or_else(|| (id.to_owned(), now));
            if now - since >= grace {
                withdrawn += usize::from(!is_new);
                continue;
            }
            if is_new {
                kept.new.push(id);
            }
            kept.all.push(id);
            self.0.insert(id_then, since);
        }
        kept.back = were_missing + kept.new.len() - kept.all.len() - withdrawn;
        kept
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Device;

    fn found(ids: &str) -> Devices {
        let device = |id: &str| Device {
            id: id.into(),
            ..Device::default()
        };
        Devices::from(ids.split_whitespace().map(device).collect::<Vec<_>>())
    }

    #[test]
    fn a_device_is_kept_until_it_was_missing_for_the_whole_time() {
        let known = DeviceList::default().next(&found("a b c d")).unwrap();
        let (begin, grace) = (Instant::now(), Duration::from_secs(60));
        let mut missing = Missing::default();
        for (seconds, ids, all, new, back) in [
            (0, "a b c d", "", "", 0),
            (10, "", "a b c d", "a b c d", 0),
            (20, "a c x", "b d", "", 2),
            (30, "a b c", "d", "", 1),
            (69, "a c", "b d", "b", 0),
            // d was missing since 10 s, and b since 69 s.
            (70, "a c", "b", "", 0),
            (128, "a d", "b c", "c", 0),
            (129, "a d", "c", "", 0),
            (130, "a b c d", "", "", 1),
        ] {
            let now = begin + Duration::from_secs(seconds);
            let kept = missing.keep(&known, &found(ids), now, grace);
            assert_eq!(kept.all.join(" "), all, "{seconds}");
            assert_eq!(kept.new.join(" "), new, "{seconds}");
            assert_eq!(kept.back, back, "{seconds}");
        }
        assert_eq!(missing.len(), 0);
    }

    #[test]
    fn those_that_were_missing_for_long_enough_are_given_up() {
        let known = DeviceList::default().next(&found("a b c")).unwrap();
        let (begin, grace) = (Instant::now(), Duration::from_secs(60));
        let at = |seconds| begin + Duration::from_secs(seconds);
        let mut missing = Missing::default();
        missing.keep(&known, &found("a b"), at(0), grace);
        missing.keep(&known, &found("a"), at(10), grace);
        assert_eq!(missing.given_up(at(59), grace), [""; 0]);
        assert_eq!(missing.given_up(at(60), grace), ["c"]);
        assert_eq!(missing.given_up(at(70), grace), ["b"]);
        assert_eq!(missing.len(), 0);
    }

    #[test]
    fn without_grace_nothing_is_kept() {
        let known = DeviceList::default().next(&found("a b")).unwrap();
        let kept = Missing::default().keep(&known, &found("b"), Instant::now(), Duration::ZERO);
        assert_eq!(kept, Kept::default());
    }
}
