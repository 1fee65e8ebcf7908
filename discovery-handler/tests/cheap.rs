//! What a poll costs the service: replies that have not changed, and compressed ones.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::time::Duration;

use async_compression::{
    Level,
    tokio::write::{GzipEncoder, ZstdEncoder},
    zstd::CParameter,
};
use support::*;
use tokio::io::AsyncWriteExt;

fn ok(headers: &str, body: &[u8]) -> Reply {
    raw(
        &format!("200 OK\r\n{headers}\r\nContent-Length: {}", body.len()),
        body,
    )
}

async fn gzip(body: &[u8]) -> Vec<u8> {
    let mut encoder = GzipEncoder::with_quality(Vec::new(), Level::Fastest);
    encoder.write_all(body).await.unwrap();
    encoder.shutdown().await.unwrap();
    encoder.into_inner()
}

async fn zstd(body: &[u8], window: u32) -> Vec<u8> {
    let window = [CParameter::window_log(window)];
    let mut encoder = ZstdEncoder::with_quality_and_params(Vec::new(), Level::Fastest, &window);
    encoder.write_all(body).await.unwrap();
    encoder.shutdown().await.unwrap();
    encoder.into_inner()
}

fn count(service: &Service, line: &str) -> usize {
    service
        .requests()
        .iter()
        .filter(|head| head.contains(line))
        .count()
}

/// The headers of the reply, the condition that follows, and that there is none before.
async fn is_asked_with(headers: &str, condition: &str) {
    let service = Service::start(ok(headers, b"a:1\n")).await;
    let handler = Handler::start().await;
    let mut stream = handler.stream(&service.details()).await;
    assert_eq!(stream.list().await, ["a:1"]);
    assert!(!service.requests().first().unwrap().contains("if-"));
    service.now(raw("304 Not Modified", ""));
    service.polled(4).await;
    assert!(count(&service, condition) >= 3, "{:#?}", service.requests());
    // The list is there all the time, and what is new comes at once.
    service.now(list(&["a:1", "b:1"]));
    assert_eq!(stream.list().await, ["a:1", "b:1"]);
    assert!(logged(&["WARN", &service.key()]).is_empty());
}

#[tokio::test]
async fn a_reply_with_a_validator_is_asked_for_only_where_it_has_changed() {
    is_asked_with("ETag: \"one\"", "if-none-match: \"one\"\r\n").await;
    is_asked_with("ETag: W/\"weak\"", "if-none-match: W/\"weak\"\r\n").await;
    let dated = "Last-Modified: Tue, 24 Nov 2026 00:00:00 GMT";
    let condition = "if-modified-since: Tue, 24 Nov 2026 00:00:00 GMT\r\n";
    is_asked_with(
        &format!("{dated}\r\nDate: Tue, 24 Nov 2026 00:00:01 GMT"),
        condition,
    )
    .await;
}

#[tokio::test]
async fn what_may_change_unseen_or_is_too_long_is_no_validator() {
    let now = "Tue, 24 Nov 2026 00:00:00 GMT";
    let long = "x".repeat(1_100);
    for headers in [
        format!("Last-Modified: {now}\r\nDate: {now}"),
        format!("Last-Modified: {now}"),
        // Not older than the reply, or nobody can tell.
        format!("Last-Modified: Tue, 24 Nov 2026 00:00:01 GMT\r\nDate: {now}"),
        format!("Last-Modified: yesterday\r\nDate: {now}"),
        format!("Last-Modified: {now}\r\nDate: tomorrow"),
        format!("ETag: \"{long}\""),
        "ETag: ".to_owned(),
    ] {
        let service = Service::start(ok(&headers, b"a:1\n")).await;
        let handler = Handler::start().await;
        let mut stream = handler.stream(&service.details()).await;
        assert_eq!(stream.list().await, ["a:1"]);
        service.polled(3).await;
        assert_eq!(
            count(&service, "if-"),
            0,
            "{headers}: {:#?}",
            service.requests()
        );
        // Nobody has asked for this.
        service.now(raw("304 Not Modified", ""));
        log_line(&["WARN", &service.key(), "answered 304"]).await;
    }
}

#[tokio::test]
async fn the_same_list_under_another_tag_is_asked_for_by_the_new_one() {
    let service = Service::start(ok("ETag: \"one\"", b"a:1\n")).await;
    let handler = Handler::start().await;
    let mut stream = handler.stream(&service.details()).await;
    assert_eq!(stream.list().await, ["a:1"]);
    service.now(ok("ETag: \"two\"", b"a:1\n"));
    until(|| count(&service, "if-none-match: \"two\"") > 0).await;
}

fn to(service: &Service) -> Reply {
    let url = service.url();
    raw(
        &format!("302 Found\r\nLocation: {url}\r\nContent-Length: 0"),
        "",
    )
}

#[tokio::test]
async fn a_validator_is_for_the_url_that_gave_it_and_for_none_that_it_leads_to() {
    let same = |list: &'static str| ok("ETag: \"1\"", list.as_bytes());
    let one = Service::start(same("a:1\n")).await;
    let other = Service::start(Reply::Made(|head| {
        match head.contains("if-none-match") {
            true => "HTTP/1.1 304 Not Modified\r\n\r\n",
            false => "HTTP/1.1 200 OK\r\nETag: \"1\"\r\nContent-Length: 4\r\n\r\nb:1\n",
        }
        .into()
    }))
    .await;
    // The list comes from where the first redirect leads, or from the URL itself.
    for first in [to(&one), same("a:1\n")] {
        let service = Service::start(first).await;
        let handler = Handler::start().await;
        let mut stream = handler.stream(&service.details()).await;
        assert_eq!(stream.list().await, ["a:1"]);
        service.now(to(&other));
        assert_eq!(stream.list().await, ["b:1"]);
    }
    // What is not sent to a server still counts as the same URL.
    let url = one.url().replace("http://", "http://me:hunter2@");
    let handler = Handler::start().await;
    let _stream = handler
        .stream(&format!("url: {url}#top\ninterval: 100ms"))
        .await;
    until(|| count(&one, "if-none-match: \"1\"") > 0).await;
}

