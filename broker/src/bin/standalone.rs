//! `standalone`: reads the devices of its Pod until SIGTERM or SIGINT.

use std::process::ExitCode;

use akri_http_broker::{
    command::{execute, stop_signal},
    endpoints::from_environment,
    standalone::{Config, Settings, run},
};
use anyhow::Context;

fn main() -> ExitCode {
    execute(|settings: Settings| async move {
        let shutdown = stop_signal().context("cannot wait for signals")?;
        let devices = from_environment(std::env::vars_os())?;
        run(
            Config {
                devices,
                interval: settings.interval,
            },
            shutdown,
        )
        .await
    })
}
