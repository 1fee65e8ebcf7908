//! The `discovery-handler` binary. What it does is in the library.

use std::process::ExitCode;

use akri_daemon::execute;
use akri_http_discovery_handler::{Check, Config, check, run};
use clap::{Parser, Subcommand};

/// An Akri discovery handler for HTTP devices: polls a discovery URL and streams the devices to the Agent.
#[derive(Parser)]
#[command(name = "discovery-handler", version = akri_daemon::version())]
// What decides about a poll decides about a check too, on either side of the word.
#[command(mut_args(|argument| argument.global(true)))]
struct Arguments {
    #[command(subcommand)]
    instead: Option<Instead>,

    #[command(flatten)]
    config: Config,
}

#[derive(Subcommand)]
enum Instead {
    Check(Check),
}

fn main() -> ExitCode {
    execute(|arguments: Arguments, shutdown| async move {
        match arguments.instead {
            None => run(arguments.config, shutdown).await,
            Some(Instead::Check(asked)) => check(arguments.config, asked, shutdown).await,
        }
    })
}
