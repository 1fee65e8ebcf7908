//! An Akri discovery handler for HTTP devices: what is HTTP about it. What any handler does, [`akri_discovery`] does.
//!
//! The data's way:
//!
//! 1. [`Config`]: the settings, read once;
//! 2. [`DiscoveryDetails`]: what a Configuration asks for;
//! 3. [`credentials`]: what it proves, and whom it trusts;
//! 4. [`fetch`]: one bounded GET of the discovery service; is it the last reply again, and if not, what is it?
//! 5. [`formats`]: from a reply to the devices in it, less those that the [`filters`] leave out. A new format is a file there.
//!
//! [`check`] does it once, without an Agent.
//!
//! "Rule N" is a rule of Akri's Agent, see `docs/akri-agent.md`.

mod check;
mod config;
pub mod credentials;
mod details;
pub mod fetch;
pub mod filters;
pub mod formats;
mod unpack;

use std::{
    borrow::Cow,
    fmt,
    hash::{Hash, Hasher},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use akri_daemon::LineBudget;
use akri_device_http::{Client, Credentials, Redirects, StatusCode, shown};
use akri_discovery::{Devices, DiscoveryHandler, Found, Properties, Times};
use anyhow::Context;
use async_trait::async_trait;

pub use check::{Check, Output, check};
pub use config::Config;
pub use details::{DetailsError, DiscoveryDetails};
use fetch::{Fetched, LastBody};
use formats::Format;

const USER_AGENT: &str = concat!("akri-http-discovery-handler/", env!("CARGO_PKG_VERSION"));

/// Runs the handler until `shutdown` is ready; see [`akri_discovery::run`].
///
/// # Errors
/// As there, and when the HTTP client cannot be set up.
pub async fn run(config: Config, shutdown: impl Future<Output = ()>) -> anyhow::Result<()> {
    let settings = config.handler.clone();
    akri_discovery::run(Http::new(config)?, settings, shutdown).await
}

/// Finds the devices that a discovery service lists.
struct Http {
    client: Client,
    config: Config,
    /// For what a Configuration gets wrong without being refused.
    lines: Mutex<LineBudget>,
}

/// What is asked for, and by whom. Requests with different credentials are different, and never share a reply.
#[derive(Clone)]
struct Request {
    details: DiscoveryDetails,
    credentials: Credentials,
    /// Follows from the other two.
    client: Client,
    /// The reply whose devices were taken last, if there is one.
    last: Arc<Mutex<Option<Arc<LastBody>>>>,
}

impl Request {
    fn last(&self) -> MutexGuard<'_, Option<Arc<LastBody>>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PartialEq for Request {
    fn eq(&self, other: &Self) -> bool {
        (&self.details, &self.credentials) == (&other.details, &other.credentials)
    }
}

impl Eq for Request {}

impl Hash for Request {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (&self.details, &self.credentials).hash(state);
    }
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.details.fmt(f)
    }
}

impl Http {
    fn new(config: Config) -> anyhow::Result<Self> {
        let files = config.credentials.clone();
        Ok(Self {
            client: Client::new(USER_AGENT, Redirects::Anywhere, files)?,
            config,
            lines: Mutex::default(),
        })
    }

    async fn fetch(
        &self,
        request: &Request,
        last: Option<&LastBody>,
    ) -> anyhow::Result<Option<Fetched>> {
        let Request {
            client, details, ..
        } = request;
        let format = details.options.format;
        let refresh = Some(details.times.interval).filter(|_| format == Format::HttpSd);
        let headers = fetch::headers(format.accept(), refresh);
        let limit = self.config.max_body_bytes;
        let fetched = fetch::fetch(client, details, headers, last, limit).await;
        match details.proxy {
            // It may be the proxy's fault.
            Some(_) => fetched.context("through the proxy"),
            None => Ok(fetched?),
        }
    }

    fn warn_of_ignored(&self, details: &DiscoveryDetails, properties: &Properties) {
        if let Some(names) = credentials::ignored(properties)
            && let Some(left_out) =
                (self.lines.lock().unwrap_or_else(PoisonError::into_inner)).take()
        {
            log::warn!("{details}: discoveryProperties that nobody reads: {names}{left_out}");
        }
    }
}

/// An id, or an endpoint, safe to log. One without a scheme has no place for a secret.
fn shown_id(id: &str) -> Cow<'_, str> {
    match id.contains("://") {
        true => Cow::Owned(shown(id)),
        false => Cow::Borrowed(id),
    }
}

/// The devices of a reply.
fn devices(request: &Request, fetched: &Fetched) -> anyhow::Result<Devices> {
    if fetched.head.status == StatusCode::NO_CONTENT {
        return Ok(Devices::from(Vec::new()));
    }
    let options = &request.details.options;
    (options.format).check_content_type(&fetched.head.content_type)?;
    formats::read(&fetched.body, options)
}

#[async_trait]
impl DiscoveryHandler for Http {
    type Request = Request;

    fn request(&self, details: &str, properties: &Properties) -> anyhow::Result<Request> {
        let details = DiscoveryDetails::parse(details, &self.config.handler)?;
        let named = !details.url.username().is_empty() || details.url.password().is_some();
        let credentials = credentials::from_properties(properties, named)?;
        self.warn_of_ignored(&details, properties);
        let client = self
            .client
            .with(credentials.clone(), details.proxy.clone())?;
        Ok(Request {
            details,
            credentials,
            client,
            last: Arc::default(),
        })
    }

    async fn discover(&self, request: &Request, found: &Found<'_>) -> anyhow::Result<()> {
        let last = request.last().clone();
        if let Some(fetched) = self.fetch(request, last.as_deref()).await? {
            found.all(devices(request, &fetched)?)?;
            *request.last() = Some(Arc::new(fetched.keep()));
        }
        Ok(())
    }

    fn times(&self, request: &Request, _: Times) -> Times {
        request.details.times
    }

    fn identify(&self, request: &Request, mut list: &mut dyn Hasher) {
        request.details.identify(list);
        // Another tenant's list may be another one.
        if request.credentials != Credentials::default() {
            request.credentials.hash(&mut list);
        }
    }

    fn shown<'a>(&self, id: &'a str) -> Cow<'a, str> {
        shown_id(id)
    }
}
