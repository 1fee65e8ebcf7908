//! `readings`: a live page with the readings of all devices, until SIGTERM or SIGINT.

use std::process::ExitCode;

use akri_daemon::{BadSetting, execute, listen};
use akri_http_readings::{BrokersFrom, Config, NAMES, Settings, run};
use anyhow::Context;
use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::sync::watch;

fn main() -> ExitCode {
    execute(|settings: Settings, shutdown| async move {
        if settings.brokers.len() > NAMES {
            let rule = format!("BROKERS are at most {NAMES} names");
            return Err(BadSetting(rule).into());
        }
        allow_files();
        let address = settings.listen;
        let context = || format!("cannot listen on LISTEN={address}");
        let listener = listen(address).await.with_context(context)?;
        let (_note, note) = watch::channel(String::new());
        let config = Config {
            brokers: BrokersFrom::Names(settings.brokers),
            interval: settings.interval,
            note,
        };
        run(config, listener, shutdown).await
    })
}

/// A connection to each broker may need more files than a process has by default.
fn allow_files() {
    let mut files = getrlimit(Resource::Nofile);
    files.current = files.maximum;
    // If that is not allowed, brokers that find no room say so.
    let _ = setrlimit(Resource::Nofile, files);
}
