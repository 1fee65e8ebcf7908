//! What a handler found. No I/O, no timers.

use anyhow::ensure;

use crate::{Device, collected::Collected, list::DeviceList};

/// The most devices of one list. No message of 4 MiB (rule 11) holds as many with a property or two each.
pub(crate) const MAX_DEVICES: usize = 100_000;

/// Makes a device of its id.
type Make = Box<dyn Fn(&str) -> Device + Send + Sync>;

/// What a handler found: devices in the order of their ids, each id once.
pub struct Devices {
    /// One after the other.
    ids: String,
    /// Where each one ends.
    ends: Vec<u32>,
    found: Found,
}

enum Found {
    /// In the order of the ids.
    Devices(Collected),
    /// The id says it all.
    Ids(Make),
}

impl Devices {
    /// Devices that follow from their ids, in any order; repetitions do not matter. `device` makes a device of its id,
    /// the same one each time. This costs much less than [`Devices::from`] where only a few devices have changed since the
    /// last poll, since `device` is called for these and their neighbours alone.
    ///
    /// # Errors
    /// The first error among `ids`, or more than 100,000 devices.
    pub fn from_ids<'a>(
        ids: impl IntoIterator<Item = anyhow::Result<&'a str>>,
        device: impl Fn(&str) -> Device + Send + Sync + 'static,
    ) -> anyhow::Result<Self> {
        let mut distinct = Vec::new();
        for id in ids {
            distinct.push(id?);
            // Repetitions may be what makes it long: drop them, and see.
            if distinct.len() > 2 * MAX_DEVICES {
                sort(&mut distinct);
                ensure!(distinct.len() <= MAX_DEVICES, "{TOO_MANY}");
            }
        }
        sort(&mut distinct);
        ensure!(distinct.len() <= MAX_DEVICES, "{TOO_MANY}");
        Ok(Self::new(&distinct, Found::Ids(Box::new(device))))
    }

    fn new(sorted: &[&str], found: Found) -> Self {
        let mut ids = String::with_capacity(sorted.iter().map(|id| id.len()).sum());
        let mut ends = Vec::with_capacity(sorted.len());
        for id in sorted {
            ids.push_str(id);
            ends.push(ids.len() as u32);
        }
        Self { ids, ends, found }
    }

    /// These too, which were in `list` and are not among them.
    pub(crate) fn with(self, kept: &[&str], list: &DeviceList) -> Self {
        match self.found {
            _ if kept.is_empty() => self,
            Found::Devices(mut devices) => {
                for device in list.devices(kept) {
                    devices.add(&device);
                }
                Self::from(devices)
            }
            Found::Ids(make) => {
                let mut ids: Vec<&str> = slices(&self.ids, &self.ends).collect();
                ids.extend(kept);
                sort(&mut ids);
                Self::new(&ids, Found::Ids(make))
            }
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.ends.len()
    }

    pub(crate) fn ids(&self) -> impl Iterator<Item = &str> {
        slices(&self.ids, &self.ends)
    }

    /// Whether a device is the same as before where its id is.
    pub(crate) fn are_told_by_ids(&self) -> bool {
        matches!(self.found, Found::Ids(_))
    }

    /// The device at this place, whose id this is.
    pub(crate) fn device(&self, place: usize, id: &str) -> Device {
        match &self.found {
            Found::Devices(devices) => devices.device(place),
            Found::Ids(device) => device(id),
        }
    }
}

impl From<Collected> for Devices {
    /// Of several with the same id the first one counts.
    fn from(mut devices: Collected) -> Self {
        devices.sort();
        let ids: Vec<&str> = devices.ids().collect();
        let Self { ids, ends, .. } = Self::new(&ids, Found::Devices(Collected::default()));
        let found = Found::Devices(devices);
        Self { ids, ends, found }
    }
}

impl From<Vec<Device>> for Devices {
    /// Devices in any order. Of several with the same id the first one counts.
    fn from(devices: Vec<Device>) -> Self {
        let mut collected = Collected::default();
        for device in devices {
            collected.add(&device);
        }
        Self::from(collected)
    }
}

pub(crate) const TOO_MANY: &str = "there are more than 100000 devices";

