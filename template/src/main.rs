//! The discovery handler's process. `--help` lists its settings.

use std::process::ExitCode;

use akri_discovery::{run, start};

use {{crate_name}}::Handler;

fn main() -> ExitCode {
    // Whether more than one node can see the same device.
    let shared = {{shared}};
    start("{{handler_name}}", shared, |(), settings, shutdown| {
        run(Handler, settings, shutdown)
    })
}
