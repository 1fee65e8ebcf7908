//! The `discovery-handler` binary. What it does is in the library.

use std::process::ExitCode;

use akri_http_discovery_handler::run;

fn main() -> ExitCode {
    akri_daemon::execute(run)
}
