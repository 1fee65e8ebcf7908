//! `discovery-handler check` as a process.

use std::{
    io::Write,
    process::{Command, Stdio},
};

use super::soon;

/// How it ended, and what it said.
pub struct Ended {
    pub status: i32,
    pub stdout: String,
    pub stderr: String,
}

pub async fn check(arguments: &[&str]) -> Ended {
    check_with_input(arguments, "").await
}

pub async fn check_with_input(arguments: &[&str], input: &str) -> Ended {
    let mut command = Command::new(env!("CARGO_BIN_EXE_discovery-handler"));
    command.env_clear().arg("check").args(arguments);
    let piped = (command.stdin(Stdio::piped()).stdout(Stdio::piped())).stderr(Stdio::piped());
    let mut process = piped.spawn().unwrap();
    // Who does not read it ends without it.
    let _ = process.stdin.take().unwrap().write_all(input.as_bytes());
    let output = tokio::task::spawn_blocking(move || process.wait_with_output().unwrap());
    let output = soon(output).await.unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Ended {
        status: output.status.code().unwrap(),
        stdout: text(output.stdout),
        stderr: text(output.stderr),
    }
}