/// Brings ids into their order, each once.
fn sort(ids: &mut Vec<&str>) {
    if ids.is_sorted_by(|one, next| one < next) {
        return;
    }
    // Many ids begin alike, as URLs do: compare what follows first, as one number.
    let shared = ids.first().map_or(0, |first| {
        ids.iter()
            .fold(first.len(), |shared, id| common(first, id, shared))
    });
    let key = |id: &str| {
        let mut key = [0; 8];
        let rest = id.as_bytes().get(shared..).unwrap_or_default();
        key.iter_mut()
            .zip(rest)
            .for_each(|(key, byte)| *key = *byte);
        u64::from_be_bytes(key)
    };
    let mut keyed: Vec<(u64, &str)> = ids.iter().map(|id| (key(id), *id)).collect();
    keyed.sort_unstable();
    keyed.dedup();
    ids.clear();
    ids.extend(keyed.into_iter().map(|(_, id)| id));
}

/// How many bytes two texts have in common at their beginning, at most `limit`.
fn common(one: &str, other: &str, limit: usize) -> usize {
    let pairs = one.bytes().zip(other.bytes()).take(limit);
    pairs.take_while(|(one, other)| one == other).count()
}

/// Parts `text` where the ends say.
pub(crate) fn slices<'a>(text: &'a str, ends: &'a [u32]) -> impl Iterator<Item = &'a str> {
    let mut start = 0;
    ends.iter().map(move |end| {
        let end = *end as usize;
        let slice = text.get(start..end).unwrap_or_default();
        start = end;
        slice
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from_ids(ids: &[&str]) -> anyhow::Result<Devices> {
        Devices::from_ids(ids.iter().map(|id| Ok(*id)), |id| Device {
            id: id.into(),
            ..Device::default()
        })
    }

    #[test]
    fn ids_are_in_order_and_each_is_there_once() {
        let devices = from_ids(&[
            "http://b:1",
            "http://a:10",
            "http://a:1",
            "http://b:1",
            "",
            "http",
        ])
        .unwrap();
        let ids: Vec<&str> = devices.ids().collect();
        assert_eq!(ids, ["", "http", "http://a:1", "http://a:10", "http://b:1"]);
        assert_eq!(devices.len(), 5);
    }

    #[test]
    fn any_ids_have_the_order_of_text() {
        let mut random = fastrand::Rng::with_seed(1);
        for _ in 0..200 {
            let mut ids: Vec<String> = (0..random.usize(..50))
                .map(|_| {
                    let length = random.usize(..12);
                    let tail: String = (0..length).map(|_| random.char('\0'..'\u{100}')).collect();
                    format!("same{tail}")
                })
                .collect();
            let given: Vec<&str> = ids.iter().map(String::as_str).collect();
            let found: Vec<String> = from_ids(&given).unwrap().ids().map(String::from).collect();
            ids.sort();
            ids.dedup();
            assert_eq!(found, ids);
        }
    }

    #[test]
    fn an_error_among_the_ids_is_the_error() {
        let ids = [Ok("a"), Err(anyhow::anyhow!("line 2")), Ok("b")];
        let refused = Devices::from_ids(ids, |_| Device::default()).err().unwrap();
        assert_eq!(refused.to_string(), "line 2");
    }

    #[test]
    fn a_list_may_be_long_by_repetitions_but_not_by_devices() {
        let numbers: Vec<String> = (0..=MAX_DEVICES).map(|n| n.to_string()).collect();
        let ids: Vec<&str> = numbers.iter().map(String::as_str).collect();
        assert!(from_ids(&ids).is_err());
        let all_but_one = &ids[1..];
        let repeated = [all_but_one, all_but_one, all_but_one].concat();
        assert_eq!(from_ids(&repeated).unwrap().len(), MAX_DEVICES);
    }

    #[test]
    fn of_devices_with_one_id_the_first_counts() {
        let device = |id: &str, mount: &str| Device {
            id: id.into(),
            mounts: vec![crate::Mount {
                container_path: mount.into(),
                ..Default::default()
            }],
            ..Device::default()
        };
        let devices = Devices::from(vec![device("b", "1"), device("a", "2"), device("b", "3")]);
        assert_eq!(devices.ids().collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(devices.device(1, "b").mounts[0].container_path, "1");
    }
}
