//! The tables of docs/settings.md say, word for word, what `--help` says.
//!
//! `UPDATE_SETTINGS=1 cargo test --test settings` writes them anew.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::{env, fs, path::Path};

use akri_http_discovery_handler::{
    Config,
    formats::{Format, Options, read},
};
use clap::{Command, CommandFactory};

/// Every binary whose table stands between `<!-- settings: NAME -->` and `<!-- end -->`.
fn commands() -> Vec<Command> {
    vec![
        Config::command(),
        akri_http_mock_device::Settings::command(),
        akri_stub_agent::Settings::command(),
        akri_http_broker::standalone::Settings::command(),
        akri_http_broker::grpc::Settings::command(),
        akri_http_broker::client::Settings::command(),
        akri_http_readings::Settings::command(),
    ]
}

fn table(command: &Command) -> String {
    let mut table =
        "| flag | variable | default | meaning |\n| --- | --- | --- | --- |\n".to_string();
    for argument in command.get_arguments() {
        let Some(flag) = argument.get_long() else {
            continue;
        };
        let code = |text: &str| match text {
            "" => String::new(),
            text => format!("`{text}`"),
        };
        let variable = argument.get_env().unwrap_or_default().to_string_lossy();
        let defaults = argument
            .get_default_values()
            .iter()
            .map(|value| value.to_string_lossy());
        let default = defaults.collect::<Vec<_>>().join(" ");
        let meaning = argument.get_help().map(ToString::to_string);
        table += &format!(
            "| `--{flag}` | {} | {} | {} |\n",
            code(&variable),
            code(&default),
            meaning.unwrap_or_default()
        );
    }
    table
}

#[test]
fn the_settings_tables_are_what_help_says() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/settings.md");
    let mut text = fs::read_to_string(&path).unwrap();
    let update = env::var_os("UPDATE_SETTINGS").is_some();
    for command in commands() {
        let begin = format!("<!-- settings: {} -->\n", command.get_name());
        let (before, rest) = text
            .split_once(&begin)
            .unwrap_or_else(|| panic!("no {begin}"));
        let (found, after) = rest.split_once("<!-- end -->").unwrap();
        let table = format!("\n{}\n", table(&command));
        if !update {
            assert_eq!(found, table, "the table of {}", command.get_name());
        }
        text = format!("{before}{begin}{table}<!-- end -->{after}");
    }
    if update {
        fs::write(path, text).unwrap();
    }
}

/// Else an inventory could have a broker send any file of its Pod to any server, or keep it from starting.
#[test]
fn no_source_can_set_what_a_broker_is_set_by() {
    let options = Options {
        format: Format::Devices,
        ..Options::default()
    };
    let is_taken = |name: &str| {
        let body = format!(r#"[{{"endpoint": "a:1", "properties": {{"{name}": "x"}}}}]"#);
        read(body.as_bytes(), &options).is_ok()
    };
    assert!(is_taken("SITE"));
    for command in [
        akri_http_broker::standalone::Settings::command(),
        akri_http_broker::grpc::Settings::command(),
    ] {
        for variable in command.get_arguments().filter_map(clap::Arg::get_env) {
            let variable = variable.to_str().unwrap();
            assert!(!is_taken(variable), "{variable}");
        }
    }
    for variable in ["RUST_LOG", "SSL_CERT_FILE", "https_proxy", "BASH_ENV"] {
        assert!(!is_taken(variable), "{variable}");
    }
}
