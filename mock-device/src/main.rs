//! `mock-device`: serves mock devices until SIGTERM or SIGINT.

use std::process::ExitCode;

use akri_http_mock_device::{Settings, serve};
use anyhow::Context;
use tokio::net::TcpListener;

fn main() -> ExitCode {
    akri_daemon::execute(|settings: Settings, shutdown| async move {
        let listener = TcpListener::bind(settings.listen)
            .await
            .with_context(|| format!("cannot listen on LISTEN={}", settings.listen))?;
        serve(listener, settings.devices, shutdown).await
    })
}
