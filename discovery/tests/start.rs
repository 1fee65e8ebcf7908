//! A handler's process. This is a test without cargo's harness, so that it can be the handler too: with `PLAY_HANDLER` it is one.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    process::{Command, ExitCode, Output, Stdio},
    time::Duration,
};

use akri_discovery::{BadSetting, Device, DiscoveryHandler, Found, Properties, run, start};
use akri_stub_agent::{Config, Configuration, StubAgent};

const SOON: Duration = Duration::from_secs(60);

/// Finds one device.
struct One(String);

#[async_trait::async_trait]
impl DiscoveryHandler for One {
    type Request = String;

    fn request(&self, details: &str, _: &Properties) -> anyhow::Result<String> {
        Ok(details.to_owned())
    }

    async fn discover(&self, _: &String, found: &Found<'_>) -> anyhow::Result<()> {
        found.all(vec![Device::new(&self.0)])
    }
}

/// A handler of one device.
#[derive(clap::Args)]
struct Own {
    /// The device's id
    #[arg(long, env, default_value = "lamp")]
    device: String,
}

fn main() -> ExitCode {
    // Test runners ask each target for its list of tests.
    if std::env::args().any(|argument| argument == "--list") {
        return ExitCode::SUCCESS;
    }
    if std::env::var_os("PLAY_HANDLER").is_some() {
        return start("one", false, |own: Own, settings, shutdown| async {
            match own.device.as_str() {
                "" => Err(BadSetting("DEVICE is empty".into()).into()),
                _ => run(One(own.device), settings, shutdown).await,
            }
        });
    }
    help_names_its_own_settings_and_those_of_every_handler_with_its_defaults();
    a_bad_setting_is_one_line_and_status_2();
    it_registers_by_its_defaults_and_ends_well_at_sigterm();
    ExitCode::SUCCESS
}

fn handler() -> Command {
    let mut handler = Command::new(std::env::current_exe().unwrap());
    for (name, _) in std::env::vars_os() {
        if name != "PATH" {
            handler.env_remove(name);
        }
    }
    handler.env("PLAY_HANDLER", "1");
    handler
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn help_names_its_own_settings_and_those_of_every_handler_with_its_defaults() {
    let output = handler().arg("--help").output().unwrap();
    assert!(output.status.success());
    let help = String::from_utf8(output.stdout).unwrap();
    for expected in [
        "A handler of one device Usage: ",
        "--device <DEVICE>",
        "[env: DISCOVERY_HANDLER_NAME=] [default: one]",
        "[env: SHARED=] [default: false]",
        "--state-directory",
    ] {
        let words = help.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(words.contains(expected), "{expected}: {help}");
    }
}

fn a_bad_setting_is_one_line_and_status_2() {
    for (name, value, expected) in [
        ("POLL_INTERVAL", "often", "'often' for '--poll-interval"),
        ("DEVICE", "", "DEVICE is empty"),
        ("RUST_LOG", "a=b=c", "RUST_LOG"),
    ] {
        let output = handler().env(name, value).output().unwrap();
        let line = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{line}");
        assert!(line.contains(expected), "{line}");
        assert_eq!(line.lines().count(), 1, "{line}");
    }
}

#[tokio::main(flavor = "current_thread")]
async fn it_registers_by_its_defaults_and_ends_well_at_sigterm() {
    let directory = tempfile::tempdir().unwrap();
    let agent = StubAgent::start(Config {
        configurations: vec![Configuration::new("devices", "one", "")],
        ..Config::in_directory(directory.path())
    });
    let agent = agent.await.unwrap();
    let process = tokio::process::Command::from(handler())
        .env("DISCOVERY_HANDLERS_DIRECTORY", directory.path())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let found = agent.wait_for(|state| state.instances.len() == 1, SOON);
    let instances = found.await.unwrap().instances;
    let (_, instance) = instances.first_key_value().unwrap();
    assert_eq!(
        (instance.device_id.as_str(), instance.shared),
        ("lamp", false)
    );

    let pid = process.id().unwrap().to_string();
    assert!(Command::new("kill").arg(pid).status().unwrap().success());
    let output = tokio::time::timeout(SOON, process.wait_with_output()).await;
    let output = output.unwrap().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(stderr(&output).contains("SIGTERM: stopping"));
}
