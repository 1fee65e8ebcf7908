//! From the command line to the exit status.

use std::{
    fmt,
    future::Future,
    io::{self, IsTerminal, Write},
    pin::Pin,
    process::ExitCode,
    sync::OnceLock,
    time::Duration,
};

use anyhow::anyhow;
use clap::{Parser, error::ErrorKind};
use env_logger::{Builder, Target, WriteStyle};
use log::LevelFilter;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::stderr::{Stderr, drain};

/// The status for a bad setting, as clap has it.
const BAD_SETTING: u8 = 2;

/// How long the last lines of the log may take to be written.
const LAST_LINES: Duration = Duration::from_millis(500);

/// Ready at the first SIGTERM or SIGINT.
pub type Shutdown = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A setting that clap could not check, for instance because it needs two values. Status 2.
#[derive(Debug)]
pub struct BadSetting(
    /// One line that names the flag or the variable and the rule.
    pub String,
);

impl fmt::Display for BadSetting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for BadSetting {}

/// What was built, where the build was told.
pub(crate) fn revision() -> Option<&'static str> {
    option_env!("REVISION").filter(|revision| !matches!(*revision, "" | "unknown"))
}

/// The version that `--version` names, with the revision where the build was told one (`REVISION`).
pub fn version() -> &'static str {
    static VERSION: OnceLock<String> = OnceLock::new();
    VERSION.get_or_init(|| {
        let version = env!("CARGO_PKG_VERSION");
        revision().map_or_else(
            || version.to_owned(),
            |revision| format!("{version} ({revision})"),
        )
    })
}

/// Reads the settings, sets up the log (stderr, `RUST_LOG`, default `info`; a line that cannot be written is dropped), and does
/// `work` on one thread until it ends.
///
/// | what happens | stderr | status |
/// | --- | --- | --- |
/// | `work` ends well, `--help`, `--version` | | 0 |
/// | `work` ends with an error | one line with its causes, whatever `RUST_LOG` says | 1 |
/// | a flag that does not exist | clap's message | 2 |
/// | a bad value, a bad `RUST_LOG`, [`BadSetting`] | one line that names it | 2 |
///
/// The first SIGTERM or SIGINT makes [`Shutdown`] ready, which `work` heeds; the second drops `work` and its tasks, and the
/// status is 1.
/// The process does not wait for threads that still run when `work` has ended.
pub fn execute<S, F>(work: impl FnOnce(S, Shutdown) -> F) -> ExitCode
where
    S: Parser,
    F: Future<Output = anyhow::Result<()>>,
{
    execute_with(S::try_parse(), log_builder(), work)
}

/// As [`execute`], with settings that clap has read already, and a log of another form.
pub fn execute_with<S, F>(
    settings: clap::error::Result<S>,
    log: Builder,
    work: impl FnOnce(S, Shutdown) -> F,
) -> ExitCode
where
    F: Future<Output = anyhow::Result<()>>,
{
    let settings = match settings {
        Ok(settings) => settings,
        // What precedes the first blank line names the flag, the variable, the value and the rule.
        Err(error) if error.kind() == ErrorKind::ValueValidation => {
            let error = error.to_string();
            let line = error.split("\n\n").next().unwrap_or_default();
            return failed(&line.trim_end().replace('\n', "\\n"), BAD_SETTING);
        }
        Err(error) => {
            // Where nobody listens, the status still tells.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(BAD_SETTING));
        }
    };
    match start_log(log).and_then(|()| run(|shutdown| work(settings, shutdown))) {
        Ok(()) => {
            drain(LAST_LINES);
            ExitCode::SUCCESS
        }
        Err(error) => {
            let status = if error.is::<BadSetting>() {
                BAD_SETTING
            } else {
                1
            };
            failed(&format!("error: {error:#}"), status)
        }
    }
}

fn run<F>(work: impl FnOnce(Shutdown) -> F) -> anyhow::Result<()>
where
    F: Future<Output = anyhow::Result<()>>,
{
    // One thread is enough for what mostly waits, and fits the memory that Akri's chart grants (rule 17).
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let outcome = runtime.block_on(async {
        let first = CancellationToken::new();
        let second = signals(first.clone())?;
        tokio::select! {
            outcome = work(Box::pin(first.cancelled_owned())) => outcome,
            () = second => Err(anyhow!("aborted by a second signal")),
        }
    });
    runtime.shutdown_background();
    outcome
}

/// The log as every binary has it, before `RUST_LOG`.
pub fn log_builder() -> Builder {
    let mut log = Builder::new();
    let style = match io::stderr().is_terminal() {
        true => WriteStyle::Always,
        false => WriteStyle::Never,
    };
    log.filter_level(LevelFilter::Info)
        .target(Target::Pipe(Box::new(Stderr)))
        .write_style(style)
        // What it says for each failed handshake, our own lines say once.
        .filter_module("rustls_platform_verifier", LevelFilter::Off);
    log
}

fn start_log(mut log: Builder) -> anyhow::Result<()> {
    // The log itself would only ignore a bad value.
    if let Some(filters) = std::env::var_os("RUST_LOG") {
        let filters = filters.to_string_lossy();
        let checked = env_filter::Builder::new().try_parse(&filters).map(drop);
        checked.map_err(|error| {
            BadSetting(format!(
                "invalid value '{}' for RUST_LOG: {error}; use a level such as info or warn",
                filters.escape_debug()
            ))
        })?;
    }
    log.parse_default_env();
    Ok(log.try_init()?)
}

/// Cancels `first` at the first signal, and is ready at the second.
fn signals(first: CancellationToken) -> io::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut either = async move || {
        tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        }
    };
    Ok(async move {
        let name = either().await;
        log::info!("{name}: stopping; a second signal aborts at once");
        first.cancel();
        either().await;
    })
}

fn failed(line: &str, status: u8) -> ExitCode {
    // Where stderr is gone, the status still tells.
    let _ = Stderr.write_all(format!("{line}\n").as_bytes());
    drain(LAST_LINES);
    ExitCode::from(status)
}
