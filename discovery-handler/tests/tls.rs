//! Discovery services behind certificates of a private authority, and those that want one of the client.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod support;

use std::sync::{Arc, Mutex};

use rcgen::{BasicConstraints, IsCa, date_time_ymd};
use support::{
    tls::{Authority, Leaf, Secure},
    *,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional},
    net::{TcpListener, TcpStream},
};

const ANSWER: &str = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\na:1\n";

async fn is_listed(handler: &Handler, service: &Secure, properties: &[(&str, &str)]) {
    let stream = handler.discover_with(&service.details(), properties).await;
    assert_eq!(stream.unwrap().list().await, ["a:1"]);
}

async fn fails(handler: &Handler, leaf: &Leaf, properties: &[(&str, &str)], why: &str) {
    let service = Secure::start(leaf, None, false, ANSWER);
    let _stream = handler
        .discover_with(&service.details(), properties)
        .await
        .unwrap();
    let line = log_line(&[&service.key(), why]).await;
    assert!(line.contains("cannot connect: "), "{line}");
    assert!(service.seen().is_empty());
}

#[tokio::test]
async fn an_authority_of_its_own_is_trusted_in_place_of_the_systems() {
    let (authority, handler) = (Authority::new(), Handler::start().await);
    let (ca, leaf) = (authority.pem(), authority.issue("localhost"));
    for only_12 in [false, true] {
        let service = Secure::start(&leaf, None, only_12, ANSWER);
        is_listed(&handler, &service, &[("HTTP_CA_CERT", &ca)]).await;
    }
}

#[tokio::test]
async fn a_certificate_that_is_not_right_is_not_trusted() {
    let (authority, handler) = (Authority::new(), Handler::start().await);
    let (ca, other) = (authority.pem(), Authority::new());
    let own = [("HTTP_CA_CERT", ca.as_str())];
    let issuer = "UnknownIssuer";
    fails(&handler, &other.issue("localhost"), &own, issuer).await;
    let elsewhere = "not valid for name \"localhost\"";
    fails(&handler, &authority.issue("elsewhere"), &own, elsewhere).await;
    let old = authority.issue_with("localhost", |params| {
        params.not_after = date_time_ymd(2020, 1, 1)
    });
    fails(&handler, &old, &own, "the certificate has expired").await;
    let young = authority.issue_with("localhost", |params| {
        params.not_before = date_time_ymd(2100, 1, 1)
    });
    fails(&handler, &young, &own, "the certificate is not valid yet").await;
    let itself = authority.issue_with("localhost", |params| {
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)
    });
    let why = "the certificate is an authority's (CA:TRUE), and a server needs one with CA:FALSE";
    fails(&handler, &itself, &own, why).await;
}

#[tokio::test]
async fn a_client_certificate_is_shown_where_one_is_wanted() {
    let (authority, handler) = (Authority::new(), Handler::start().await);
    let (ca, leaf, client) = (
        authority.pem(),
        authority.issue("localhost"),
        authority.issue("me"),
    );
    let cert = [
        ("HTTP_CA_CERT", ca.as_str()),
        ("HTTP_CLIENT_CERT", client.certificate.as_str()),
        ("HTTP_CLIENT_KEY", client.key.as_str()),
    ];
    for only_12 in [false, true] {
        let service = Secure::start(&leaf, Some(&authority), only_12, ANSWER);
        is_listed(&handler, &service, &cert).await;
        assert!(
            service
                .seen()
                .iter()
                .all(|seen| seen.client == Some(client.der()))
        );

        let service = Secure::start(&leaf, Some(&authority), only_12, ANSWER);
        let _stream = handler
            .discover_with(&service.details(), &cert[..1])
            .await
            .unwrap();
        log_line(&["WARN", &service.key(), "received fatal alert"]).await;
        assert!(service.seen().is_empty());
    }
}

