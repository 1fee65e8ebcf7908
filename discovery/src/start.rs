//! A handler's `main`.

use std::process::ExitCode;

use akri_daemon::{Shutdown, execute_with, log_builder};
use clap::{Args, Command, FromArgMatches};

use crate::Settings;

/// Reads the settings, from flags and environment variables, logs to stderr (`RUST_LOG`, default `info`), and does `work` on
/// one thread until it ends, which will be [`run`](crate::run) after whatever the handler needs first. SIGTERM and SIGINT make
/// [`Shutdown`] ready, a second one ends the process.
///
/// `Own` are settings that only this handler has, and its documentation is what `--help` begins with; `()` where there are
/// none. `name` is the one under which Configurations ask for the handler, and `shared` says whether other nodes can see the
/// same devices: both are defaults, of `DISCOVERY_HANDLER_NAME` and `SHARED`.
///
/// The exit status is 0 where `work` ends well, 1 where it ends with an error, and 2 for a bad setting, each with one line on
/// stderr that says why.
pub fn start<Own, F>(
    name: &'static str,
    shared: bool,
    work: impl FnOnce(Own, Settings, Shutdown) -> F,
) -> ExitCode
where
    Own: Args,
    F: Future<Output = anyhow::Result<()>>,
{
    let shared = if shared { "true" } else { "false" };
    let command = Settings::augment_args(Command::new(name))
        .about("A discovery handler for Akri")
        .long_about(None)
        .mut_arg("discovery_handler_name", |it| it.default_value(name))
        .mut_arg("shared", |it| it.default_value(shared));
    let settings = (Own::augment_args(command).try_get_matches()).and_then(|found| {
        Ok((
            Own::from_arg_matches(&found)?,
            Settings::from_arg_matches(&found)?,
        ))
    });
    execute_with(settings, log_builder(), |(own, settings), shutdown| {
        work(own, settings, shutdown)
    })
}
