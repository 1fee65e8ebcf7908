//! Step 3: lists of devices become Instances.

use std::collections::BTreeMap;
use std::fmt::Write;

use akri_http_proto::v0::Device;
use blake2::digest::consts::U3;
use blake2::{Blake2b, Digest};

use crate::state::State;

/// An Akri Instance: one device of one Configuration.
#[derive(Clone, PartialEq, Eq)]
pub struct Instance {
    /// `<configuration>-<hash>` (rule 12).
    pub name: String,
    /// The Configuration that it belongs to.
    pub configuration: String,
    /// See [`instance_hash`].
    pub hash: String,
    /// The device's id, of which the hash is made. Of colliding devices, the first one listed (rule 12).
    pub device_id: String,
    /// The device's properties now: the environment of a broker that starts with this Instance, where each is
    /// repeated with the hash as suffix (rule 13).
    pub properties: BTreeMap<String, String>,
    /// Whether other nodes may see the same device.
    pub shared: bool,
}

/// Leaves out the property values and what may be secret in the id.
impl std::fmt::Debug for Instance {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "Instance {} of {}",
            self.name,
            printable(&self.device_id)
        )
    }
}

/// The hash in an Instance's name: BLAKE2b with 3 bytes of output over the device's id and, for a device that is not
/// shared, the name of the node that sees it; lower-case hex (rule 12).
pub fn instance_hash(id: &str, node_name: Option<&str>) -> String {
    let mut hasher = Blake2b::<U3>::new();
    hasher.update(id);
    hasher.update(node_name.unwrap_or_default());
    hasher
        .finalize()
        .iter()
        .fold(String::with_capacity(6), |mut hex, byte| {
            // Writing to a String cannot fail.
            let _ = write!(hex, "{byte:02x}");
            hex
        })
}

/// The newest list of one stream.
pub(crate) struct DeviceList {
    pub shared: bool,
    pub devices: Vec<Device>,
}

/// Merges the lists of all streams of a Configuration by Instance name (rule 4). Where several devices have the same
/// one, the first gives the broker its environment, and the others vanish without a word (rule 12).
pub(crate) fn merge<'a>(
    configuration: &str,
    node_name: &str,
    lists: impl IntoIterator<Item = &'a DeviceList>,
) -> BTreeMap<String, Instance> {
    let mut instances = BTreeMap::new();
    for DeviceList { shared, devices } in lists {
        for device in devices {
            let hash = instance_hash(&device.id, (!shared).then_some(node_name));
            let name = format!("{configuration}-{hash}");
            instances.entry(name.clone()).or_insert_with(|| Instance {
                name,
                configuration: configuration.to_owned(),
                hash,
                device_id: device.id.clone(),
                properties: device
                    .properties
                    .iter()
                    .map(|(k, v)| (k.clone(), v.clone()))
                    .collect(),
                shared: *shared,
            });
        }
    }
    instances
}

/// What one reconcile did.
#[derive(Default)]
pub(crate) struct Changes {
    pub created: Vec<Instance>,
    pub changed: Vec<Instance>,
    pub deleted: Vec<Instance>,
}

impl State {
    /// Makes the Instances of `configuration` those that were `found`. Whatever is missing goes at once (rule 2).
    pub(crate) fn reconcile(
        &mut self,
        configuration: &str,
        mut found: BTreeMap<String, Instance>,
    ) -> Changes {
        let mut changes = Changes::default();
        self.instances.retain(|name, known| {
            if known.configuration != configuration {
                return true;
            }
            let Some(now) = found.remove(name) else {
                changes.deleted.push(known.clone());
                return false;
            };
            if *known != now {
                changes.changed.push(now.clone());
                *known = now;
            }
            true
        });
        self.created += found.len() as u64;
        self.deleted += changes.deleted.len() as u64;
        self.instances
            .extend(found.iter().map(|(name, new)| (name.clone(), new.clone())));
        changes.created = found.into_values().collect();
        changes
    }
}

impl Changes {
    pub fn log(&self) {
        for (word, instances) in [
            ("deleted", &self.deleted),
            ("changed", &self.changed),
            ("created", &self.created),
        ] {
            for instance in instances {
                log::info!(
                    "Instance {} {word}: {}",
                    instance.name,
                    printable(&instance.device_id)
                );
            }
        }
    }
}

/// A device's id for a log line: no user, password or query of a URL, no control characters, no endless line.
fn printable(id: &str) -> String {
    let id = id.split(['?', '#']).next().unwrap_or_default();
    let (scheme, rest) = id.find("://").map_or(("", id), |at| id.split_at(at + 3));
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let host = authority.rsplit('@').next().unwrap_or_default();
    format!("{scheme}{host}{path}")
        .chars()
        .take(200)
        .flat_map(char::escape_debug)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(ids: &[&str]) -> DeviceList {
        let device = |id: &&str| Device {
            id: (*id).to_owned(),
            ..Device::default()
        };
        DeviceList {
            shared: true,
            devices: ids.iter().map(device).collect(),
        }
    }

    #[test]
    fn rule_12_the_hash_is_akris() {
        assert_eq!(instance_hash("my_shared_device", None), "4294ea");
        assert_eq!(instance_hash("my_local_device", Some("my_node")), "e77db4");
        assert_eq!(
            instance_hash("my_local_device", Some("my_other_node")),
            "099763"
        );
        assert_eq!(instance_hash("http://10.1.0.194:8080", None), "7e27fd");
        assert_eq!(instance_hash("http://10.1.12.9:8080", None), "7e27fd");
    }

    #[test]
    fn rule_12_the_second_of_two_colliding_devices_vanishes() {
        let found = merge(
            "http",
            "node",
            [&list(&["http://10.1.0.194:8080", "http://10.1.12.9:8080"])],
        );
        assert_eq!(found.len(), 1);
        assert_eq!(found["http-7e27fd"].device_id, "http://10.1.0.194:8080");
    }

    #[test]
    fn a_reconcile_touches_only_its_configuration_and_says_what_it_did() {
        let mut state = State::default();
        assert_eq!(
            state
                .reconcile("one", merge("one", "n", [&list(&["a", "b"])]))
                .created
                .len(),
            2
        );
        assert_eq!(
            state
                .reconcile("two", merge("two", "n", [&list(&["a"])]))
                .created
                .len(),
            1
        );
        let mut later = list(&["b", "c"]);
        later.devices[0]
            .properties
            .insert("KEY".to_owned(), "value".to_owned());
        let changes = state.reconcile("one", merge("one", "n", [&later]));
        assert_eq!(
            (
                changes.created.len(),
                changes.changed.len(),
                changes.deleted.len()
            ),
            (1, 1, 1)
        );
        assert_eq!(
            (state.instances.len(), state.created, state.deleted),
            (3, 4, 1)
        );
        assert_eq!(state.reconcile("two", BTreeMap::new()).deleted.len(), 1);
        assert_eq!(state.instances.len(), 2);
    }

    #[test]
    fn a_log_line_holds_no_secret_of_an_id() {
        let cases = [
            ("10.0.0.1:80", "10.0.0.1:80"),
            ("http://a:8080/temp", "http://a:8080/temp"),
            ("http://user:secret@a/x@y?token=secret#z", "http://a/x@y"),
            ("user:secret@a", "a"),
            ("a\nb", "a\\nb"),
        ];
        for (id, line) in cases {
            assert_eq!(printable(id), line);
        }
    }
}
