//! An array of devices, each with an endpoint, an id of its own or the endpoint for one, and properties as they are.

use akri_daemon::is_harmless;
use akri_device_http::{MAX_ENDPOINT_BYTES, check_listed, excerpt};
use akri_discovery::Devices;
use anyhow::{anyhow, bail, ensure};
use serde::Deserialize;

use super::{
    Found, Options, Place,
    json::{Object, Texts, each, some},
    properties::check,
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Listed {
    #[serde(default, deserialize_with = "some")]
    id: Option<String>,
    endpoint: String,
    #[serde(default)]
    properties: Texts,
}

/// See [`super::read`].
pub(super) fn read(body: &[u8], options: &Options) -> anyhow::Result<Devices> {
    let mut found = Found::new(options);
    each(body, "device", |number, Object(listed): Object<Listed>| {
        add(&mut found, Place::Device(number), listed)
    })?;
    found.devices()
}

fn add(found: &mut Found<'_>, place: Place, listed: Listed) -> anyhow::Result<()> {
    let endpoint = listed.endpoint;
    if let Err(why) = check_listed(&endpoint) {
        let excerpt = excerpt(endpoint.as_bytes()).unwrap_or_default();
        bail!("{place}, the endpoint {why}: \"{excerpt}\"");
    }
    let id = listed.id.as_deref().unwrap_or(&endpoint);
    check_id(id).map_err(|why| anyhow!("{place}, the id {why}"))?;
    let properties = listed.properties.0;
    check(&properties).map_err(|why| anyhow!("{place}, {why}"))?;
    found.add(place, id, &endpoint, properties)
}

/// What a log line can show, and no more of it than of an endpoint.
fn check_id(id: &str) -> anyhow::Result<()> {
    ensure!(!id.is_empty(), "is empty");
    ensure!(
        id.len() <= MAX_ENDPOINT_BYTES,
        "is longer than {MAX_ENDPOINT_BYTES} bytes"
    );
    ensure!(
        id.chars().all(is_harmless),
        "has a character that cannot be shown"
    );
    Ok(())
}
