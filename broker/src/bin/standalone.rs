//! `standalone`: reads the devices of its Pod until SIGTERM or SIGINT.

use std::process::ExitCode;

use akri_daemon::execute;
use akri_http_broker::{
    pod_devices::from_environment,
    standalone::{Config, Settings, run},
};

fn main() -> ExitCode {
    execute(|settings: Settings, shutdown| async move {
        let config = Config {
            devices: from_environment(std::env::vars_os())?,
            interval: settings.interval,
            admin: settings.admin,
            credentials: settings.credentials,
        };
        run(config, shutdown).await
    })
}
