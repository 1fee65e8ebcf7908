//! `mock-device`: serves mock devices until SIGTERM or SIGINT.

use std::process::ExitCode;

use akri_daemon::{execute, listen};
use akri_http_mock_device::{Settings, serve};
use anyhow::Context;

fn main() -> ExitCode {
    execute(|settings: Settings, shutdown| async move {
        let listener = listen(settings.listen)
            .await
            .with_context(|| format!("cannot listen on LISTEN={}", settings.listen))?;
        serve(listener, settings.devices, shutdown).await
    })
}
