//! An Akri discovery handler for HTTP devices: what is HTTP about it. What any handler does, [`akri_discovery`] does.
//!
//! The data's way:
//!
//! 1. [`Config`]: the settings, read once;
//! 2. [`DiscoveryDetails`]: what a Configuration asks for;
//! 3. [`fetch`]: one bounded GET of the discovery service; is it the last reply again, and if not, what is it?
//! 4. [`formats`]: from a reply to the devices in it, less those that the [`filters`] leave out. A new format is a file there.
//!
//! "Rule N" is a rule of Akri's Agent, see `docs/akri-agent.md`.

mod config;
mod details;
pub mod fetch;
pub mod filters;
pub mod formats;

use std::borrow::Cow;

use akri_device_http::{Client, Redirects, shown};
use akri_discovery::{Discovered, DiscoveryHandler, Properties};
use async_trait::async_trait;

pub use config::Config;
pub use details::{DetailsError, DiscoveryDetails};

const USER_AGENT: &str = concat!("akri-http-discovery-handler/", env!("CARGO_PKG_VERSION"));

/// Runs the handler until `shutdown` is ready; see [`akri_discovery::run`].
///
/// # Errors
/// As there, and when the HTTP client cannot be set up.
pub async fn run(config: Config, shutdown: impl Future<Output = ()>) -> anyhow::Result<()> {
    let handler = Http {
        client: Client::new(USER_AGENT, Redirects::Anywhere)?,
        config: config.clone(),
    };
    akri_discovery::run(handler, config.handler, shutdown).await
}

/// Finds the devices that a discovery service lists.
struct Http {
    client: Client,
    config: Config,
}

#[async_trait]
impl DiscoveryHandler for Http {
    type Request = DiscoveryDetails;
    type Reply = fetch::LastBody;

    fn request(&self, details: &str, _: &Properties) -> anyhow::Result<DiscoveryDetails> {
        Ok(DiscoveryDetails::parse(details, &self.config.handler)?)
    }

    async fn discover(
        &self,
        details: &DiscoveryDetails,
        last: Option<&fetch::LastBody>,
    ) -> anyhow::Result<Discovered<fetch::LastBody>> {
        let limit = self.config.max_body_bytes;
        let Some(body) = fetch::fetch(&self.client, details, last, limit).await? else {
            return Ok(Discovered::Unchanged);
        };
        let devices = formats::read(&body, &details.options)?;
        Ok(Discovered::Devices(devices, fetch::LastBody::of(body)))
    }

    fn shown<'a>(&self, id: &'a str) -> Cow<'a, str> {
        Cow::Owned(shown(id))
    }
}
