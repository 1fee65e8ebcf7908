//! Credentials in `discoveryProperties`: who gets them, and who does not.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::fs;

use support::{
    admin::Admin,
    tls::{Authority, Secure},
    *,
};
use tonic::Code;

/// In each secret of these tests, and never to be seen.
const SECRET: &str = "hunter2";

fn nothing_is_shown() {
    let lines = logged(&[SECRET]);
    assert!(lines.is_empty(), "{lines:#?}");
}

fn redirect(to: &str) -> Reply {
    raw(
        &format!("302 Found\r\nLocation: {to}\r\nContent-Length: 0"),
        "",
    )
}

#[tokio::test]
async fn a_token_a_user_and_headers_reach_the_service_and_never_share_a_poller() {
    let service = Service::start(list(&["a:1"])).await;
    let handler = Handler::start().await;
    let cases: [(&[(&str, &str)], &str); 6] = [
        (
            &[("HTTP_BEARER_TOKEN", "hunter2a\n")],
            "authorization: Bearer hunter2a\r\n",
        ),
        (
            &[("HTTP_BEARER_TOKEN", "hunter2b")],
            "authorization: Bearer hunter2b\r\n",
        ),
        (
            &[("HTTP_USERNAME", "me"), ("HTTP_PASSWORD", "hunter2")],
            "authorization: Basic bWU6aHVudGVyMg==\r\n",
        ),
        (
            &[("HTTP_USERNAME", "hunter2"), ("HTTP_PASSWORD", "\n")],
            "authorization: Basic aHVudGVyMjo=\r\n",
        ),
        (
            &[("HTTP_HEADERS", "X-Key: hunter2\n")],
            "x-key: hunter2\r\n",
        ),
        (
            &[("HTTP_HEADERS", "Authorization: Token hunter2")],
            "authorization: Token hunter2\r\n",
        ),
    ];
    let mut streams = Vec::new();
    for (properties, line) in cases {
        let stream = handler.discover_with(&service.details(), properties).await;
        streams.push(stream.unwrap());
        until(|| service.requests().iter().any(|head| head.contains(line))).await;
    }
    // Each of them goes on polling, side by side.
    for (_, line) in cases {
        service.polled(1).await;
        until(|| service.requests().iter().any(|head| head.contains(line))).await;
    }
    assert_eq!(
        logged(&[&service.key(), "polling every"]).len(),
        cases.len()
    );
    nothing_is_shown();
}

#[tokio::test]
async fn credentials_never_follow_a_redirect_to_another_origin() {
    let other = Service::start(list(&["b:1"])).await;
    let handler = Handler::start().await;
    for properties in [
        &[("HTTP_BEARER_TOKEN", "hunter2")][..],
        &[("HTTP_USERNAME", "me"), ("HTTP_PASSWORD", "hunter2")],
        &[("HTTP_HEADERS", "X-Key: hunter2")],
    ] {
        let service = Service::start(redirect(&other.url())).await;
        let _stream = handler
            .discover_with(&service.details(), properties)
            .await
            .unwrap();
        let why =
            "redirect not followed: it leads to another scheme, host or port, and the credentials";
        log_line(&[&service.key(), why]).await;
    }
    assert_eq!(other.polls(), 0);
    // Without credentials it is followed, as ever.
    let service = Service::start(redirect(&other.url())).await;
    assert_eq!(
        handler.stream(&service.details()).await.list().await,
        ["b:1"]
    );
    nothing_is_shown();
}

#[tokio::test]
async fn within_the_origin_a_redirect_keeps_the_credentials() {
    let service = Service::start(Reply::Made(|head| {
        let found =
            head.starts_with("GET /moved ") && head.contains("authorization: Bearer hunter2\r\n");
        let answer = match found {
            true => "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\na:1\n",
            false => "HTTP/1.1 302 Found\r\nLocation: /moved\r\nContent-Length: 0\r\n\r\n",
        };
        answer.into()
    }))
    .await;
    let handler = Handler::start().await;
    let properties = [("HTTP_BEARER_TOKEN", "hunter2")];
    let stream = handler.discover_with(&service.details(), &properties).await;
    assert_eq!(stream.unwrap().list().await, ["a:1"]);
}

#[tokio::test]
async fn a_client_certificate_is_not_offered_to_another_origin() {
    let authority = Authority::new();
    let (leaf, client) = (authority.issue("localhost"), authority.issue("client"));
    let other = Secure::start(&leaf, Some(&authority), false, "");
    let moved = format!(
        "HTTP/1.1 302 Found\r\nLocation: https://localhost:{}/\r\nContent-Length: 0\r\n\r\n",
        other.port
    );
    let service = Secure::start(&leaf, Some(&authority), false, &moved);
    let handler = Handler::start().await;
    let (ca, cert, key) = (
        authority.pem(),
        client.certificate.as_str(),
        client.key.as_str(),
    );
    let properties = [
        ("HTTP_CA_CERT", ca.as_str()),
        ("HTTP_CLIENT_CERT", cert),
        ("HTTP_CLIENT_KEY", key),
    ];
    let _stream = handler
        .discover_with(&service.details(), &properties)
        .await
        .unwrap();
    log_line(&[&service.key(), "redirect not followed: it leads to another"]).await;
    service.saw(|seen| seen.client == Some(client.der())).await;
    assert!(other.seen().is_empty());
}

