//! `discovery-handler check` as `helm test` runs it: whether the cluster has the Instances that it should.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::fs;

use akri_http_discovery_handler::{Check, check as check_here};
use akri_stub_agent::instance_hash;
use clap::Parser;
use support::{checked::*, tls::*, *};

/// A cluster whose Kubernetes API answers every request with this.
struct Cluster {
    api: Secure,
    account: tempfile::TempDir,
}

impl Cluster {
    fn answering(status: &str, body: &str) -> Self {
        let authority = Authority::new();
        let length = body.len();
        let answer = format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\n\r\n{body}");
        let api = Secure::start(&authority.issue("localhost"), None, false, &answer);
        let account = tempfile::tempdir().unwrap();
        for (name, text) in [
            ("token", "hunter2"),
            ("namespace", "lab"),
            ("ca.crt", &authority.pem()),
        ] {
            fs::write(account.path().join(name), text).unwrap();
        }
        Self { api, account }
    }

    fn of(names: &[&str]) -> Self {
        let items: Vec<_> = names
            .iter()
            .map(|name| serde_json::json!({"metadata": {"name": name}}))
            .collect();
        let list = serde_json::json!({"metadata": {}, "items": items});
        Self::answering("200 OK", &list.to_string())
    }

    async fn check(&self, url: &str, within: &str, shared: bool) -> Result<(), String> {
        #[derive(Parser)]
        struct Arguments {
            #[command(flatten)]
            check: Check,
        }
        let account = self.account.path().to_str().unwrap();
        let port = self.api.port.to_string();
        let arguments = Arguments::parse_from([
            "check",
            url,
            "--name=floor",
            "--instances-within",
            within,
            "--kubernetes-service-host=localhost",
            "--kubernetes-service-port",
            &port,
            "--service-account-directory",
            account,
        ]);
        let directory = tempfile::tempdir().unwrap();
        let mut config = config(directory.path());
        config.handler.shared = shared;
        let checked = check_here(config, arguments.check, std::future::pending());
        let checked = soon(checked).await;
        checked.map_err(|error| format!("{error:#}"))
    }
}

#[tokio::test]
async fn in_a_cluster_each_device_has_to_have_its_instance() {
    let service = Service::start(list(&["http://a:80", "http://b:80"])).await;
    let url = service.url();
    let instance = |endpoint: &str| format!("floor-{}", instance_hash(endpoint, None));
    let (a, b) = (instance("http://a:80"), instance("http://b:80"));

    let whole = Cluster::of(&[&a, &b, "another-one"]);
    assert_eq!(whole.check(&url, "0s", true).await, Ok(()));
    let request = whole.api.seen().remove(0).head;
    let first = "GET /apis/akri.sh/v0/namespaces/lab/instances?limit=500 ";
    assert!(request.starts_with(first), "{request}");
    assert!(
        request.contains("uthorization: Bearer hunter2"),
        "{request}"
    );

    let why = Cluster::of(&[&a]).check(&url, "1s", true).await;
    let expected = format!(
        "after 1s: 1 of 2 devices have no Instance, such as http://b:80, whose Instance would be {b}"
    );
    assert_eq!(why, Err(expected));

    let each_node = Cluster::of(&["floor-123456", "floor-234567", "floor-2-345678"]);
    assert_eq!(each_node.check(&url, "0s", false).await, Ok(()));
    let too_few = Cluster::of(&["floor-123456", "floor-2-345678"]);
    let why = too_few.check(&url, "0s", false);
    let expected = "after 0ns: there are 2 devices, but 1 Instances of floor";
    assert_eq!(why.await, Err(expected.into()));
}

#[tokio::test]
async fn a_cluster_that_cannot_be_asked_is_one_sentence() {
    let service = Service::start(list(&["http://a:80"])).await;
    let forbidden = Cluster::answering("403 Forbidden", "{}");
    let why = forbidden.check(&service.url(), "0s", true).await;
    let expected = "after 0ns: the Pod's ServiceAccount may not list instances.akri.sh";
    assert_eq!(why, Err(expected.into()));
    let pages = r#"{"metadata": {"continue": "more"}, "items": []}"#;
    let endless = Cluster::answering("200 OK", pages);
    let why = endless.check(&service.url(), "0s", true).await;
    assert!(
        why.unwrap_err()
            .ends_with("there are more than 200 times 500 Instances")
    );
    assert_eq!(endless.api.seen().len(), 200);
    for garbage in ["", "[]", "<html>", r#"{"kind": "Status"}"#] {
        let cluster = Cluster::answering("200 OK", garbage);
        let why = cluster.check(&service.url(), "0s", true).await.unwrap_err();
        assert!(
            why.contains("what should be a list of Instances is none"),
            "{why}"
        );
    }
    let ended = check(&[&service.url(), "--instances-within", "1s"]).await;
    assert_eq!(ended.status, 2);
    assert!(
        ended.stderr.contains("so this is no Pod"),
        "{}",
        ended.stderr
    );
}
