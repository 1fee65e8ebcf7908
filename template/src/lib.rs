//! Finds devices for Akri, and does nothing else: registration, restarts, updates and streams are akri-discovery's.

use akri_discovery::{Device, DiscoveryHandler, Found, Properties};
use anyhow::ensure;

/// The discovery handler.
pub struct Handler;

#[async_trait::async_trait]
impl DiscoveryHandler for Handler {
    /// What a Configuration asks for: here its `discoveryDetails`, the place whose devices are wanted.
    type Request = String;

    /// Refuses what can never work, in one line that says what would be right.
    fn request(&self, details: &str, _: &Properties) -> anyhow::Result<String> {
        ensure!(!details.is_empty(), "discoveryDetails must name a place");
        Ok(details.to_owned())
    }

    /// Finds all devices that are there now. It is called again and again, and an error keeps the devices of the last call.
    async fn discover(&self, place: &String, found: &Found<'_>) -> anyhow::Result<()> {
        // This one is made up. A device has the same id as long as it is the same device; a broker gets its properties as
        // environment variables.
        let device = Device::new(format!("{place}/device-1")).with_property("DEVICE", "device-1");
        found.all(vec![device])
    }
}
