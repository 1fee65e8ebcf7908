//! Devices that Akri cannot tell apart, because their Instances get the same name (rule 12). No I/O.

use crate::list::DeviceList;

/// How many collisions are looked into; a list may be made of nothing else.
const MAX_COLLISIONS: usize = 100;

/// Two devices whose Instances get the same name: the second one vanishes silently.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Collision {
    /// The hash as it stands in the Instance's name.
    pub hash: String,
    /// Their ids.
    pub devices: [String; 2],
}

/// The devices of `list` that share a hash: the first 100 pairs. Only for shared devices: otherwise the Agent hashes its
/// node's name too, which a handler is not told.
pub(crate) fn collisions(list: &DeviceList) -> Vec<Collision> {
    let mut hashes: Vec<(u32, usize)> = list.hashes().zip(0..).collect();
    hashes.sort_unstable();
    let same = hashes.windows(2).filter_map(|pair| match *pair {
        [(hash, first), (same, second)] if hash == same => Some((hash, [first, second])),
        _ => None,
    });
    let same: Vec<_> = same.take(MAX_COLLISIONS).collect();
    if same.is_empty() {
        return Vec::new();
    }
    let ids: Vec<&str> = list.ids().collect();
    let id = |place: usize| ids.get(place).copied().unwrap_or_default().to_owned();
    same.into_iter()
        .map(|(hash, places)| Collision {
            hash: format!("{hash:06x}"),
            devices: places.map(id),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Device, Devices};

    #[test]
    fn rule_12_names_the_devices_that_akri_cannot_tell_apart_also_as_lists_change() {
        let (one, other) = ("http://10.1.0.194:8080", "http://10.1.12.9:8080");
        let collision = Collision {
            hash: "7e27fd".into(),
            devices: [one.into(), other.into()],
        };
        let mut list = DeviceList::default();
        for (ids, expected) in [
            (vec![one, "c:1"], vec![]),
            (vec!["a:1", one, other], vec![collision.clone()]),
            (vec![other, one, "z:1"], vec![collision]),
            (vec![other, "z:1"], vec![]),
            (vec![], vec![]),
        ] {
            let found = Devices::from_ids(ids.into_iter().map(Ok), |id| Device {
                id: id.into(),
                ..Device::default()
            });
            list = list.next(&found.unwrap()).unwrap();
            assert_eq!(collisions(&list), expected);
        }
    }
}
