//! Prometheus' HTTP SD: groups of targets that share labels. As strict as Prometheus, which refuses unknown fields, and stricter
//! about null, which it takes for nothing.

use akri_device_http::{check_listed, excerpt};
use akri_discovery::Devices;
use anyhow::{anyhow, bail, ensure};
use serde::Deserialize;

use super::{
    Found, Options, Place,
    json::{Object, Targets, Texts, each},
    properties::of_labels,
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Group {
    targets: Targets,
    #[serde(default)]
    labels: Texts,
}

/// See [`super::read`].
pub(super) fn read(body: &[u8], options: &Options) -> anyhow::Result<Devices> {
    let mut found = Found::new(options);
    each(body, "group", |group, Object(read): Object<Group>| {
        add(&mut found, group, &read)
    })?;
    found.devices()
}

fn add(found: &mut Found<'_>, group: u32, read: &Group) -> anyhow::Result<()> {
    let labels = &read.labels.0;
    let label = |name: &str| labels.get(name).filter(|value| !value.is_empty());
    let scheme = match label("__scheme__").map(String::as_str) {
        Some("https") => "https",
        Some("http") => "http",
        None if found.options.https => "https",
        None => "http",
        Some(_) => bail!("group {group}, label __scheme__ is neither http nor https"),
    };
    let path = label("__metrics_path__").unwrap_or(&found.options.path);
    let slash = if path.is_empty() || path.starts_with('/') {
        ""
    } else {
        "/"
    };
    let properties = of_labels(labels, found.options.meta_labels);
    let properties = properties.map_err(|why| anyhow!("group {group}, {why}"))?;
    for (target, number) in read.targets.0.iter().zip(1..) {
        let place = Place::Target {
            group,
            target: number,
        };
        ensure!(
            !target.contains(['/', '?', '#', '@']),
            "{place} is neither a host nor host:port"
        );
        let endpoint = format!("{scheme}://{target}{slash}{path}");
        if let Err(why) = check_listed(&endpoint) {
            let excerpt = excerpt(target.as_bytes()).unwrap_or_default();
            bail!("{place} {why}: \"{excerpt}\"");
        }
        found.add(place, &endpoint, &endpoint, properties.clone())?;
    }
    Ok(())
}
