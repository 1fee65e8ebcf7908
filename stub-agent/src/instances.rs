//! Step 3: lists of devices become Instances.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt::Write;

use akri_daemon::one_line;
use akri_proto::v0::{Device, DeviceSpec, Mount};
use blake2::digest::consts::U3;
use blake2::{Blake2b, Digest};
use tokio::time::Instant;

use crate::state::State;

/// An Akri Instance: one device of one Configuration.
#[derive(Clone, PartialEq, Eq)]
pub struct Instance {
    /// `<configuration>-<hash>` (rule 12).
    pub name: String,
    /// The name of its Configuration.
    pub configuration: String,
    /// See [`instance_hash`].
    pub hash: String,
    /// The id of its device. Among devices with the same hash, the first one listed (rule 12).
    pub device_id: String,
    /// What the Instance shows as its `brokerProperties`: the device's properties now. Among devices with the same hash, the
    /// last one's, because each of them is applied. A broker may get others, see [`environment`](Self::environment).
    pub properties: BTreeMap<String, String>,
    /// Whether other nodes can see the same device.
    pub shared: bool,
    /// The host paths that each of its brokers gets: those that its device had when the Instance was created (rule 14).
    pub mounts: Vec<Mount>,
    /// The device nodes that each of its brokers gets: those that its device had when the Instance was created (rule 14).
    pub device_specs: Vec<DeviceSpec>,
    /// The properties that its device had when the Instance was created.
    first_properties: BTreeMap<String, String>,
}

impl Instance {
    fn new(configuration: &str, hash: String, shared: bool, device: &Device) -> Self {
        Self {
            name: format!("{configuration}-{hash}"),
            configuration: configuration.to_owned(),
            hash,
            device_id: device.id.clone(),
            properties: device.properties.clone(),
            shared,
            mounts: device.mounts.clone(),
            device_specs: device.device_specs.clone(),
            first_properties: device.properties.clone(),
        }
    }

    /// What the kubelet adds to the environment of each of its brokers: every property under its name, and under its name with
    /// `_<HASH>` (rule 13). Akri adds nothing else, and no annotation. Left out are names that are not C identifiers.
    ///
    /// They are the properties that its device had when the Instance was created. A later change reaches no broker, not even
    /// a new one (rule 14). Among devices with the same hash, they are the first one's (rule 12).
    pub fn environment(&self) -> BTreeMap<String, String> {
        let properties =
            || (self.first_properties.iter()).filter(|(name, _)| is_c_identifier(name));
        let plain = properties().map(|(name, value)| (name.clone(), value.clone()));
        let hash = self.hash.to_uppercase();
        let suffixed = properties().map(|(name, value)| (format!("{name}_{hash}"), value.clone()));
        plain.chain(suffixed).collect()
    }

    /// The names of the properties that [`environment`](Self::environment) leaves out.
    pub(crate) fn left_out(&self) -> impl Iterator<Item = &str> {
        (self.first_properties.keys().map(String::as_str)).filter(|name| !is_c_identifier(name))
    }

    /// Takes over what a newer list says. What the device plugin hands to brokers stays (rule 14).
    fn update(&mut self, now: Self) -> bool {
        let changed = self.device_id != now.device_id || self.properties != now.properties;
        self.device_id = now.device_id;
        self.properties = now.properties;
        changed
    }
}

fn is_c_identifier(name: &str) -> bool {
    !name.starts_with(|c: char| c.is_ascii_digit())
        && !name.is_empty()
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// Leaves out the properties, and the parts of the id that may be secret.
impl std::fmt::Debug for Instance {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Instance {} of {}", self.name, shown(&self.device_id))
    }
}

/// The hash in an Instance's name (rule 12): BLAKE2b with 3 bytes of output, in lower-case hex. The input is the device's id,
/// followed by the node's name if the device is not shared.
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

