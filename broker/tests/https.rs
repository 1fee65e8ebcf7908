//! Devices that speak https, with certificates that are trusted, expired or unknown.
//!
//! `tests/tls` holds a key that protects nothing and two certificates that it signed itself.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod support;

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    sync::Arc,
    thread,
};

use rustls::{
    ServerConfig, ServerConnection, Stream,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use support::{Binary, VARIABLE};
use tokio::sync::mpsc;

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/tls")
        .join(name)
}

/// A device that answers `0.5` behind this certificate, and tells of each connection.
fn https_device(certificate: &str) -> (SocketAddr, mpsc::Receiver<()>) {
    let certificate = CertificateDer::from_pem_file(file(certificate)).unwrap();
    let key = PrivateKeyDer::from_pem_file(file("key.pem")).unwrap();
    let config = ServerConfig::builder_with_provider(ring::default_provider().into())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    let config = Arc::new(config);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (connected, connections) = mpsc::channel(100);
    thread::spawn(move || {
        for mut socket in listener.incoming().map_while(Result::ok) {
            let mut connection = ServerConnection::new(config.clone()).unwrap();
            let mut stream = Stream::new(&mut connection, &mut socket);
            // A client that does not trust the certificate ends the handshake here.
            if stream.read(&mut [0; 1024]).is_ok() {
                let answer =
                    b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\nconnection: close\r\n\r\n0.5";
                let _ = stream.write_all(answer);
            }
            let _ = connected.try_send(());
        }
    });
    (address, connections)
}

fn standalone(device: SocketAddr, authorities: &Path) -> Binary {
    let endpoint = format!("https://localhost:{}", device.port());
    let authorities = authorities.to_str().unwrap();
    Binary::standalone(
        &[(VARIABLE, &endpoint), ("SSL_CERT_FILE", authorities)],
        &["--interval", "100ms"],
    )
}

#[tokio::test]
async fn a_device_with_a_trusted_certificate_is_read() {
    let (device, _) = https_device("valid.pem");
    standalone(device, &file("valid.pem"))
        .line_with(" 0.5")
        .await;
}

#[tokio::test]
async fn a_certificate_that_is_not_trusted_is_one_cause_and_one_line() {
    for (certificate, authorities, cause) in [
        (
            "valid.pem",
            Path::new("/nonexistent"),
            "invalid peer certificate: UnknownIssuer",
        ),
        (
            "expired.pem",
            &file("expired.pem"),
            "the certificate has expired",
        ),
    ] {
        let (device, mut connections) = https_device(certificate);
        let mut broker = standalone(device, authorities);
        broker.line_with(&format!("cannot connect: {cause}")).await;
        // More than a second, so that a time in the cause would differ.
        for _ in 0..15 {
            connections.recv().await.unwrap();
        }
        broker.signal("TERM").await;
        let (_, rest) = broker.end().await;
        assert!(
            matches!(&rest[..], [line] if line.contains("SIGTERM: stopping")),
            "{rest:#?}"
        );
    }
}

#[tokio::test]
async fn without_authorities_http_is_read_all_the_same() {
    let plain = support::healthy("0.5").await.to_string();
    let nothing = [
        ("SSL_CERT_FILE", "/nonexistent"),
        ("SSL_CERT_DIR", "/nonexistent"),
    ];
    let mut broker = Binary::standalone(&[&[(VARIABLE, &*plain)], &nothing[..]].concat(), &[]);
    let lines = broker.lines_up_to(&format!("{plain} 0.5")).await;
    assert!(
        lines
            .iter()
            .any(|line| line.contains("https cannot be used, http can")),
        "{lines:#?}"
    );
}

/// The heads of the requests that a device gets, which it answers with `0.5`.
async fn recording() -> (SocketAddr, mpsc::Receiver<String>) {
    let (sender, heads) = mpsc::channel(100);
    let device = support::device(move |head, stream| {
        let sender = sender.clone();
        async move {
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\nconnection: close\r\n\r\n0.5";
            support::send(stream, answer.to_vec()).await;
            let _ = sender.try_send(head);
        }
    });
    (device.await, heads)
}

#[tokio::test]
async fn devices_are_shown_the_token_in_the_file_also_after_it_has_changed() {
    let (device, mut heads) = recording().await;
    let directory = tempfile::tempdir().unwrap();
    let token = directory.path().join("token");
    std::fs::write(&token, "hunter2-1\n").unwrap();
    let variables = [
        (VARIABLE, &*device.to_string()),
        ("BEARER_TOKEN_FILE", token.to_str().unwrap()),
    ];
    let mut broker = Binary::standalone(&variables, &["--interval", "100ms"]);
    for value in ["hunter2-1", "hunter2-2"] {
        let next = directory.path().join("next");
        std::fs::write(&next, value).unwrap();
        std::fs::rename(&next, &token).unwrap();
        let line = format!("authorization: Bearer {value}\r\n");
        while !heads.recv().await.unwrap().contains(&line) {}
    }
    broker.line_with(" 0.5").await;
    broker.signal("TERM").await;
    let (_, log) = broker.end().await;
    assert!(
        log.iter()
            .all(|line| !line.contains("hunter2") && !line.contains("WARN")),
        "{log:#?}"
    );
}

#[tokio::test]
async fn a_device_behind_a_private_authority_is_read_by_both_brokers() {
    let (device, _) = https_device("valid.pem");
    let endpoint = format!("https://localhost:{}", device.port());
    let authorities = file("valid.pem");
    let variables = [
        (VARIABLE, &*endpoint),
        ("SSL_CERT_FILE", "/nonexistent"),
        ("CA_FILE", authorities.to_str().unwrap()),
        ("ADMIN_ADDRESS", "127.0.0.1:0"),
    ];
    Binary::standalone(&variables, &[]).line_with(" 0.5").await;
    let mut broker = Binary::grpc_broker(&variables, &["--grpc_endpoint", "127.0.0.1:0"]);
    let admin = broker.admin().await;
    while !support::get(&admin, "/metrics")
        .await
        .1
        .contains("outcome=\"ok\"} 1")
    {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_client_certificate_needs_its_key() {
    let variables = [(VARIABLE, "http://d"), ("CLIENT_CERT_FILE", "/x")];
    for broker in [
        Binary::standalone(&variables, &[]),
        Binary::grpc_broker(&variables, &[]),
    ] {
        let (status, log) = broker.end().await;
        let line = "error: CLIENT_CERT_FILE and CLIENT_KEY_FILE have to be set together";
        assert_eq!(
            (status.code(), log.last().map(String::as_str)),
            (Some(2), Some(line))
        );
    }
}
