//! What every binary of this crate does around its work.

use std::{
    future::Future,
    io::{self, Write},
    process::ExitCode,
};

use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};

/// Reads the settings, sets up the log (stderr, `RUST_LOG`, default `info`), does `work` on a
/// current-thread runtime and turns its error into one line on stderr and status 1. A bad setting is
/// one line and status 2, before `work` is called.
///
/// The process does not wait for what still runs when `work` has ended, such as a DNS look-up that
/// hangs.
pub fn execute<S, F>(work: impl FnOnce(S) -> F) -> ExitCode
where
    S: Parser,
    F: Future<Output = anyhow::Result<()>>,
{
    let settings = match S::try_parse() {
        Ok(settings) => settings,
        Err(error) if error.use_stderr() => {
            // The first line names the flag, the variable, the value and the rule; usage follows.
            let error = error.to_string();
            return failed(error.lines().next().unwrap_or_default(), 2);
        }
        // --help and --version
        Err(text) => text.exit(),
    };
    env_logger::Builder::new()
        .filter_level(log::LevelFilter::Info)
        // One line for each handshake that fails, while a device is down: ours says it once.
        .filter_module("rustls_platform_verifier", log::LevelFilter::Off)
        .parse_default_env()
        .init();

    let runtime = match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => return failed(&format!("error: cannot start the runtime: {error}"), 1),
    };
    let outcome = runtime.block_on(async { work(settings).await });
    runtime.shutdown_background();
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&format!("error: {error:#}"), 1),
    }
}

/// A future that is ready at the first SIGTERM or SIGINT after this call. A second one is not made to
/// wait: it ends the process with status 1.
///
/// # Errors
/// The operating system lets no handler be set, or there is no tokio runtime with I/O.
pub fn stop_signal() -> io::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut either = async move || {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    Ok(async move {
        either().await;
        log::info!("stopping");
        tokio::spawn(async move {
            either().await;
            std::process::exit(1);
        });
    })
}

fn failed(line: &str, status: u8) -> ExitCode {
    // Where stderr is gone, the status still tells.
    let _ = writeln!(io::stderr(), "{line}");
    ExitCode::from(status)
}
