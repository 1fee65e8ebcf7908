//! `grpc-broker`: serves the devices of its Pod over gRPC until SIGTERM or SIGINT.

use std::process::ExitCode;

use akri_daemon::{execute, listen};
use akri_http_broker::{
    grpc::{Config, Settings, run},
    pod_devices::from_environment,
};
use anyhow::Context;

fn main() -> ExitCode {
    execute(|settings: Settings, shutdown| async move {
        let config = Config {
            devices: from_environment(std::env::vars_os())?,
            min_interval: settings.min_interval,
            max_reads: settings.max_reads,
            admin: settings.admin,
            credentials: settings.credentials,
        };
        let address = settings.grpc_endpoint;
        let context = || format!("cannot listen on GRPC_ENDPOINT={address}");
        let listener = listen(address).await.with_context(context)?;
        run(config, listener, shutdown).await
    })
}
