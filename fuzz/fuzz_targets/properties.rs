#![no_main]

use akri_http_discovery_handler::formats::Format;
use akri_http_fuzz::hold;
use serde_json::json;

// Names and values, as labels of a group and as properties of a device.
libfuzzer_sys::fuzz_target!(|texts: &str| {
    let pairs = texts
        .split('\n')
        .map(|line| line.split_once('=').unwrap_or((line, "")));
    let object: serde_json::Map<String, serde_json::Value> = pairs
        .map(|(name, value)| (name.to_owned(), value.into()))
        .collect();
    let devices = json!([{"endpoint": "a:1", "properties": object}]).to_string();
    for device in hold(devices.as_bytes(), Format::Devices)
        .into_iter()
        .flatten()
        .flatten()
    {
        let as_listed = |(name, value): (&String, &serde_json::Value)| {
            device.properties.get(name).map(String::as_str) == value.as_str()
        };
        assert!(object.iter().all(as_listed));
    }
    let groups = json!([{"targets": ["a:1"], "labels": object}]).to_string();
    hold(groups.as_bytes(), Format::HttpSd);
});
