//! The process's own credentials, which change while it polls.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod support;

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use support::{
    tls::{Authority, Leaf, Secure},
    *,
};
use tempfile::TempDir;

const ANSWER: &str = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\na:1\n";

/// A mounted Secret, which the kubelet changes by swapping a link.
struct Secret(TempDir, u32);

impl Secret {
    fn new(files: &[(&str, &str)]) -> Self {
        let mut secret = Self(tempfile::tempdir().unwrap(), 0);
        for (name, _) in files {
            symlink(Path::new("..data").join(name), secret.file(name)).unwrap();
        }
        secret.change(files);
        secret
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn change(&mut self, files: &[(&str, &str)]) {
        self.1 += 1;
        let data = format!("..{}", self.1);
        fs::create_dir(self.file(&data)).unwrap();
        for (name, value) in files {
            fs::write(self.file(&data).join(name), value).unwrap();
        }
        symlink(&data, self.file("..data_tmp")).unwrap();
        fs::rename(self.file("..data_tmp"), self.file("..data")).unwrap();
    }
}

fn failures(key: &str) -> Vec<String> {
    logged(&["WARN", key])
}

async fn has_token(service: &Service, token: &str) {
    let line = format!("authorization: Bearer {token}\r\n");
    soon(async {
        loop {
            service.polled(1).await;
            if service.last_request().contains(&line) {
                return;
            }
        }
    })
    .await;
}

#[tokio::test]
async fn a_token_that_changes_is_used_from_then_on_and_a_bad_one_is_not() {
    let service = Service::start(list(&["a:1"])).await;
    let mut secret = Secret::new(&[("token", "hunter2-1\n")]);
    let token = secret.file("token");
    let handler = Handler::start_with(|config| {
        config.credentials.bearer_token_file = Some(token.clone());
    })
    .await;
    let mut stream = handler.stream(&service.details()).await;
    assert_eq!(stream.list().await, ["a:1"]);
    has_token(&service, "hunter2-1").await;
    secret.change(&[("token", "hunter2-2")]);
    has_token(&service, "hunter2-2").await;

    let file = token.display().to_string();
    secret.change(&[("token", "hunter2 no token")]);
    let why = "has a character that no token has; those that were read before stay in use";
    log_line(&["WARN", &file, why]).await;
    service.polled(5).await;
    has_token(&service, "hunter2-2").await;
    assert_eq!(logged(&["WARN", &file]).len(), 1);
    secret.change(&[("token", "hunter2-3")]);
    has_token(&service, "hunter2-3").await;

    fs::remove_file(&token).unwrap();
    log_line(&["WARN", &file, "cannot be read: No such file"]).await;
    has_token(&service, "hunter2-3").await;
    assert!(failures(&service.key()).is_empty(), "a poll was lost");
    assert!(logged(&["hunter2"]).is_empty());
}

#[tokio::test]
async fn a_client_certificate_that_changes_costs_no_poll() {
    let authority = Authority::new();
    let leaf = authority.issue("localhost");
    let service = Secure::start(&leaf, Some(&authority), false, ANSWER);
    let ca = authority.pem();
    let (first, second) = (authority.issue("1"), authority.issue("2"));
    // What more there is does not matter, at the start and later.
    let more = authority.issue("3").key;
    let files = |leaf: &Leaf| {
        [
            ("ca", ca.clone()),
            ("cert", format!("{}{more}", leaf.certificate)),
            ("key", format!("{}{more}", leaf.key)),
        ]
    };
    let as_str = |files: &[(&'static str, String); 3]| {
        files.clone().map(|(name, value)| (name, &*value.leak()))
    };
    let mut secret = Secret::new(&as_str(&files(&first)));
    let handler = Handler::start_with(|config| {
        config.credentials.ca_file = Some(secret.file("ca"));
        config.credentials.client_cert_file = Some(secret.file("cert"));
        config.credentials.client_key_file = Some(secret.file("key"));
    })
    .await;
    let mut stream = handler.stream(&service.details()).await;
    assert_eq!(stream.list().await, ["a:1"]);
    service.saw(|seen| seen.client == Some(first.der())).await;

    // A key that does not belong to the certificate: the old pair stays.
    let mut halves = files(&second);
    halves[2].1.clone_from(&first.key);
    secret.change(&as_str(&halves));
    let key = secret.file("key").display().to_string();
    log_line(&["WARN", &key, "does not belong to the certificate"]).await;
    let polls = service.seen().len();
    until(|| service.seen().len() > polls + 3).await;
    assert!(
        service
            .seen()
            .iter()
            .all(|seen| seen.client == Some(first.der()))
    );

    secret.change(&as_str(&files(&second)));
    service.saw(|seen| seen.client == Some(second.der())).await;
    assert!(failures(&service.key()).is_empty(), "a poll was lost");
}

#[tokio::test]
async fn a_file_that_comes_late_is_waited_for_and_nothing_is_asked_without_it() {
    let service = Service::start(list(&["a:1"])).await;
    let directory = tempfile::tempdir().unwrap();
    let token = directory.path().join("token");
    let handler = Handler::start_with(|config| {
        config.credentials.bearer_token_file = Some(token.clone());
    })
    .await;
    let mut stream = handler.stream(&service.details()).await;
    log_line(&[&service.key(), "no credentials: BEARER_TOKEN_FILE="]).await;
    assert_eq!(service.polls(), 0);
    fs::write(&token, "hunter2").unwrap();
    assert_eq!(stream.list().await, ["a:1"]);
    has_token(&service, "hunter2").await;
}

#[tokio::test]
async fn credentials_of_a_configuration_and_of_a_url_come_before_the_processs() {
    let service = Service::start(list(&["a:1"])).await;
    let secret = Secret::new(&[("token", "hunter2-process")]);
    let handler = Handler::start_with(|config| {
        config.credentials.bearer_token_file = Some(secret.file("token"));
    })
    .await;
    let own = [("HTTP_BEARER_TOKEN", "hunter2-own")];
    let key = [("HTTP_HEADERS", "X-Key: hunter2-own")];
    for properties in [own, key] {
        let stream = handler.discover_with(&service.details(), &properties).await;
        assert_eq!(stream.unwrap().list().await, ["a:1"]);
    }
    let url = service.url().replace("http://", "http://me:hunter2-url@");
    assert_eq!(handler.stream(&url).await.list().await, ["a:1"]);
    let heads = service.requests();
    assert!(
        heads.iter().all(|head| !head.contains("hunter2-process")),
        "{heads:#?}"
    );
    assert!(
        heads
            .iter()
            .any(|head| head.contains("authorization: Basic ")),
        "{heads:#?}"
    );
}
