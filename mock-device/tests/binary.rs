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
    time::{Duration, Instant},
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
fn a_bad_setting_is_one_line_and_a_status() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    for (variable, arguments, parts) in [
        (("LISTEN", "8080"), vec![], ["--listen <LISTEN>", "'8080'"]),
        (("LISTEN", &*taken), vec![], ["LISTEN=", &*taken]),
        (("WRITABLE", "maybe"), vec![], ["--writable", "'maybe'"]),
        (
            ("A", "b"),
            vec!["--path", "sensor"],
            ["--path <PATH>", "begins with /"],
        ),
        (
            ("A", "b"),
            vec!["--path=/discovery"],
            ["--path <PATH>", "the discovery service's"],
        ),
        (("A", "b"), vec!["--paths=/"], ["--paths", "unexpected"]),
    ] {
        let Output { status, stderr, .. } = mock_device()
            .env(variable.0, variable.1)
            .args(arguments)
            .output()
            .unwrap();
        let stderr = String::from_utf8(stderr).unwrap();
        assert!(
            !status.success() && status.code().is_some(),
            "{status}: {stderr}"
        );
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
        for part in parts {
            assert!(
                stderr.starts_with("error: ") && stderr.contains(part),
                "{part}: {stderr}"
            );
        }
    }
}

#[test]
fn a_signal_ends_it_under_an_idle_connection() {
    for signal in ["TERM", "INT"] {
        let mut child = mock_device()
            .args([
                "--listen=127.0.0.1:0",
                "--path=/",
                "--path=/sensor",
                "--device=a:1",
            ])
            .spawn()
            .unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        log.read_line(&mut line).unwrap();
        let address = line
            .split_once(" on ")
            .unwrap()
            .1
            .split_once(' ')
            .unwrap()
            .0;

        let mut idle = TcpStream::connect(address).unwrap();
        idle.write_all(b"GET /sensor HTTP/1.1\r\nhost: a\r\n\r\n")
            .unwrap();
        assert!(idle.read(&mut [0; 1024]).unwrap() > 0);

        let signalled = Instant::now();
        let kill = format!("kill -{signal} {}", child.id());
        assert!(
            Command::new("/bin/sh")
                .args(["-c", &kill])
                .status()
                .unwrap()
                .success()
        );
        assert_eq!(child.wait().unwrap().code(), Some(0));
        assert!(
            signalled.elapsed() < Duration::from_secs(5),
            "{:?}",
            signalled.elapsed()
        );
    }
}
