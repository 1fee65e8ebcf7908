//! Devices that are more than their ids, in little memory: as bytes they take a third of what they take as values, and a
//! handler has 24 MiB for everything (rule 17). No I/O.

use anyhow::ensure;
use prost::{Message, length_delimiter_len};

use crate::{
    Device,
    devices::{MAX_DEVICES, TOO_MANY},
    list::MAX_MESSAGE,
};

/// Devices as a handler finds them one after the other, in any order; [`Devices`](crate::Devices) are made of them.
#[derive(Default)]
pub struct Collected {
    /// One after the other.
    encoded: Vec<u8>,
    places: Vec<Place>,
}

#[derive(Clone, Copy)]
struct Place {
    begin: u32,
    end: u32,
    id_len: u32,
}

impl Collected {
    /// Takes one more.
    ///
    /// # Errors
    /// There are more than 100,000, or they need more than a message may have (rule 11).
    pub fn push(&mut self, device: &Device) -> anyhow::Result<()> {
        ensure!(self.places.len() < MAX_DEVICES, "{TOO_MANY}");
        ensure!(
            self.encoded.len() + device.encoded_len() <= MAX_MESSAGE,
            "the devices take more than {MAX_MESSAGE} bytes, which is what the Agent accepts in a message; \
             split them up among several Configurations"
        );
        self.add(device);
        Ok(())
    }

    /// Takes one more, however many there are.
    pub(crate) fn add(&mut self, device: &Device) {
        let begin = self.encoded.len() as u32;
        self.encoded.extend(device.encode_to_vec());
        self.places.push(Place {
            begin,
            end: self.encoded.len() as u32,
            id_len: device.id.len() as u32,
        });
    }

    /// Two that have the same id and are not the same, by their numbers in the order of [`push`](Self::push), from 0. `id` may
    /// make another id of each, such as one without what was added to it.
    pub fn clash(&self, id: impl Fn(&str) -> &str) -> Option<[usize; 2]> {
        let mut numbers: Vec<(&str, usize)> = self.ids().map(&id).zip(0..).collect();
        numbers.sort_unstable();
        let bytes = |number: usize| self.places.get(number).map(|place| self.bytes(*place));
        numbers.windows(2).find_map(|pair| match *pair {
            [(one, first), (other, next)] if one == other && bytes(first) != bytes(next) => {
                Some([first, next])
            }
            _ => None,
        })
    }

    pub(crate) fn ids(&self) -> impl Iterator<Item = &str> {
        self.places.iter().map(|place| id(&self.encoded, *place))
    }

    /// Brings them into the order of their ids, each once.
    pub(crate) fn sort(&mut self) {
        let encoded = &self.encoded;
        (self.places).sort_by(|one, other| id(encoded, *one).cmp(id(encoded, *other)));
        (self.places).dedup_by(|next, one| id(encoded, *next) == id(encoded, *one));
    }

    pub(crate) fn device(&self, number: usize) -> Device {
        let bytes = self.places.get(number).map(|place| self.bytes(*place));
        // What we have encoded can be decoded.
        Device::decode(bytes.unwrap_or_default()).unwrap_or_default()
    }

    fn bytes(&self, place: Place) -> &[u8] {
        let range = place.begin as usize..place.end as usize;
        self.encoded.get(range).unwrap_or_default()
    }
}

/// The id is a device's first field, behind a tag and its length.
fn id(encoded: &[u8], place: Place) -> &str {
    let len = place.id_len as usize;
    let begin = place.begin as usize + 1 + length_delimiter_len(len);
    let id = encoded.get(begin..begin + len).unwrap_or_default();
    std::str::from_utf8(id).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::Devices;

    fn device(id: &str, value: &str) -> Device {
        Device {
            id: id.into(),
            properties: BTreeMap::from([("A".into(), value.into())]),
            ..Device::default()
        }
    }

    fn collected(devices: &[(&str, &str)]) -> Collected {
        let mut collected = Collected::default();
        for (id, value) in devices {
            collected.push(&device(id, value)).unwrap();
        }
        collected
    }

    #[test]
    fn they_come_out_as_they_went_in_in_the_order_of_their_ids() {
        let long = "x".repeat(300);
        let given = [("b", "1"), (&long, "2"), ("", "3"), ("a", ""), ("b", "1")];
        let devices = Devices::from(collected(&given));
        let sorted = [("", "3"), ("a", ""), ("b", "1"), (&long, "2")];
        assert!(devices.ids().eq(sorted.iter().map(|(id, _)| *id)));
        for (place, (id, value)) in sorted.iter().enumerate() {
            assert_eq!(devices.device(place, id), device(id, value));
        }
    }

    #[test]
    fn two_with_one_id_clash_where_they_are_not_the_same() {
        let same = |id: &str| -> Option<[usize; 2]> {
            collected(&[("b", "1"), (id, "2"), ("c", "3"), ("b", "1")]).clash(|id| id)
        };
        assert_eq!(same("a"), None);
        assert_eq!(same("b"), Some([0, 1]));
        assert_eq!(same("c"), Some([1, 2]));
        let suffixed = collected(&[("a~2", "2"), ("b~1", "1"), ("a~1", "1")]);
        assert_eq!(suffixed.clash(|id| id), None);
        assert_eq!(suffixed.clash(|id| &id[..1]), Some([0, 2]));
    }

    #[test]
    fn rule_11_more_than_a_message_holds_is_refused_at_once() {
        let mut collected = Collected::default();
        let large = device("a", &"x".repeat(MAX_MESSAGE / 2));
        collected.push(&large).unwrap();
        let error = collected.push(&large).unwrap_err().to_string();
        assert!(error.contains("more than 4194304 bytes"), "{error}");
        let mut collected = Collected::default();
        let device = Device::default();
        let refused = (0..=MAX_DEVICES).find(|_| collected.push(&device).is_err());
        assert_eq!(refused, Some(MAX_DEVICES));
    }
}
