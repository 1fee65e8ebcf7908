//! What is asked for: details, properties and a name, from the arguments and from files.

use std::{
    fs::{self, File},
    io::{self, Read},
    path::Path,
};

use akri_daemon::one_line;
use akri_discovery::Properties;
use anyhow::{Context, bail, ensure};
use serde::Deserialize;

use super::Check;

/// The longest file that is read, in bytes: more than details and properties may have.
const MAX_FILE: u64 = 1024 * 1024;

/// What of a Configuration counts here.
#[derive(Deserialize)]
struct Manifest {
    kind: String,
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
    name: String,
    #[serde(default)]
    discovery_details: String,
    #[serde(default)]
    discovery_properties: Vec<Property>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Property {
    name: String,
    value: Option<String>,
    value_from: Option<ValueFrom>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ValueFrom {
    #[serde(alias = "configMapKeyRef")]
    secret_key_ref: Key,
}

#[derive(Deserialize)]
struct Key {
    #[serde(default)]
    optional: bool,
}

impl Manifest {
    fn read(file: &Path) -> anyhow::Result<Self> {
        let text = match file.to_str() {
            Some("-") => bounded(io::stdin().lock(), "the standard input")?,
            _ => read_file(file)?,
        };
        let text = text_of(text, file)?;
        let manifest: Self = serde_saphyr::from_str(&text).map_err(|error| {
            let (file, place) = (file.display(), place(&error));
            anyhow::anyhow!("{file}: not the manifest of one Configuration{place}")
        })?;
        ensure!(
            manifest.kind == "Configuration",
            "{}: kind is {}, not Configuration",
            file.display(),
            one_line(&manifest.kind)
        );
        Ok(manifest)
    }
}

impl Property {
    /// Whether the Agent asks for nothing without it.
    fn is_needed(&self) -> bool {
        let from = self.value_from.as_ref();
        !from.is_some_and(|from| from.secret_key_ref.optional)
    }
}

/// What the Agent would ask for.
pub struct Asked {
    pub name: String,
    pub details: String,
    pub properties: Properties,
}

impl Asked {
    /// For the handler of this name.
    pub fn of(check: &Check, handler_name: &str) -> anyhow::Result<Self> {
        let mut asked = Self {
            name: "akri-http".into(),
            details: check.details.clone().unwrap_or_default(),
            properties: Properties::new(),
        };
        let mut missing = Vec::new();
        if let Some(file) = &check.file {
            let Manifest { metadata, spec, .. } = Manifest::read(file)?;
            asked.name = metadata.name;
            let handler = spec.discovery_handler;
            ensure!(
                handler.name == handler_name,
                "the Configuration asks for the handler {}, and this one is {handler_name}",
                one_line(&handler.name)
            );
            asked.details = handler.discovery_details;
            for property in handler.discovery_properties {
                let is_needed = property.is_needed();
                match property.value {
                    Some(value) => {
                        asked.properties.insert(property.name, value.into_bytes());
                    }
                    None if is_needed => missing.push(property.name),
                    None => {}
                }
            }
        } else if Path::new(&asked.details).is_file() {
            let file = Path::new(&asked.details);
            asked.details = text_of(read_file(file)?, file)?;
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
    // Opening a pipe would wait for its writer.
    let is_file = fs::metadata(path).with_context(context)?.is_file();
    ensure!(is_file, "{} is not a file", path.display());
    let file = File::open(path).with_context(context)?;
    bounded(file, &path.display().to_string())
}

fn bounded(reader: impl Read, name: &str) -> anyhow::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let read = reader.take(MAX_FILE + 1).read_to_end(&mut bytes);
    read.with_context(|| format!("reading {name}"))?;
    let is_short = bytes.len() as u64 <= MAX_FILE;
    ensure!(is_short, "{name} is longer than {MAX_FILE} bytes");
    Ok(bytes)
}

fn text_of(bytes: Vec<u8>, file: &Path) -> anyhow::Result<String> {
    let text = String::from_utf8(bytes);
    text.with_context(|| format!("{} is not UTF-8 text", file.display()))
}

fn place(error: &serde_saphyr::Error) -> String {
    let place = error.location();
    let place = place.map(|at| format!(", see line {}", at.line()));
    place.unwrap_or_default()
}
