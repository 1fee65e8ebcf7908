//! `discovery-handler check`: does once what the daemon does, without an Agent, and shows what would come of it.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use akri_daemon::BadSetting;
use akri_discovery::{Device, DiscoveryHandler, Preview, Properties, Request as _};
use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};
use tokio::time::{sleep, timeout};

use crate::{Config, Http, Request};

/// The longest file that is read, in bytes: more than details and properties may have.
const MAX_FILE: u64 = 1024 * 1024;

/// Polls once, without an Agent, and prints the devices with their Instances and what their brokers get.
///
/// Status 0: it works. 1: the discovery service fails. 2: the details, the properties or the arguments are wrong.
#[derive(Args, Clone, Debug)]
pub struct Check {
    /// discoveryDetails, or the name of a file with them
    #[arg(required_unless_present = "file")]
    pub details: Option<String>,

    /// Manifest of a Configuration, to take its name, details and properties from
    #[arg(short, long, value_name = "FILE", conflicts_with = "details")]
    pub file: Option<PathBuf>,

    /// One of the discoveryProperties; repeat for more
    #[arg(long = "property", value_name = "NAME=VALUE")]
    pub properties: Vec<String>,

    /// Directory with a file for each of the discoveryProperties, as a Secret is mounted
    #[arg(long, value_name = "DIRECTORY")]
    pub properties_dir: Option<PathBuf>,

    /// Name of the Configuration, with which its Instances' names begin
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,

    /// How to print it
    #[arg(long, value_enum, default_value = "text")]
    pub output: Output,

    /// Go on at the interval, and print what has changed
    #[arg(long)]
    pub watch: bool,
}

/// How the result is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    Text,
    /// One JSON object for each poll.
    Json,
}

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

/// Runs `check` until `shutdown` is ready.
///
/// # Errors
/// What is wrong, in one sentence; [`BadSetting`] where it is not the discovery service.
pub async fn check(
    config: Config,
    check: Check,
    shutdown: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    let asked = Asked::of(&check).map_err(bad)?;
    let shared = config.handler.shared;
    let http = Http::new(config)?;
    let request = http
        .request(&asked.details, &asked.properties)
        .map_err(bad)?;
    let polling = async {
        let mut last = None;
        loop {
            let polled = poll(&http, &request).await;
            match polled {
                Ok((preview, took)) => {
                    let found = Found::new(&asked.name, shared, preview, took);
                    if last.as_ref() != Some(&found.devices) {
                        found.print(check.output)?;
                        last = Some(found.devices);
                    }
                }
                Err(error) if check.watch => log::warn!("{request}: {error:#}"),
                Err(error) => return Err(error),
            }
            if !check.watch {
                return Ok(());
            }
            sleep(request.interval()).await;
        }
    };
    tokio::select! {
        outcome = polling => outcome,
        () = shutdown => Ok(()),
    }
}

fn bad(error: anyhow::Error) -> anyhow::Error {
    BadSetting(format!("{error:#}")).into()
}

async fn poll(http: &Http, request: &Request) -> anyhow::Result<(Preview, Duration)> {
    let started = Instant::now();
    let within = request.timeout();
    let discovered = timeout(within, http.discover(request, None)).await;
    let discovered =
        discovered.with_context(|| format!("no complete reply within {within:?}"))??;
    let akri_discovery::Discovered::Devices(devices, _) = discovered else {
        bail!("the reply says that nothing has changed, although nothing was known");
    };
    Ok((Preview::of(&devices)?, started.elapsed()))
}

/// What the Agent would ask for.
struct Asked {
    name: String,
    details: String,
    properties: Properties,
}

impl Asked {
    fn of(check: &Check) -> anyhow::Result<Self> {
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

/// What is printed of a poll.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Found {
    devices: Vec<FoundDevice>,
    message_bytes: usize,
    max_message_bytes: usize,
    collisions: Vec<[String; 2]>,
    poll_seconds: f64,
}

#[derive(PartialEq, Serialize)]
struct FoundDevice {
    id: String,
    /// Not known where it is not shared, since the Agent hashes its node's name too.
    instance: Option<String>,
    properties: BTreeMap<String, String>,
}

impl Found {
    fn new(name: &str, shared: bool, preview: Preview, took: Duration) -> Self {
        let device = |(device, hash): (Device, String)| FoundDevice {
            id: device.id,
            instance: shared.then(|| format!("{name}-{hash}")),
            properties: device.properties.into_iter().collect(),
        };
        let collisions = preview.collisions.into_iter().map(|(_, ids)| ids);
        Self {
            devices: preview.devices.into_iter().map(device).collect(),
            message_bytes: preview.message_bytes,
            max_message_bytes: Preview::MAX_MESSAGE_BYTES,
            collisions: collisions.filter(|_| shared).collect(),
            poll_seconds: took.as_secs_f64(),
        }
    }

    fn print(&self, output: Output) -> anyhow::Result<()> {
        let mut out = io::stdout().lock();
        if output == Output::Json {
            serde_json::to_writer(&mut out, self)?;
            return Ok(writeln!(out)?);
        }
        let (count, bytes, most) = (
            self.devices.len(),
            self.message_bytes,
            self.max_message_bytes,
        );
        let took = self.poll_seconds * 1e3;
        writeln!(
            out,
            "{count} devices after {took:.0} ms; the Agent gets {bytes} of at most {most} bytes"
        )?;
        for device in &self.devices {
            let instance = device.instance.as_deref().unwrap_or("one for each node");
            writeln!(out, "{instance}  {}", device.id.escape_debug())?;
            for (name, value) in &device.properties {
                writeln!(out, "    {name}={}", value.escape_debug())?;
            }
        }
        for [one, other] in &self.collisions {
            writeln!(
                out,
                "{one} and {other} have the same Instance: Akri shows only one of them"
            )?;
        }
        Ok(())
    }
}