#[tokio::test]
async fn what_else_is_in_the_pem_of_a_client_certificate_does_not_matter() {
    let (authority, handler) = (Authority::new(), Handler::start().await);
    let (ca, leaf) = (authority.pem(), authority.issue("localhost"));
    let (client, other) = (authority.issue("me"), authority.issue("other"));
    let public = "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n";
    let crl = "-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n";
    let service = Secure::start(&leaf, Some(&authority), false, ANSWER);
    for (before, after) in [("", &*other.key), (&*other.key, ""), (public, crl)] {
        let cert = format!("{before}{}{after}", client.certificate);
        // The first key is the one.
        let key = format!("{public}{}{}", client.key, other.key);
        let properties = [
            ("HTTP_CA_CERT", &*ca),
            ("HTTP_CLIENT_CERT", &cert),
            ("HTTP_CLIENT_KEY", &key),
        ];
        is_listed(&handler, &service, &properties).await;
    }
    let all = service.seen();
    assert!(all.iter().all(|seen| seen.client == Some(client.der())));
}

#[tokio::test]
async fn https_goes_through_a_proxy_as_a_tunnel_that_sees_none_of_it() {
    let (authority, handler) = (Authority::new(), Handler::start().await);
    let (ca, leaf) = (authority.pem(), authority.issue("localhost"));
    let service = Secure::start(&leaf, None, false, ANSWER);
    let properties = [("HTTP_CA_CERT", &*ca), ("HTTP_BEARER_TOKEN", "hunter2")];
    let proxy = Tunnel::start("200 OK").await;
    let through = |proxy: &Tunnel| {
        let details = service.details();
        format!(
            "{details}\nproxy: http://me:secret@127.0.0.1:{}",
            proxy.port
        )
    };
    let stream = handler.discover_with(&through(&proxy), &properties).await;
    assert_eq!(stream.unwrap().list().await, ["a:1"]);
    let head = proxy.asked.lock().unwrap().remove(0).to_lowercase();
    let port = service.port;
    assert!(
        head.starts_with(&format!("connect localhost:{port} ")),
        "{head}"
    );
    assert!(
        head.contains("proxy-authorization: basic bwu6c2vjcmv0"),
        "{head}"
    );
    assert!(!head.contains("hunter2"), "{head}");
    service
        .saw(|seen| seen.head.contains("Bearer hunter2"))
        .await;
    assert!(!service.seen()[0].head.to_lowercase().contains("proxy-auth"));

    let proxy = Tunnel::start("407 Proxy Authentication Required").await;
    let _stream = handler.discover_with(&through(&proxy), &properties).await;
    let line = log_line(&[&service.key(), "cannot connect: "]).await;
    assert!(line.contains(": through the proxy: "), "{line}");
    assert!(
        !line.contains("secret") && !line.contains("hunter2"),
        "{line}"
    );
}

/// An http proxy that answers each CONNECT like this, and then passes on what comes.
struct Tunnel {
    port: u16,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Tunnel {
    async fn start(status: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let asked: Arc<Mutex<Vec<String>>> = Arc::default();
        let told = asked.clone();
        tokio::spawn(async move {
            loop {
                let (client, _) = listener.accept().await.unwrap();
                tokio::spawn(tunnel(client, status, told.clone()));
            }
        });
        Self { port, asked }
    }
}

async fn tunnel(
    mut client: TcpStream,
    status: &str,
    asked: Arc<Mutex<Vec<String>>>,
) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(client.read_u8().await?);
    }
    let head = String::from_utf8(head).unwrap();
    let target = head.split(' ').nth(1).unwrap().to_owned();
    asked.lock().unwrap().push(head);
    let answer = format!("HTTP/1.1 {status}\r\n\r\n");
    client.write_all(answer.as_bytes()).await?;
    if status.starts_with("200") {
        let mut server = TcpStream::connect(target).await?;
        copy_bidirectional(&mut client, &mut server).await?;
    }
    Ok(())
}
