//! `grpc-client`: reads a device through a gRPC broker until SIGTERM or SIGINT.

use std::process::ExitCode;

use akri_http_broker::{
    command::{execute, stop_signal},
    grpc_client::{Settings, run},
};
use anyhow::Context;

fn main() -> ExitCode {
    execute(|settings: Settings| async move {
        let shutdown = stop_signal().context("cannot wait for signals")?;
        run(settings, shutdown).await
    })
}
