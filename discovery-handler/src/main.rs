//! The `discovery-handler` binary: settings, log, signals, exit code. What it does is in the library.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use akri_http_discovery_handler::{config::Config, run};
use anyhow::Context;
use log::{LevelFilter, error, info};
use tokio::signal::unix::{Signal, SignalKind, signal};

fn main() -> ExitCode {
    let config = match Config::from_args(std::env::args_os()) {
        Ok(config) => config,
        Err(error) => {
            // Where nobody listens, the status still tells.
            let _ = match error.exit_code() {
                0 => writeln!(io::stdout(), "{error}"),
                _ => writeln!(io::stderr(), "{error}"),
            };
            return ExitCode::from(error.exit_code());
        }
    };
    env_logger::Builder::new()
        .filter_level(LevelFilter::Info)
        // What these say line by line, of a failed handshake or a directory that is gone, ours say once.
        .filter_module("rustls_platform_verifier", LevelFilter::Off)
        .filter_module("notify", LevelFilter::Off)
        .parse_default_env()
        .init();
    match start(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn start(config: Config) -> anyhow::Result<()> {
    // One thread is enough for what is mostly waiting, and fits the memory that Akri's chart grants (rule 17).
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("starting the runtime")?;
    let outcome = runtime.block_on(async {
        let signals = (
            signal(SignalKind::terminate()).context("listening for SIGTERM")?,
            signal(SignalKind::interrupt()).context("listening for SIGINT")?,
        );
        run(config, first_signal(signals)).await
    });
    // A name look-up that hangs in its thread must not hold the exit.
    runtime.shutdown_background();
    outcome
}

/// The first signal asks for the end; the second one is not made to wait for it.
async fn first_signal((mut terminate, mut interrupt): (Signal, Signal)) {
    let name = either(&mut terminate, &mut interrupt).await;
    info!("{name}: stopping; a second signal aborts at once");
    tokio::spawn(async move {
        either(&mut terminate, &mut interrupt).await;
        std::process::exit(1);
    });
}

async fn either(terminate: &mut Signal, interrupt: &mut Signal) -> &'static str {
    tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    }
}
