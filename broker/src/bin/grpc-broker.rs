//! `grpc-broker`: serves the devices of its Pod over gRPC until SIGTERM or SIGINT.

use std::process::ExitCode;

use akri_daemon::execute;
use akri_http_broker::{
    grpc::{Config, Settings, run},
    pod_devices::from_environment,
};
use anyhow::Context;
use tokio::net::TcpListener;

fn main() -> ExitCode {
    execute(|settings: Settings, shutdown| async move {
        let config = Config {
            devices: from_environment(std::env::vars_os())?,
            min_interval: settings.min_interval,
            max_reads: settings.max_reads,
        };
        let address = settings.grpc_endpoint;
        let listener = TcpListener::bind(address).await;
        let listener =
            listener.with_context(|| format!("cannot listen on GRPC_ENDPOINT={address}"))?;
        run(config, listener, shutdown).await
    })
}
