//! A discovery service that speaks https; the key and the certificates are the broker's tests'.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, mpsc},
    thread,
    time::Duration,
};

use rustls::{
    ServerConfig, ServerConnection, Stream,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use support::*;

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../broker/tests/tls")
        .join(name)
}

/// Lists one device behind this certificate, and tells of each connection.
fn https_service(certificate: &str) -> (u16, mpsc::Receiver<()>) {
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
    let port = listener.local_addr().unwrap().port();
    let (polled, polls) = mpsc::channel();
    thread::spawn(move || {
        for mut socket in listener.incoming().map_while(Result::ok) {
            let mut connection = ServerConnection::new(config.clone()).unwrap();
            let mut stream = Stream::new(&mut connection, &mut socket);
            if stream.read(&mut [0; 1024]).is_ok() {
                let _ = stream.write_all(
                    b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\na:1\n",
                );
            }
            let _ = polled.send(());
        }
    });
    (port, polls)
}

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The real binary, which trusts what is in this file and nothing else, and the lines of its log.
fn binary(directory: &Path, authorities: &Path) -> (Running, mpsc::Receiver<String>) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_discovery-handler"))
        .env_clear()
        .env("DISCOVERY_HANDLERS_DIRECTORY", directory)
        .env("RUST_LOG", "info")
        .env("SSL_CERT_FILE", authorities)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        lines
            .map_while(Result::ok)
            .try_for_each(|line| sender.send(line))
    });
    (Running(child), receiver)
}

fn line_with(log: &mpsc::Receiver<String>, words: &str) -> String {
    loop {
        let line = log.recv_timeout(SOON).unwrap();
        if line.contains(words) {
            return line;
        }
    }
}

async fn stream(directory: &Path, port: u16) -> DeviceStream {
    let details = format!("url: https://localhost:{port}/\ninterval: 100ms");
    let endpoint = format!("unix:{}", directory.join("http.sock").display());
    discover(&endpoint, &details).await.unwrap()
}

#[tokio::test]
async fn a_trusted_certificate_is_enough() {
    let directory = tempfile::tempdir().unwrap();
    let (port, _) = https_service("valid.pem");
    let _handler = binary(directory.path(), &file("valid.pem"));
    assert_eq!(stream(directory.path(), port).await.list().await, ["a:1"]);
}

#[tokio::test]
async fn a_certificate_that_has_expired_is_one_line_and_not_one_for_each_poll() {
    let directory = tempfile::tempdir().unwrap();
    let (port, polls) = https_service("expired.pem");
    let (_handler, log) = binary(directory.path(), &file("expired.pem"));
    let _stream = stream(directory.path(), port).await;
    line_with(&log, "the certificate has expired");
    // More than a second, since the time of day is what would differ.
    for _ in 0..15 {
        polls.recv_timeout(SOON).unwrap();
    }
    assert_eq!(log.recv_timeout(Duration::from_millis(100)).ok(), None);
}

#[tokio::test]
async fn without_ca_certificates_http_works_and_a_warning_says_that_https_does_not() {
    let directory = tempfile::tempdir().unwrap();
    let (_handler, log) = binary(directory.path(), &directory.path().join("nothing.pem"));
    line_with(&log, "https cannot be used, http can");
    let service = Service::start(list(&["a:1"])).await;
    let endpoint = format!("unix:{}", directory.path().join("http.sock").display());
    let mut stream = discover(&endpoint, &service.url()).await.unwrap();
    assert_eq!(stream.list().await, ["a:1"]);
}