#[tokio::test]
async fn wrong_properties_are_refused_by_name_and_not_by_value() {
    let handler = Handler::start().await;
    for (properties, why) in [
        (&[("HTTP_TOKEN", "hunter2")][..], "HTTP_TOKEN is unknown"),
        (
            &[("HTTP_USERNAME", "hunter2")],
            "HTTP_USERNAME needs HTTP_PASSWORD",
        ),
        (
            &[("HTTP_CA_CERT", "hunter2")],
            "HTTP_CA_CERT holds no certificate",
        ),
        (
            &[("HTTP_HEADERS", "X: y\nhunter2")],
            "HTTP_HEADERS line 2 is not",
        ),
        (
            &[("HTTP_HEADERS", "Host: hunter2")],
            "HTTP_HEADERS line 1 sets host",
        ),
    ] {
        let status = handler
            .discover_with("http://d", properties)
            .await
            .err()
            .unwrap();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(
            status.message().starts_with("discoveryProperties: "),
            "{status}"
        );
        assert!(
            status.message().contains(why) && !status.message().contains(SECRET),
            "{status}"
        );
        log_line(&["WARN", "Discover refused", why]).await;
    }
    nothing_is_shown();
}

#[tokio::test]
async fn properties_that_nobody_reads_are_one_line_with_their_names() {
    let service = Service::start(list(&["a:1"])).await;
    let handler = Handler::start().await;
    let properties = [("TOKEN", "hunter2"), ("SITE", "hunter2")];
    let stream = handler.discover_with(&service.details(), &properties).await;
    assert_eq!(stream.unwrap().list().await, ["a:1"]);
    let line = log_line(&[&service.key(), "discoveryProperties"]).await;
    assert!(
        line.ends_with("discoveryProperties that nobody reads: SITE, TOKEN"),
        "{line}"
    );
    assert!(!service.last_request().contains(SECRET));
    nothing_is_shown();
}

#[tokio::test]
async fn nothing_secret_is_in_the_log_the_metrics_or_the_saved_list() {
    let service = Service::start(list(&["a:1"])).await;
    let (admin, state) = (Admin::on(101), tempfile::tempdir().unwrap());
    let handler = Handler::start_with(|config| {
        admin.set(config);
        config.handler.state_directory = Some(state.path().to_owned());
    })
    .await;
    let properties = [
        ("HTTP_BEARER_TOKEN", "hunter2"),
        ("HTTP_HEADERS", "X-Key: hunter2"),
    ];
    let details = format!(
        "{}\nproxy: http://me:hunter2@127.0.0.1:{}",
        service.details(),
        service.port
    );
    let mut stream = handler.discover_with(&details, &properties).await.unwrap();
    assert_eq!(stream.list().await, ["a:1"]);
    let files = || {
        let entries = fs::read_dir(state.path().join("http"))
            .into_iter()
            .flatten();
        entries.map(|entry| entry.unwrap().path())
    };
    until(|| files().any(|file| file.extension().is_some_and(|it| it == "list"))).await;
    for file in files() {
        let bytes = fs::read(&file).unwrap();
        assert!(
            !bytes
                .windows(SECRET.len())
                .any(|part| part == SECRET.as_bytes())
        );
        assert!(!file.display().to_string().contains(SECRET));
    }
    service.now(raw("401 Unauthorized\r\nContent-Length: 0", ""));
    log_line(&[&service.key(), "answered 401"]).await;
    let (_, metrics) = admin.get("/metrics").await;
    assert!(
        metrics.contains(&service.key()) && !metrics.contains(SECRET),
        "{metrics}"
    );
    nothing_is_shown();
}

#[tokio::test]
async fn a_proxy_in_the_details_is_asked_and_none_without_it() {
    let proxy = Service::start(list(&["a:1"])).await;
    let handler = Handler::start().await;
    let url = format!("http://nowhere-{}.invalid/discovery", proxy.port);
    let details = format!(
        "url: {url}\nproxy: http://me:hunter2@127.0.0.1:{}",
        proxy.port
    );
    let mut stream = handler.stream(&details).await;
    assert_eq!(stream.list().await, ["a:1"]);
    let head = proxy.last_request();
    assert!(
        head.starts_with(&format!("GET {url} HTTP/1.1\r\n")),
        "{head}"
    );
    assert!(
        head.contains("proxy-authorization: Basic bWU6aHVudGVyMg==\r\n"),
        "{head}"
    );
    let _stream = handler.stream(&url).await;
    log_line(&[&url, ": cannot connect"]).await;
    nothing_is_shown();
}

#[tokio::test]
async fn what_fails_on_the_way_through_a_proxy_says_so() {
    let service = Service::start(list(&["a:1"])).await;
    let handler = Handler::start().await;
    let denied = raw("407 Proxy Authentication Required\r\nContent-Length: 0", "");
    let mut proxy = Service::start(denied).await;
    let details = format!(
        "{}\nproxy: http://me:hunter2@127.0.0.1:{}",
        service.details(),
        proxy.port
    );
    let _stream = handler.stream(&details).await;
    let key = service.key();
    log_line(&[&key, ": through the proxy: answered 407"]).await;
    proxy.down();
    log_line(&[
        &key,
        ": through the proxy: cannot connect: Connection refused",
    ])
    .await;
    nothing_is_shown();
}
