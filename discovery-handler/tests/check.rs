//! `discovery-handler check`, as a person or a Pod runs it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod support;

use std::{fs, process::Command};

use akri_http_stub_agent::instance_hash;
use support::*;

struct Ended {
    status: i32,
    stdout: String,
    stderr: String,
}

async fn check(arguments: &[&str]) -> Ended {
    let mut command = Command::new(env!("CARGO_BIN_EXE_discovery-handler"));
    command.env_clear().arg("check").args(arguments);
    let output = tokio::task::spawn_blocking(move || command.output().unwrap());
    let output = soon(output).await.unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Ended {
        status: output.status.code().unwrap(),
        stdout: text(output.stdout),
        stderr: text(output.stderr),
    }
}

#[tokio::test]
async fn it_shows_the_instances_and_what_their_brokers_get() {
    let service = Service::start(list(&["http://b:80", "http://a:80"])).await;
    let ended = check(&[&service.url(), "--name", "floor"]).await;
    assert_eq!(ended.status, 0, "{}", ended.stderr);
    let mut lines = ended.stdout.lines();
    let first = lines.next().unwrap();
    assert!(first.starts_with("2 devices after "), "{first}");
    assert!(first.ends_with(" of at most 4194304 bytes"), "{first}");
    let rest: Vec<String> = lines.map(str::to_owned).collect();
    let device = |endpoint: &str| {
        [
            format!("floor-{}  {endpoint}", instance_hash(endpoint, None)),
            "    AKRI_HTTP=http".into(),
            format!("    AKRI_HTTP_DEVICE_ENDPOINT={endpoint}"),
        ]
    };
    assert_eq!(
        rest,
        [device("http://a:80"), device("http://b:80")].concat()
    );
}

#[tokio::test]
async fn a_manifest_with_properties_is_checked_as_it_is() {
    let service = Service::start(list(&["http://10.1.0.194:8080", "http://10.1.12.9:8080"])).await;
    let directory = tempfile::tempdir().unwrap();
    let manifest = directory.path().join("configuration.yaml");
    let text = format!(
        "apiVersion: akri.sh/v0\nkind: Configuration\nmetadata: {{name: lab}}\nspec:\n  discoveryHandler:\n    name: http\n    \
         discoveryDetails: |\n      url: {}\n      grace: 0s\n    discoveryProperties:\n    - name: HTTP_HEADERS\n      value: 'X-Floor: 1'\n    \
         - name: HTTP_BEARER_TOKEN\n      valueFrom: {{secretKeyRef: {{name: token, key: token}}}}\n  capacity: 1\n",
        service.url()
    );
    fs::write(&manifest, text).unwrap();
    let file = manifest.to_str().unwrap();
    let ended = check(&["-f", file]).await;
    assert_eq!(ended.status, 2);
    let why = "the value of HTTP_BEARER_TOKEN is in a Secret or ConfigMap";
    assert!(ended.stderr.contains(why), "{}", ended.stderr);

    let secret = directory.path().join("secret");
    fs::create_dir(&secret).unwrap();
    fs::write(secret.join("HTTP_BEARER_TOKEN"), "hunter2\n").unwrap();
    let secret = secret.to_str().unwrap();
    let ended = check(&["-f", file, "--properties-dir", secret, "--output", "json"]).await;
    assert_eq!(ended.status, 0, "{}", ended.stderr);
    let request = service.last_request().to_lowercase();
    assert!(
        request.contains("authorization: bearer hunter2"),
        "{request}"
    );
    assert!(request.contains("x-floor: 1"), "{request}");
    let found: serde_json::Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!(found["devices"][0]["instance"], "lab-7e27fd");
    assert_eq!(found["collisions"][0].as_array().unwrap().len(), 2);
    assert!(!(ended.stdout + &ended.stderr).contains("hunter2"));
}

#[tokio::test]
async fn the_status_says_whether_the_source_or_the_details_are_wrong() {
    let service = Service::start(raw("404 Not Found\r\nContent-Length: 0", "")).await;
    let url = service.url();
    let none = format!("url: {url}\nformat: yaml");
    for (arguments, status, why) in [
        (&[&*url][..], 1, "answered 404 Not Found"),
        (&["http://"], 2, "the URL has no valid host"),
        (&[&*none], 2, "format is none of lines, http-sd, devices"),
        (&[&*url, "--property", "HTTP_TOKEN=x"], 2, "HTTP_TOKEN"),
        (
            &[&*url, "--property", "hunter2"],
            2,
            "--property is not NAME=VALUE",
        ),
        (&["-f", "/nowhere"], 2, "reading /nowhere: No such file"),
        (
            &["-f", "/dev/zero"],
            2,
            "/dev/zero is not a file of at most",
        ),
        (
            &[&*url, "--properties-dir", "/nowhere"],
            2,
            "reading /nowhere",
        ),
    ] {
        let ended = check(arguments).await;
        assert_eq!(ended.status, status, "{arguments:?}: {}", ended.stderr);
        assert!(
            ended.stderr.contains(why),
            "{arguments:?}: {}",
            ended.stderr
        );
        assert_eq!(ended.stderr.lines().count(), 1, "{}", ended.stderr);
        assert!(ended.stdout.is_empty() && !ended.stderr.contains("hunter2"));
    }
    let ended = check(&[]).await;
    assert_eq!(ended.status, 2, "clap says what is missing");
}
