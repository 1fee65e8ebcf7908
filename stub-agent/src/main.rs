//! The stub Agent in a terminal.

use std::process::ExitCode;

use akri_stub_agent::{Config, Settings, run};

fn main() -> ExitCode {
    akri_daemon::execute(|settings: Settings, shutdown| async move {
        run(Config::try_from(settings)?, shutdown).await
    })
}
