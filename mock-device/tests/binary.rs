//! The real `mock-device`: its settings, and how it ends.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    process::{Command, Output, Stdio},
};

fn mock_device() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mock-device"));
    command
        .env_clear()
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .stdout(Stdio::piped());
    command
}

#[test]
fn a_bad_setting_is_one_line_and_status_2() {
    for (variable, argument, words) in [
        (("LISTEN", "8080"), "--path=/", "--listen <LISTEN>"),
        (("WRITABLE", "maybe"), "--path=/", "--writable"),
        (("RUST_LOG", "info,,x=y"), "--path=/", "RUST_LOG"),
        (("A", "b"), "--path=sensor", "must begin with /"),
        (("A", "b"), "--path=/discovery", "the discovery service"),
    ] {
        let stderr = failure(mock_device().env(variable.0, variable.1).arg(argument), 2);
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
        assert!(
            stderr.starts_with("error: ") && stderr.contains(words),
            "{words}: {stderr}"
        );
    }
}

#[test]
fn an_unknown_flag_is_claps_message_and_status_2() {
    let stderr = failure(mock_device().arg("--paths=/"), 2);
    assert!(stderr.contains("unexpected argument '--paths'"), "{stderr}");
}

#[test]
fn an_address_that_is_taken_is_one_line_and_status_1() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let stderr = failure(
        mock_device().env("LISTEN", &taken).env("RUST_LOG", "off"),
        1,
    );
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    let words = format!("error: cannot listen on LISTEN={taken}: ");
    assert!(stderr.starts_with(&words), "{stderr}");
}

fn failure(command: &mut Command, expected: i32) -> String {
    let Output { status, stderr, .. } = command.output().unwrap();
    let stderr = String::from_utf8(stderr).unwrap();
    assert_eq!(status.code(), Some(expected), "{stderr}");
    stderr
}

#[test]
fn a_signal_ends_it_under_an_idle_connection() {
    for signal in ["TERM", "INT"] {
        let mut child = mock_device()
            .args(["--listen=127.0.0.1:0", "--path=/", "--path=/sensor"])
            .spawn()
            .unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        log.read_line(&mut line).unwrap();
        let (_, address) = line.split_once(" on ").unwrap();
        let (address, _) = address.split_once(' ').unwrap();

        let mut idle = TcpStream::connect(address).unwrap();
        idle.write_all(b"GET /sensor HTTP/1.1\r\nhost: a\r\n\r\n")
            .unwrap();
        assert!(idle.read(&mut [0; 1024]).unwrap() > 0);

        let kill = format!("kill -{signal} {}", child.id());
        let mut shell = Command::new("/bin/sh");
        assert!(shell.args(["-c", &kill]).status().unwrap().success());
        assert_eq!(child.wait().unwrap().code(), Some(0));
    }
}
