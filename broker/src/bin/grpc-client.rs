//! `grpc-client`: reads a device through a gRPC broker until SIGTERM or SIGINT.

use std::process::ExitCode;

use akri_daemon::execute;
use akri_http_broker::client::{Settings, run};

fn main() -> ExitCode {
    execute(|settings: Settings, shutdown| run(settings, shutdown))
}
