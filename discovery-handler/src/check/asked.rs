//! What is asked for: details, properties and a name, from the arguments and from files.

use std::{fs, path::Path};

use akri_discovery::Properties;
use anyhow::{Context, bail};
use serde::Deserialize;

use super::Check;

/// The longest file that is read, in bytes: more than details and properties may have.
const MAX_FILE: u64 = 1024 * 1024;

/// What of a Configuration counts here.
#[derive(Deserialize)]
struct Manifest {
    metadata: Metadata,
    spec: Spec,
}

#[derive(Deserialize)]
struct Metadata {
    name: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    discovery_handler: Handler,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Handler {
    #[serde(default)]
    discovery_details: String,
    #[serde(default)]
    discovery_properties: Vec<Property>,
}

#[derive(Deserialize)]
struct Property {
    name: String,
    value: Option<String>,
}

/// What the Agent would ask for.
pub struct Asked {
    pub name: String,
    pub details: String,
    pub properties: Properties,
}

impl Asked {
    pub fn of(check: &Check) -> anyhow::Result<Self> {
        let mut asked = Self {
            name: "akri-http".into(),
            details: check.details.clone().unwrap_or_default(),
            properties: Properties::new(),
        };
        let mut missing = Vec::new();
        if let Some(file) = &check.file {
            let text = read_text(file)?;
            let manifest: Manifest = serde_saphyr::from_str(&text).map_err(|error| {
                anyhow::anyhow!(
                    "{}: not the manifest of one Configuration{}",
                    file.display(),
                    place(&error)
                )
            })?;
            asked.name = manifest.metadata.name;
            let handler = manifest.spec.discovery_handler;
            asked.details = handler.discovery_details;
            for Property { name, value } in handler.discovery_properties {
                match value {
                    Some(value) => drop(asked.properties.insert(name, value.into_bytes())),
                    None => missing.push(name),
                }
            }
        } else if Path::new(&asked.details).is_file() {
            asked.details = read_text(Path::new(&asked.details))?;
        }
        asked.name = check.name.clone().unwrap_or(asked.name);
        asked.add_directory(check.properties_dir.as_deref())?;
        for property in &check.properties {
            let (name, value) = property
                .split_once('=')
                .context("--property is not NAME=VALUE")?;
            asked.properties.insert(name.into(), value.into());
        }
        missing.retain(|name| !asked.properties.contains_key(name));
        match missing.first() {
            Some(name) => bail!(
                "the value of {name} is in a Secret or ConfigMap: give it by --property or --properties-dir"
            ),
            None => Ok(asked),
        }
    }

    /// What Kubernetes adds to a mounted Secret begins with two dots.
    fn add_directory(&mut self, directory: Option<&Path>) -> anyhow::Result<()> {
        let Some(directory) = directory else {
            return Ok(());
        };
        let context = || format!("reading {}", directory.display());
        for entry in fs::read_dir(directory).with_context(context)? {
            let entry = entry.with_context(context)?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if !name.starts_with("..") {
                self.properties.insert(name, read_file(&entry.path())?);
            }
        }
        Ok(())
    }
}

fn read_file(path: &Path) -> anyhow::Result<Vec<u8>> {
    let context = || format!("reading {}", path.display());
    let metadata = fs::metadata(path).with_context(context)?;
    if !metadata.is_file() || metadata.len() > MAX_FILE {
        bail!(
            "{} is not a file of at most {MAX_FILE} bytes",
            path.display()
        );
    }
    fs::read(path).with_context(context)
}

fn read_text(path: &Path) -> anyhow::Result<String> {
    let text = String::from_utf8(read_file(path)?);
    text.with_context(|| format!("{} is not UTF-8 text", path.display()))
}

fn place(error: &serde_saphyr::Error) -> String {
    let place = error.location();
    let place = place.map(|at| format!(", see line {}", at.line()));
    place.unwrap_or_default()
}