#[tokio::test]
async fn a_validator_that_the_server_does_not_take_is_sent_once() {
    let service = Service::start(Reply::Made(|head| match head.contains("if-none-match") {
        true => b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n".to_vec(),
        false => b"HTTP/1.1 200 OK\r\nETag: \"\xff\"\r\nContent-Length: 4\r\n\r\na:1\n".to_vec(),
    }))
    .await;
    let handler = Handler::start().await;
    let mut stream = handler.stream(&service.details()).await;
    assert_eq!(stream.list().await, ["a:1"]);
    log_line(&["WARN", &service.key(), "answered 400"]).await;
    log_line(&["INFO", &service.key(), "again"]).await;
}

#[tokio::test]
async fn compressed_replies_are_asked_for_and_unpacked() {
    let body: String = (0..5_000)
        .map(|n| format!("http://device-{n:04}:80\n"))
        .collect();
    // Without a line feed at the end: the length says that it is whole.
    let body = body.trim_end();
    let bodies = [
        ("gzip", gzip(body.as_bytes()).await),
        ("zstd", zstd(body.as_bytes(), 20).await),
    ];
    for (encoding, packed) in bodies {
        let service = Service::start(ok(&format!("Content-Encoding: {encoding}"), &packed)).await;
        let handler = Handler::start().await;
        let mut stream = handler.stream(&service.details()).await;
        assert_eq!(stream.list().await.len(), 5_000);
        assert!(
            service
                .last_request()
                .contains("accept-encoding: zstd, gzip\r\n")
        );
        // Closing is no less of an end, since the body says itself where that is.
        service.now(raw(
            &format!("200 OK\r\nContent-Encoding: {encoding}"),
            &packed,
        ));
        service.polled(3).await;
        assert!(logged(&["WARN", &service.key()]).is_empty());

        for cut in [packed.len() - 1, packed.len() - 5, packed.len() / 2, 1] {
            let cut = packed.get(..cut).unwrap();
            let service = Service::start(ok(&format!("Content-Encoding: {encoding}"), cut)).await;
            let _stream = handler.stream(&service.details()).await;
            let why = format!("the {encoding} body is damaged or cut");
            log_line(&["WARN", &service.key(), &why]).await;
        }
    }
}

#[tokio::test]
async fn only_what_is_unpacked_may_end_by_closing_without_a_line_feed() {
    let empty = "Content-Encoding: ";
    for (headers, body, why) in [
        ("Content-Encoding: identity", "a:1\nb:1", "may be truncated"),
        (empty, "a:1\nb:1", "may be truncated"),
        (
            "Transfer-Encoding: identity",
            "a:1\nb:1",
            "may be truncated",
        ),
        ("Content-Encoding: gzip", "", "gzip body is damaged or cut"),
        ("Content-Encoding: zstd", "", "zstd body is damaged or cut"),
        (
            "Content-Encoding: identity\r\nContent-Encoding: br",
            "a:1\n",
            "Content-Encoding is neither zstd nor gzip",
        ),
    ] {
        let service = Service::start(raw(&format!("200 OK\r\n{headers}"), body)).await;
        let handler = Handler::start().await;
        let _stream = handler.stream(&service.details()).await;
        log_line(&["WARN", &service.key(), why]).await;
    }
}

#[tokio::test]
async fn what_is_compressed_and_holds_nothing_is_given_up_at_the_limit_too() {
    let skipped = b"\x50\x2a\x4d\x18\0\0\0\0".to_vec();
    for (encoding, nothing) in [
        ("gzip", gzip(b"").await),
        ("zstd", zstd(b"", 20).await),
        ("zstd", skipped),
    ] {
        let endless = Reply::Drip(
            format!("HTTP/1.1 200 OK\r\nContent-Encoding: {encoding}\r\n\r\n").into(),
            nothing.repeat(1_000),
            Duration::ZERO,
        );
        let service = Service::start(endless).await;
        let handler = Handler::start_with(|config| config.max_body_bytes = 65_536).await;
        let _stream = handler.stream(&service.details()).await;
        log_line(&["WARN", &service.key(), "longer than 65536 bytes"]).await;
    }
}

#[tokio::test]
async fn a_bomb_is_given_up_at_the_limit_and_an_unknown_encoding_at_once() {
    let zeros = vec![b'\n'; 4 << 20];
    for (encoding, packed, why) in [
        ("gzip", gzip(&zeros).await, "longer than 65536 bytes"),
        ("zstd", zstd(&zeros, 20).await, "longer than 65536 bytes"),
        // It would have to be looked back on by 128 MiB.
        (
            "zstd",
            zstd(&zeros, 27).await,
            "the zstd body is damaged or cut",
        ),
        (
            "br",
            b"a:1\n".to_vec(),
            "Content-Encoding is neither zstd nor gzip",
        ),
        (
            "gzip, gzip",
            b"a:1\n".to_vec(),
            "Content-Encoding is neither",
        ),
    ] {
        assert!(packed.len() < 65_536);
        let service = Service::start(ok(&format!("Content-Encoding: {encoding}"), &packed)).await;
        let handler = Handler::start_with(|config| config.max_body_bytes = 65_536).await;
        let _stream = handler.stream(&service.details()).await;
        log_line(&["WARN", &service.key(), why]).await;
    }
}