/// Merges the lists of all streams of a Configuration by Instance name (rule 4). If several devices have the same name, the
/// brokers get the first one, and the others vanish silently (rule 12). The Instance shows the properties of the last one.
pub(crate) fn merge<'a>(
    configuration: &str,
    node_name: &str,
    lists: impl IntoIterator<Item = &'a DeviceList>,
) -> BTreeMap<String, Instance> {
    let mut instances = BTreeMap::new();
    for DeviceList { shared, devices } in lists {
        for device in devices {
            let hash = instance_hash(&device.id, (!shared).then_some(node_name));
            let found = Instance::new(configuration, hash, *shared, device);
            match instances.entry(found.name.clone()) {
                Entry::Vacant(entry) => {
                    entry.insert(found);
                }
                Entry::Occupied(mut entry) => entry.get_mut().properties = found.properties,
            }
        }
    }
    instances
}

/// What one reconcile changed.
#[derive(Default)]
pub(crate) struct Changes {
    pub created: Vec<Instance>,
    pub changed: Vec<Instance>,
    pub deleted: Vec<Instance>,
}

impl State {
    /// Makes `found` the Instances of `configuration`. A missing one is deleted at once (rule 2), but the Agent's finalizer
    /// keeps its object for a while, and what is applied to that object is lost (rule 19).
    pub(crate) fn reconcile(
        &mut self,
        configuration: &str,
        mut found: BTreeMap<String, Instance>,
    ) -> Changes {
        let now = Instant::now();
        self.marked.retain(|_, until| *until > now);
        found.retain(|name, _| !self.marked.contains_key(name));
        let mut changes = Changes::default();
        self.instances.retain(|name, known| {
            if known.configuration != configuration {
                return true;
            }
            let Some(now) = found.remove(name) else {
                changes.deleted.push(known.clone());
                return false;
            };
            if known.update(now) {
                changes.changed.push(known.clone());
            }
            true
        });
        let marked = (changes.deleted.iter()).map(|gone| (gone.name.clone(), now + self.finalizer));
        self.marked.extend(marked);
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
                    shown(&instance.device_id)
                );
            }
        }
    }
}

/// A device's id for a log line: one line without a URL's query, and nothing if it may hold a password.
fn shown(id: &str) -> String {
    match id.contains('@') {
        true => "(its id may hold a password)".to_owned(),
        false => one_line(id.split(['?', '#']).next().unwrap_or_default()),
    }
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

    fn texts(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        let owned = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        pairs.iter().map(owned).collect()
    }

    #[test]
    fn rule_13_a_broker_gets_each_property_plain_and_suffixed() {
        let device = Device {
            properties: texts(&[
                ("AKRI_HTTP", "http"),
                ("ENDPOINT", "a=b"),
                ("ENDPOINT_4294EA", "lost to ENDPOINT's own"),
                ("1ST", "x"),
                ("A-B", "x"),
                ("", "x"),
            ]),
            ..Device::default()
        };
        let instance = Instance::new("http", "4294ea".to_owned(), true, &device);
        let expected = texts(&[
            ("AKRI_HTTP", "http"),
            ("AKRI_HTTP_4294EA", "http"),
            ("ENDPOINT", "a=b"),
            ("ENDPOINT_4294EA", "a=b"),
            ("ENDPOINT_4294EA_4294EA", "lost to ENDPOINT's own"),
        ]);
        assert_eq!(instance.environment(), expected);
        assert_eq!(instance.left_out().collect::<Vec<_>>(), ["", "1ST", "A-B"]);
        let shown = format!("{instance:?}");
        assert!(!shown.contains("ENDPOINT") && !shown.contains("a=b"));
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
            ("http://a:8080/temp?token=secret#z", "http://a:8080/temp"),
            ("a\nb", "a\\nb"),
        ];
        for (id, line) in cases {
            assert_eq!(shown(id), line);
        }
        for id in ["http://user:secret@a/", "secret@a", "http://u:?secret@a"] {
            assert!(!shown(id).contains("secret"), "{id}");
        }
    }
}
