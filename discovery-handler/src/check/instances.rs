//! Whether the cluster has the Instances that it should, for `helm test`.

use std::{collections::HashSet, fs, path::PathBuf, time::Duration};

use akri_device_http::{
    Client, CredentialFiles, HttpError, Redirects, StatusCode, Url,
    header::{ACCEPT, HeaderMap, HeaderValue},
};
use anyhow::{Context, anyhow, bail};
use clap::Args;
use serde::Deserialize;
use tokio::time::{Instant, sleep};

use super::found::FoundDevice;
use crate::{USER_AGENT, shown_id};

/// Instances in one reply, and the bytes that it may have.
const PAGE: &str = "500";
const MAX_PAGE: usize = 4 * 1024 * 1024;

/// More than Akri's Agent takes in one message (rule 11).
const MAX_PAGES: usize = 200;

/// How long a request for a page may take.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The time between two looks.
const PAUSE: Duration = Duration::from_secs(1);

/// Only their names are wanted. Where that is not understood, the whole Instances come.
const NAMES: &str =
    "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json";

/// How a Pod reaches the Kubernetes API.
#[derive(Args, Clone, Debug)]
pub struct ServiceAccount {
    /// Address of the Kubernetes API
    #[arg(long, env = "KUBERNETES_SERVICE_HOST", hide = true)]
    pub kubernetes_service_host: Option<String>,

    /// Its port
    #[arg(
        long,
        env = "KUBERNETES_SERVICE_PORT",
        default_value_t = 443,
        hide = true
    )]
    pub kubernetes_service_port: u16,

    /// Directory with `token`, `ca.crt` and `namespace`
    #[arg(
        long,
        default_value = "/var/run/secrets/kubernetes.io/serviceaccount",
        hide = true
    )]
    pub service_account_directory: PathBuf,
}

/// The Kubernetes API, as the Pod's ServiceAccount sees it.
pub struct Cluster {
    client: Client,
    instances: Url,
}

#[derive(Deserialize)]
struct Page {
    metadata: PageMetadata,
    items: Vec<Item>,
}

#[derive(Deserialize)]
struct PageMetadata {
    #[serde(default, rename = "continue")]
    next: String,
}

#[derive(Deserialize)]
struct Item {
    metadata: Metadata,
}

#[derive(Deserialize)]
struct Metadata {
    name: String,
}

impl Cluster {
    pub fn of(account: &ServiceAccount) -> anyhow::Result<Self> {
        let host = account.kubernetes_service_host.as_deref();
        let host = host
            .context("--instances-within: KUBERNETES_SERVICE_HOST is not set, so this is no Pod")?;
        let host = if host.contains(':') {
            format!("[{host}]")
        } else {
            host.to_owned()
        };
        let file = |name| account.service_account_directory.join(name);
        let namespace = file("namespace");
        let context = || format!("--instances-within: reading {}", namespace.display());
        let namespace = fs::read_to_string(&namespace).with_context(context)?;
        let path = format!(
            "/apis/akri.sh/v0/namespaces/{}/instances?limit={PAGE}",
            namespace.trim()
        );
        let port = account.kubernetes_service_port;
        let instances = Url::parse(&format!("https://{host}:{port}{path}"));
        let files = CredentialFiles {
            bearer_token_file: Some(file("token")),
            ca_file: Some(file("ca.crt")),
            ..CredentialFiles::default()
        };
        Ok(Self {
            client: Client::new(USER_AGENT, Redirects::SameOrigin, files)?,
            instances: instances
                .context("--instances-within: KUBERNETES_SERVICE_HOST is no address")?,
        })
    }

    /// Waits until there is an Instance of this Configuration for each of these devices. Devices that are not shared have more, one
    /// on each node, whose names cannot be known here: then their number has to do.
    ///
    /// # Errors
    /// What is missing after this time, or why it cannot be seen.
    pub async fn has(
        &self,
        name: &str,
        devices: &[FoundDevice],
        within: Duration,
    ) -> anyhow::Result<()> {
        let end = Instant::now() + within;
        loop {
            let missing = match self.names().await {
                Ok(names) => match missing(name, devices, &names) {
                    None => return Ok(()),
                    Some(missing) => anyhow!("{missing}"),
                },
                Err(error) => error,
            };
            if Instant::now() >= end {
                return Err(missing.context(format!("after {within:?}")));
            }
            sleep(PAUSE.min(end.saturating_duration_since(Instant::now()))).await;
        }
    }

    /// The names of all Instances in the namespace.
    async fn names(&self) -> anyhow::Result<HashSet<String>> {
        let mut names = HashSet::new();
        let mut url = self.instances.clone();
        for _ in 0..MAX_PAGES {
            let page = self.page(&url).await.map_err(|error| match error {
                HttpError::Status(StatusCode::FORBIDDEN) => {
                    anyhow!("the Pod's ServiceAccount may not list instances.akri.sh")
                }
                error => anyhow!("cannot list the Instances: {error}"),
            })?;
            let page: Page = serde_json::from_slice(&page)
                .map_err(|error| anyhow!("what should be a list of Instances is none: {error}"))?;
            names.extend(page.items.into_iter().map(|item| item.metadata.name));
            if page.metadata.next.is_empty() {
                return Ok(names);
            }
            url = self.instances.clone();
            url.query_pairs_mut()
                .append_pair("continue", &page.metadata.next);
        }
        bail!("there are more than {MAX_PAGES} times {PAGE} Instances")
    }

    async fn page(&self, url: &Url) -> Result<Vec<u8>, HttpError> {
        let headers = HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static(NAMES))]);
        let reply = self.client.get(url, headers, TIMEOUT).await?;
        reply.body(MAX_PAGE).await
    }
}

/// What has no Instance, in words.
fn missing(name: &str, devices: &[FoundDevice], names: &HashSet<String>) -> Option<String> {
    let count = devices.len();
    if devices.iter().all(|device| device.instance.is_none()) {
        let ours = |instance: &&String| {
            let hash = (instance.strip_prefix(name)).and_then(|rest| rest.strip_prefix('-'));
            hash.is_some_and(|hash| hash.len() == 6 && !hash.contains('-'))
        };
        let there = names.iter().filter(ours).count();
        return (there < count)
            .then(|| format!("there are {count} devices, but {there} Instances of {name}"));
    }
    let without = |device: &&FoundDevice| {
        (device.instance.as_ref()).is_some_and(|instance| !names.contains(instance))
    };
    let missing = devices.iter().filter(without).count();
    let first = devices.iter().find(without)?;
    Some(format!(
        "{missing} of {count} devices have no Instance, such as {}, whose Instance would be {}",
        shown_id(&first.id),
        first.instance.as_deref().unwrap_or_default()
    ))
}
