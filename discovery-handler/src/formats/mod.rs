//! From the bytes of a reply to the devices in it. No I/O, no timers.
//!
//! A reply is taken as a whole or refused with the place of its first fault; `docs/formats.md` has the formats.

mod devices;
mod http_sd;
mod json;
mod lines;
mod properties;

use std::{collections::BTreeMap, fmt};

use akri_discovery::{Collected, Device, Devices};
use anyhow::{anyhow, ensure};

use crate::filters::Filters;
use properties::{PROTOCOL, SUFFIX_BYTES, suffix};

pub use properties::{ENDPOINT, is_property_name};

/// What a reply looks like; nothing is guessed from what it holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Format {
    /// The walkthrough's: an endpoint a line.
    #[default]
    Lines,
    /// Prometheus' HTTP SD.
    HttpSd,
    /// An array of objects with an id, an endpoint and properties.
    Devices,
}

/// What becomes of a device that keeps its id and has other properties (rule 14).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum OnPropertyChange {
    /// The same Instance: brokers that run keep the old properties.
    #[default]
    Keep,
    /// Another Instance, and so another broker: the id ends in a hash of the properties.
    Replace,
}

/// What becomes of the labels of HTTP SD that begin with `__meta_`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum MetaLabels {
    /// They are dropped, as by Prometheus, once it has relabelled.
    #[default]
    Drop,
    /// They become properties like others.
    Keep,
}

/// How a reply is read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Options {
    /// What it looks like.
    pub format: Format,
    /// For HTTP SD: whether targets are reached by `https`.
    pub https: bool,
    /// For HTTP SD: what follows a target in its endpoint; empty, or with a slash at its beginning.
    pub path: String,
    /// For HTTP SD.
    pub meta_labels: MetaLabels,
    /// For all formats in which a device has properties of its own.
    pub on_property_change: OnPropertyChange,
    /// Which devices are left out.
    pub filters: Filters,
}

impl Format {
    /// All of them, as they are called in the details; the default first.
    pub const NAMES: [(&str, Self); 3] = [
        ("lines", Self::Lines),
        ("http-sd", Self::HttpSd),
        ("devices", Self::Devices),
    ];

    /// The header `Accept` of a request for it.
    pub fn accept(self) -> &'static str {
        match self {
            Self::Lines => "text/plain, */*;q=0.1",
            Self::HttpSd | Self::Devices => "application/json",
        }
    }

    /// Checks the header `Content-Type` of a reply, empty where it has none. Lines may have any.
    ///
    /// # Errors
    /// It is not JSON's.
    pub fn check_content_type(self, content_type: &str) -> anyhow::Result<()> {
        let essence = content_type.split(';').next().unwrap_or_default().trim();
        let essence = essence.to_ascii_lowercase();
        let is_json = essence == "application/json"
            || (essence.strip_prefix("application/")).is_some_and(|kind| kind.ends_with("+json"));
        let begin: String = essence.chars().take(40).collect();
        ensure!(
            self == Self::Lines || is_json,
            "the reply's Content-Type is \"{}\", expected application/json",
            begin.escape_debug()
        );
        Ok(())
    }
}

/// The devices of a reply.
///
/// # Errors
/// Its first fault and where that is, or more devices than there may be. Nothing of such a reply is used.
pub fn read(body: &[u8], options: &Options) -> anyhow::Result<Devices> {
    match options.format {
        Format::Lines => lines::read(body, &options.filters),
        Format::HttpSd => http_sd::read(body, options),
        Format::Devices => devices::read(body, options),
    }
}

/// Where a device stands in a reply; numbers begin with 1.
#[derive(Clone, Copy)]
enum Place {
    Target { group: u32, target: u32 },
    Device(u32),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Target { group, target } => write!(f, "group {group}, target {target}"),
            Self::Device(number) => write!(f, "device {number}"),
        }
    }
}

/// The devices of a JSON reply, as they are read.
struct Found<'a> {
    options: &'a Options,
    devices: Collected,
    places: Vec<Place>,
}

impl<'a> Found<'a> {
    fn new(options: &'a Options) -> Self {
        Self {
            options,
            devices: Collected::default(),
            places: Vec::new(),
        }
    }

    /// Takes a device, unless it is filtered out. Its properties are those of its own.
    fn add(
        &mut self,
        place: Place,
        id: &str,
        endpoint: &str,
        properties: BTreeMap<String, String>,
    ) -> anyhow::Result<()> {
        let mut device = device(id, endpoint, properties);
        if !self.options.filters.take(id, endpoint, &device.properties) {
            return Ok(());
        }
        if self.options.on_property_change == OnPropertyChange::Replace {
            device.id += &suffix(&device.properties);
        }
        self.places.push(place);
        self.devices.push(&device)
    }

    fn devices(self) -> anyhow::Result<Devices> {
        // All ids have a suffix of the same length, or none has.
        let added = match self.options.on_property_change {
            OnPropertyChange::Keep => 0,
            OnPropertyChange::Replace => SUFFIX_BYTES,
        };
        let listed = |id: &str| id.len().saturating_sub(added);
        let clash = (self.devices).clash(|id| id.get(..listed(id)).unwrap_or(id));
        if let Some(clash) = clash
            && let [Some(one), Some(other)] = clash.map(|number| self.places.get(number))
        {
            return Err(anyhow!(
                "{one} and {other} have the same id, and not the same endpoint and properties"
            ));
        }
        Ok(self.devices.into())
    }
}

/// As the walkthrough's brokers expect one.
fn device(id: &str, endpoint: &str, mut properties: BTreeMap<String, String>) -> Device {
    let (protocol, http) = PROTOCOL;
    properties.insert(protocol.into(), http.into());
    properties.insert(ENDPOINT.into(), endpoint.into());
    Device {
        id: id.into(),
        properties,
        ..Device::default()
    }
}

#[cfg(test)]
mod tests;
