//! What holds of every reply, whatever is in it.

use akri_discovery::{Device, Preview};
use akri_http_discovery_handler::formats::{
    ENDPOINT, Format, MetaLabels, OnPropertyChange, Options, is_property_name, read,
};

/// Reads a reply in all ways that a format has; the devices that each way brings, `None` where it is refused.
pub fn hold(body: &[u8], format: Format) -> Vec<Option<Vec<Device>>> {
    let plain = Options {
        format,
        ..Options::default()
    };
    let other = Options {
        https: true,
        path: "/metrics".into(),
        meta_labels: MetaLabels::Keep,
        on_property_change: OnPropertyChange::Replace,
        ..plain.clone()
    };
    vec![devices(body, &plain), devices(body, &other)]
}

fn devices(body: &[u8], options: &Options) -> Option<Vec<Device>> {
    let found = match read(body, options) {
        Ok(found) => found,
        Err(error) => {
            let error = error.to_string();
            assert!(error.len() < 2_048 && !error.contains('\n'), "{error}");
            return None;
        }
    };
    let list = Preview::of(&found).ok()?.devices;
    let again = Preview::of(&read(body, options).ok()?).ok()?.devices;
    assert!(list == again, "the same reply is the same list");
    let devices: Vec<Device> = list.into_iter().map(|(device, _)| device).collect();
    assert!(devices.is_sorted_by(|one, next| one.id < next.id));
    for device in &devices {
        assert!(!device.id.is_empty() && device.properties.contains_key(ENDPOINT));
        assert!(device.properties.keys().all(|name| is_property_name(name)));
        assert!(!device.properties.contains_key("PATH"));
    }
    Some(devices)
}
