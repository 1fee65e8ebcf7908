//! Devices that Akri cannot tell apart, because their Instances get the same name (rule 12). No I/O.

use blake2::{Blake2b, Digest, digest::consts::U3};

use crate::devices::DeviceList;

/// How many collisions are looked into; a list may be made of nothing else.
const MAX_COLLISIONS: usize = 100;

/// Two devices whose Instances get the same name: the second one vanishes silently.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Collision {
    /// The hash as it stands in the Instance's name.
    pub hash: String,
    /// Their ids.
    pub devices: [String; 2],
}

/// The Instance hash of each device of a list, in the list's order. Only for shared devices: otherwise the Agent hashes
/// its node's name too, which a handler is not told.
#[derive(Default)]
pub struct InstanceHashes(Vec<u32>);

impl InstanceHashes {
    /// Goes on from the hashes of `last` to those of `list`; only devices that are new are hashed.
    pub fn update(&mut self, last: &DeviceList, list: &DeviceList) {
        let mut known = last.iter().zip(&self.0).peekable();
        let hashes = (list.iter())
            .map(|id| {
                while known.next_if(|(known, _)| *known < id).is_some() {}
                (known.next_if(|(known, _)| *known == id))
                    .map_or_else(|| hash(id), |(_, hash)| *hash)
            })
            .collect();
        self.0 = hashes;
    }

    /// The devices of `list`, whose hashes these are, that share one: the first 100 pairs.
    pub fn collisions(&self, list: &DeviceList) -> Vec<Collision> {
        let mut hashes: Vec<(u32, u32)> = self.0.iter().copied().zip(0..).collect();
        hashes.sort_unstable();
        let same: Vec<_> = (hashes.windows(2))
            .filter_map(|pair| match *pair {
                [(hash, first), (same, second)] if hash == same => Some((hash, [first, second])),
                _ => None,
            })
            .take(MAX_COLLISIONS)
            .collect();
        if same.is_empty() {
            return Vec::new();
        }
        let ids: Vec<&str> = list.iter().collect();
        let id = |index: u32| {
            ids.get(index as usize)
                .copied()
                .unwrap_or_default()
                .to_string()
        };
        (same.into_iter())
            .map(|(hash, devices)| Collision {
                hash: format!("{hash:06x}"),
                devices: devices.map(id),
            })
            .collect()
    }
}

/// BLAKE2b of a shared device's id, 3 bytes.
fn hash(id: &str) -> u32 {
    let digest: [u8; 3] = Blake2b::<U3>::digest(id).into();
    let [a, b, c] = digest;
    u32::from_be_bytes([0, a, b, c])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(body: &str) -> DeviceList {
        let mut reader = crate::lines::ListReader::new(1 << 22);
        reader.push(body.as_bytes()).unwrap();
        reader.finish().unwrap()
    }

    #[test]
    fn rule_12_the_hash_is_akris() {
        assert_eq!(hash("my_shared_device"), 0x4294ea);
    }

    #[test]
    fn rule_12_names_the_devices_that_akri_cannot_tell_apart_also_as_lists_change() {
        let (one, other) = ("http://10.1.0.194:8080", "http://10.1.12.9:8080");
        let collision = Collision {
            hash: "7e27fd".into(),
            devices: [one.into(), other.into()],
        };
        let mut hashes = InstanceHashes::default();
        let mut last = DeviceList::default();
        for (body, collisions) in [
            (format!("{one}\nc:1"), vec![]),
            (format!("a:1\n{one}\n{other}"), vec![collision.clone()]),
            (format!("{other}\n{one}\nz:1"), vec![collision]),
            (format!("{other}\nz:1"), vec![]),
            (String::new(), vec![]),
        ] {
            let list = list(&body);
            hashes.update(&last, &list);
            assert_eq!(hashes.collisions(&list), collisions, "{body}");
            assert_eq!(hashes.0, list.iter().map(hash).collect::<Vec<_>>());
            last = list;
        }
    }
}
