//! Discovery services behind certificates of a private authority, and those that want one of the client.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod support;

use rcgen::date_time_ymd;
use support::{
    tls::{Authority, Leaf, Secure},
    *,
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
