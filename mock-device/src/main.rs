//! `mock-device`: serves mock devices until SIGTERM or SIGINT.

use std::{future::Future, io::Write, process::ExitCode};

use akri_http_mock_device::{Settings, serve};
use anyhow::Context;
use clap::Parser;
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};

fn main() -> ExitCode {
    let settings = match Settings::try_parse() {
        Ok(settings) => settings,
        Err(error) if error.use_stderr() => {
            let error = error.to_string();
            return failed(error.lines().next().unwrap_or_default(), 2);
        }
        // --help and --version
        Err(text) => text.exit(),
    };
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("info")).init();
    match run(settings) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&format!("error: {error:#}"), 1),
    }
}

#[tokio::main(flavor = "current_thread")]
async fn run(settings: Settings) -> anyhow::Result<()> {
    let shutdown = stop_signal().context("cannot wait for signals")?;
    let listener = TcpListener::bind(settings.listen)
        .await
        .with_context(|| format!("cannot listen on LISTEN={}", settings.listen))?;
    serve(listener, settings.devices, shutdown).await
}

/// Ready at the first SIGTERM or SIGINT.
fn stop_signal() -> std::io::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        log::info!("stopping");
    })
}

fn failed(line: &str, status: u8) -> ExitCode {
    // Where stderr is gone, the status still tells.
    let _ = writeln!(std::io::stderr(), "{line}");
    ExitCode::from(status)
}
