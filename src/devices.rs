//! The demo's devices and its discovery service.

use std::net::SocketAddr;

use akri_http_mock_device::Devices;
use anyhow::{Context, Result};
use tokio::{net::TcpListener, sync::oneshot};
use tokio_util::task::AbortOnDropHandle;

/// A mock server that can be stopped and started again at the same address.
pub(crate) struct MockServer {
    pub(crate) address: SocketAddr,
    stop: oneshot::Sender<()>,
    serving: AbortOnDropHandle<Result<()>>,
}

impl MockServer {
    pub(crate) async fn start(
        address: SocketAddr,
        paths: &[&str],
        discovered: &[String],
    ) -> Result<Self> {
        let listener = TcpListener::bind(address)
            .await
            .with_context(|| format!("cannot listen on {address}"))?;
        let address = listener.local_addr()?;
        let (stop, stopped) = oneshot::channel();
        let devices = Devices {
            paths: paths.iter().map(ToString::to_string).collect(),
            discovered: discovered.to_vec(),
            writable: true,
        };
        let serving = akri_http_mock_device::serve(listener, devices, async {
            let _ = stopped.await;
        });
        let serving = AbortOnDropHandle::new(tokio::spawn(serving));
        Ok(Self {
            address,
            stop,
            serving,
        })
    }

    pub(crate) async fn stop(self) -> SocketAddr {
        drop(self.stop);
        // The port is free afterwards, also after an error.
        let _ = self.serving.await;
        self.address
    }
}

pub(crate) fn any_port() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

/// Replaces the discovery service's list.
pub(crate) async fn put(url: &str, endpoints: &[String]) -> Result<()> {
    let client = reqwest::Client::builder()
        .no_proxy()
        .tls_certs_only([])
        .build()?;
    let reply = client.put(url).body(endpoints.join("\n")).send().await?;
    reply.error_for_status()?;
    Ok(())
}
