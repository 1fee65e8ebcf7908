use std::collections::BTreeMap;

use super::*;
use crate::{DeviceSpec, Mount};

fn device(id: &str) -> Device {
    Device {
        id: id.into(),
        properties: BTreeMap::from([("ENDPOINT".into(), id.into())]),
        mounts: vec![Mount {
            container_path: "/in".into(),
            host_path: format!("/out/{id}"),
            read_only: true,
        }],
        device_specs: vec![DeviceSpec {
            container_path: "/dev/in".into(),
            host_path: "/dev/out".into(),
            permissions: "r".into(),
        }],
    }
}

fn found(ids: &[String]) -> Devices {
    Devices::from_ids(ids.iter().map(|id| Ok(id.as_str())), device).unwrap()
}

fn numbered(numbers: impl Iterator<Item = usize>) -> Vec<String> {
    numbers.map(|n| format!("device-{n:05}")).collect()
}

fn decoded(list: &DeviceList) -> Vec<Device> {
    let parts = (0..).map_while(|part| list.encoded(part));
    let bytes = parts.collect::<Vec<_>>().concat();
    assert_eq!(bytes.len(), list.encoded_len());
    DiscoverResponse::decode(bytes.as_slice()).unwrap().devices
}

fn first(ids: &[String]) -> DeviceList {
    DeviceList::default().next(&found(ids)).unwrap()
}

#[test]
fn all_of_a_device_reaches_the_wire_in_the_order_of_the_ids() {
    let long = "x".repeat(3_000);
    let ids = ["b", "a", "", "c", &long].map(String::from);
    let list = first(&ids);
    assert_eq!(decoded(&list), ["", "a", "b", "c", &long].map(device));
    assert!(list.ids().eq(["", "a", "b", "c", &long]));
}

#[test]
fn a_list_is_the_same_by_whatever_way_it_came_about() {
    let mut random = fastrand::Rng::with_seed(3);
    let mut list = DeviceList::default();
    for _ in 0..30 {
        let ids: Vec<String> = numbered((0..2_000).filter(|_| random.u8(..5) > 0));
        let (by_id, given) = (
            found(&ids),
            ids.iter().map(|id| device(id)).collect::<Vec<_>>(),
        );
        list = list.next(&by_id).unwrap();
        assert_eq!(list, list.next(&Devices::from(given)).unwrap());
        assert_eq!(list, first(&ids));
        assert_eq!(list.len(), ids.len());
        assert!(list.ids().eq(ids.iter().map(String::as_str)));
        assert!(list.hashes().eq(ids.iter().map(|id| instance_hash(id))));
    }
    let ids: Vec<String> = list.ids().map(String::from).collect();
    let whole: Vec<Device> = ids.iter().map(|id| device(id)).collect();
    assert_eq!(decoded(&list), whole);
}

#[test]
fn a_list_shares_what_has_not_changed_with_the_one_before() {
    let before = first(&numbered(0..10_000));
    let mut ids = numbered(0..10_000);
    ids.remove(5_000);
    ids.push("device-02000-and-a-half".into());
    let after = before.next(&found(&ids)).unwrap();
    let is_shared =
        |piece: &&Arc<Piece>| before.pieces.iter().any(|known| Arc::ptr_eq(piece, known));
    let own = after
        .pieces
        .iter()
        .filter(|piece| !is_shared(piece))
        .count();
    assert!(
        after.pieces.len() > 40 && own <= 3,
        "{own} of {}",
        after.pieces.len()
    );
}

#[test]
fn a_device_that_changes_and_keeps_its_id_is_a_change() {
    let ids = numbered(0..300);
    let mut devices: Vec<Device> = ids.iter().map(|id| device(id)).collect();
    let before = DeviceList::default()
        .next(&Devices::from(devices.clone()))
        .unwrap();
    devices[7].properties.insert("SITE".into(), "lab".into());
    let after = before.next(&Devices::from(devices.clone())).unwrap();
    assert_ne!(before, after);
    assert_eq!(decoded(&after), devices);
    assert_eq!(after.next(&Devices::from(devices)).unwrap(), after);
}

#[test]
fn no_device_is_a_list_too() {
    let empty = first(&[]);
    assert_eq!((empty.len(), empty.encoded_len()), (0, 0));
    assert_eq!(first(&numbered(0..9)).next(&found(&[])).unwrap(), empty);
}

#[test]
fn rule_11_a_list_over_the_agents_limit_is_refused_with_its_number_of_devices() {
    let ids = numbered(0..60_000);
    let refused = DeviceList::default().next(&found(&ids)).unwrap_err();
    assert_eq!(refused, TooLarge { devices: 60_000 });
    assert!(first(&numbered(0..20_000)).encoded_len() < MAX_MESSAGE);
}

#[test]
fn the_difference_of_two_lists_names_what_came() {
    let list = |ids: &[&str]| first(&ids.iter().map(|id| id.to_string()).collect::<Vec<_>>());
    let (one, two) = (list(&["a", "b", "d"]), list(&["b", "c", "d", "e"]));
    assert_eq!(one.missing_from(&two).collect::<Vec<_>>(), ["c", "e"]);
    assert_eq!(two.missing_from(&one).collect::<Vec<_>>(), ["a"]);
}

#[test]
fn rule_12_the_hash_is_akris() {
    assert_eq!(instance_hash("my_shared_device"), 0x4294ea);
}

#[test]
fn only_devices_in_both_lists_that_are_not_the_same_have_changed() {
    let mut random = fastrand::Rng::with_seed(5);
    let mut list = DeviceList::default();
    let mut before: BTreeMap<String, u8> = BTreeMap::new();
    for _ in 0..50 {
        let ids = numbered((0..2_000).filter(|_| random.u8(..10) > 0));
        let now: BTreeMap<String, u8> = (ids.into_iter())
            .map(|id| {
                let changes = random.u16(..500) == 0;
                let known = before.get(&id).copied().unwrap_or(0);
                (id, if changes { random.u8(..) } else { known })
            })
            .collect();
        let devices = now.iter().map(|(id, value)| Device {
            id: id.clone(),
            properties: BTreeMap::from([("A".into(), value.to_string())]),
            ..Device::default()
        });
        let next = (list.next(&Devices::from(devices.collect::<Vec<_>>()))).unwrap();
        let changed = (now.iter())
            .filter(|(id, value)| before.get(*id).is_some_and(|before| before != *value));
        assert!(next.changed_from(&list).eq(changed.map(|(id, _)| id)));
        (list, before) = (next, now);
    }
}

#[test]
fn grace_keeps_a_device_with_the_properties_that_it_had() {
    let ids = numbered(0..3);
    let all: Vec<Device> = ids.iter().map(|id| device(id)).collect();
    let list = (DeviceList::default().next(&Devices::from(all.clone()))).unwrap();
    let kept = Devices::from(vec![all[1].clone()]).with(&[&ids[0], &ids[2]], &list);
    assert_eq!(decoded(&list.next(&kept).unwrap()), all);
}
