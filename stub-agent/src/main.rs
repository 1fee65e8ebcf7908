//! The stub Agent in a terminal.

use std::process::ExitCode;

use akri_stub_agent::{Config, Settings, StubAgent};

fn main() -> ExitCode {
    akri_daemon::execute(|settings: Settings, shutdown| async move {
        let agent = StubAgent::start(Config::try_from(settings)?).await?;
        shutdown.await;
        agent.stop().await;
        Ok(())
    })
}
