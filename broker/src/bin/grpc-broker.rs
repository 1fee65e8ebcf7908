//! `grpc-broker`: serves the devices of its Pod over gRPC until SIGTERM or SIGINT.

use std::process::ExitCode;

use akri_http_broker::{
    command::{execute, stop_signal},
    endpoints::from_environment,
    grpc_broker::{Config, Settings, run},
};
use anyhow::Context;
use tokio::net::TcpListener;

fn main() -> ExitCode {
    execute(|settings: Settings| async move {
        let shutdown = stop_signal().context("cannot wait for signals")?;
        let devices = from_environment(std::env::vars_os())?;
        let listener = TcpListener::bind(settings.grpc_endpoint)
            .await
            .with_context(|| {
                format!("cannot listen on GRPC_ENDPOINT={}", settings.grpc_endpoint)
            })?;
        run(
            Config {
                devices,
                min_interval: settings.min_interval,
                max_reads: settings.max_reads,
                shared_reads: settings.shared_reads,
            },
            listener,
            shutdown,
        )
        .await
    })
}
