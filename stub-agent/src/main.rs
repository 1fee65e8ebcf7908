//! The stub Agent in a terminal. SIGTERM or SIGINT stops it, a second one aborts at once.

use std::process::ExitCode;

use akri_http_stub_agent::{Config, Settings, run};
use clap::Parser;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

#[tokio::main]
async fn main() -> ExitCode {
    let settings = Settings::parse();
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("info")).init();
    match serve(settings).await {
        Ok(code) => code,
        Err(error) => {
            log::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn serve(settings: Settings) -> anyhow::Result<ExitCode> {
    let config = Config::try_from(settings)?;
    let (mut terminate, mut interrupt) = (
        signal(SignalKind::terminate())?,
        signal(SignalKind::interrupt())?,
    );
    let shutdown = CancellationToken::new();
    let running = run(config, shutdown.clone().cancelled_owned());
    let aborted = async {
        either(&mut terminate, &mut interrupt).await;
        shutdown.cancel();
        either(&mut terminate, &mut interrupt).await;
    };
    tokio::select! {
        ended = running => ended.map(|()| ExitCode::SUCCESS),
        () = aborted => {
            log::error!("aborted by a second signal");
            Ok(ExitCode::FAILURE)
        }
    }
}

async fn either(one: &mut Signal, other: &mut Signal) {
    tokio::select! {
        _ = one.recv() => {}
        _ = other.recv() => {}
    }
}
