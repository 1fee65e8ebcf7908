//! `discovery-handler check`: does once what the daemon does, without an Agent, and shows what would come of it.

mod asked;
mod found;
mod instances;

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use akri_daemon::{BadSetting, parse_duration};
use akri_device_http::HttpError;
use akri_discovery::{DiscoveryHandler, Preview};
use anyhow::Context;
use clap::{Args, ValueEnum};
use tokio::time::{sleep, timeout};

use crate::{Config, Http, Request, devices};
use asked::Asked;
use found::{Found, Polled};
use instances::{Cluster, ServiceAccount};

/// Polls once, without an Agent, and prints the devices with their Instances and what their brokers get.
///
/// Status 0: it works. 1: the discovery service fails, or an Instance is missing. 2: the details, the properties or the arguments are wrong.
#[derive(Args, Clone, Debug)]
pub struct Check {
    /// discoveryDetails, or the name of a file with them
    #[arg(required_unless_present = "file")]
    pub details: Option<String>,

    /// Manifest of a Configuration, to take its name, details and properties from; - for the standard input
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

    /// In a Pod of the Configuration's namespace: wait this long at most for the Instances of the devices to be there
    #[arg(long, value_name = "TIME", value_parser = within, conflicts_with = "watch")]
    pub instances_within: Option<Duration>,

    /// For that
    #[command(flatten)]
    pub service_account: ServiceAccount,
}

/// How the result is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    Text,
    /// One JSON object for each poll.
    Json,
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
    let asked = Asked::of(&check, &config.handler.discovery_handler_name).map_err(bad)?;
    let cluster = match check.instances_within {
        Some(within) => Some((Cluster::of(&check.service_account).map_err(bad)?, within)),
        None => None,
    };
    let shared = config.handler.shared;
    let http = Http::new(config)?;
    let request = http
        .request(&asked.details, &asked.properties)
        .map_err(bad)?;
    let found = |polled| Found::new(&asked.name, shared, polled);
    let polling = async {
        if check.watch {
            return watch(&http, &request, found, check.output).await;
        }
        let found = found(poll(&http, &request).await?);
        found.print(check.output)?;
        match cluster {
            Some((cluster, within)) => cluster.has(&asked.name, &found.devices, within).await,
            None => Ok(()),
        }
    };
    tokio::select! {
        outcome = polling => outcome,
        () = shutdown => Ok(()),
    }
}

/// Polls at the interval until dropped. What is found or fails again is not told again.
async fn watch(
    http: &Http,
    request: &Request,
    found: impl Fn(Polled) -> Found,
    output: Output,
) -> anyhow::Result<()> {
    let (mut last, mut last_error) = (None, None);
    loop {
        match poll(http, request).await {
            Ok(polled) => {
                let found = found(polled);
                if last.as_ref() != Some(&found.devices) || last_error.is_some() {
                    found.print(output)?;
                    last = Some(found.devices);
                }
                last_error = None;
            }
            Err(error) => {
                let error = format!("{error:#}");
                if last_error.as_ref() != Some(&error) {
                    log::warn!("{request}: {error}");
                    last_error = Some(error);
                }
            }
        }
        sleep(request.details.times.interval).await;
    }
}

fn within(text: &str) -> Result<Duration, String> {
    parse_duration(text, &(Duration::ZERO..=Duration::from_secs(600)))
}

fn bad(error: anyhow::Error) -> anyhow::Error {
    BadSetting(format!("{error:#}")).into()
}

async fn poll(http: &Http, request: &Request) -> anyhow::Result<Polled> {
    let started = Instant::now();
    let within = request.details.times.timeout;
    let fetched = timeout(within, http.fetch(request, None)).await;
    let fetched = fetched.map_err(|_| HttpError::TimedOut(within))??;
    let fetched =
        fetched.context("the reply says that nothing has changed, although nothing was known")?;
    let took = started.elapsed();
    let preview = Preview::of(&devices(request, &fetched)?)?;
    Ok(Polled {
        took,
        bytes: fetched.body.len(),
        head: fetched.head,
        preview,
    })
}
