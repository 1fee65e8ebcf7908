//! `discovery-handler check`, as a person or a Pod runs it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod support;

use std::{
    fs,
    process::{Command, Stdio},
};

use akri_stub_agent::instance_hash;
use support::{checked::*, tls::*, *};

#[tokio::test]
async fn it_shows_the_instances_and_what_their_brokers_get() {
    let service = Service::start(list(&["http://b:80", "http://a:80"])).await;
    let ended = check(&[&service.url(), "--name", "floor"]).await;
    assert_eq!(ended.status, 0, "{}", ended.stderr);
    let mut lines = ended.stdout.lines();
    let first = lines.next().unwrap();
    assert!(first.starts_with("2 devices after "), "{first}");
    assert!(first.ends_with(" of at most 4194304 bytes"), "{first}");
    let reply = lines.next().unwrap();
    let expected = "HTTP/1.1, status 200, 24 bytes, neither ETag nor Last-Modified";
    assert_eq!(reply, expected);
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
        (&["-f", "/dev/zero"], 2, "/dev/zero is not a file"),
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
    let file = tempfile::NamedTempFile::new().unwrap();
    let path = file.path().to_str().unwrap();
    let spec = "metadata: {name: lab}\nspec: {discoveryHandler: {name: onvif}}";
    for (kind, why) in [
        ("Instance", "kind is Instance, not Configuration"),
        (
            "Configuration",
            "the Configuration asks for the handler onvif",
        ),
    ] {
        fs::write(path, format!("kind: {kind}\n{spec}")).unwrap();
        let ended = check(&["-f", path]).await;
        assert_eq!(ended.status, 2, "{}", ended.stderr);
        assert!(ended.stderr.contains(why), "{}", ended.stderr);
    }
    fs::write(path, "x".repeat(1024 * 1024 + 1)).unwrap();
    let ended = check(&["-f", path]).await;
    assert!(
        ended.stderr.contains("is longer than 1048576 bytes"),
        "{}",
        ended.stderr
    );
}

#[tokio::test]
async fn it_shows_what_http_and_tls_say_of_the_reply() {
    let authority = Authority::new();
    let head =
        "HTTP/1.1 200 OK\r\nContent-Length: 4\r\nContent-Type: text/plain\r\nETag: \"v1\"\r\n\r\n";
    let server = Secure::start(
        &authority.issue("localhost"),
        None,
        false,
        &format!("{head}a:1\n"),
    );
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("HTTP_CA_CERT"), authority.pem()).unwrap();
    let directory = directory.path().to_str().unwrap();
    let url = format!("https://localhost:{}/", server.port);
    let ended = check(&[&url, "--properties-dir", directory]).await;
    assert_eq!(ended.status, 0, "{}", ended.stderr);
    let reply = ended.stdout.lines().nth(1).unwrap();
    let begins = "HTTP/1.1, status 200, 4 bytes of text/plain, may be asked for by \"v1\"; \
                  TLS certificate of CN=rcgen self signed cert, issued by CN=authority ";
    assert!(reply.starts_with(begins), "{reply}");
    assert!(reply.ends_with(", good until 4096-01-01"), "{reply}");

    let ended = check(&[&url, "--properties-dir", directory, "--output", "json"]).await;
    let found: serde_json::Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!(found["reply"]["status"], 200);
    assert_eq!(found["reply"]["validator"], "\"v1\"");
    assert_eq!(found["reply"]["certificate"]["notAfter"], "4096-01-01");
}

#[tokio::test]
async fn a_configuration_comes_by_a_pipe_too_and_may_lack_what_is_optional() {
    let service = Service::start(list(&["http://me:hunter2@a:80/x?key=hunter2"])).await;
    let manifest = format!(
        "kind: Configuration\nmetadata: {{name: lab}}\nspec:\n  discoveryHandler:\n    name: http\n    discoveryDetails: {}\n    \
         discoveryProperties:\n    - name: SITE\n      valueFrom: {{configMapKeyRef: {{name: site, key: site, optional: true}}}}\n",
        service.url()
    );
    let ended = check_with_input(&["-f", "-", "--shared", "false"], &manifest).await;
    assert_eq!(ended.status, 0, "{}", ended.stderr);
    let lines: Vec<_> = ended.stdout.lines().collect();
    assert!(lines[0].starts_with("1 device after "), "{}", lines[0]);
    // It may be the log of a Pod.
    assert_eq!(lines[2], "one for each node  http://a:80/x");
    assert_eq!(lines[4], "    AKRI_HTTP_DEVICE_ENDPOINT=http://a:80/x");
    assert!(!ended.stdout.contains("hunter2"));
}

#[tokio::test]
async fn with_watch_a_source_that_fails_for_one_reason_is_told_once() {
    let service = Service::start(raw("500 Oops\r\nContent-Length: 0", "")).await;
    let mut command = Command::new(env!("CARGO_BIN_EXE_discovery-handler"));
    command.args(["check", "--watch", &service.details()]);
    let piped = (command.env_clear().stdout(Stdio::piped())).stderr(Stdio::piped());
    let mut process = piped.spawn().unwrap();
    service.polled(4).await;
    service.now(list(&["a:1"]));
    service.polled(2).await;
    process.kill().unwrap();
    let output = process.wait_with_output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(stderr.matches("answered 500").count(), 1, "{stderr}");
    let stdout = String::from_utf8(output.stdout).unwrap();
    assert_eq!(stdout.matches("1 device after").count(), 1, "{stdout}");
}
