//! Whatever the discovery service does, the list stands and the stream is open (rule 1).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::time::Duration;

use support::*;

/// A good list, then `reply` for some polls, then a good list that differs. The log has `cause`, once.
async fn stands(reply: Reply, cause: &str) {
    stands_with(|_| reply, &[cause]).await;
}

async fn stands_with(reply: impl FnOnce(&Service) -> Reply, cause: &[&str]) {
    stands_within("1m", reply, cause).await;
}

async fn stands_within(timeout: &str, reply: impl FnOnce(&Service) -> Reply, cause: &[&str]) {
    let service = Service::start(list(&["a:1", "b:1"])).await;
    let handler = Handler::start_with(|config| config.max_body_bytes = 1 << 20).await;
    let details = format!(
        "url: {}\ninterval: 200ms\ntimeout: {timeout}",
        service.url()
    );
    let mut stream = handler.stream(&details).await;
    assert_eq!(stream.list().await, ["a:1", "b:1"]);

    service.now(reply(&service));
    service.polled(4).await;
    let port = service.key();
    let start = [&["WARN", &port, "the last list of 2 devices stands"], cause].concat();
    log_line(&start).await;

    service.now(list(&["a:1", "c:1"]));
    assert_eq!(stream.list().await, ["a:1", "c:1"]);
    log_line(&["INFO", &port, "works again after"]).await;
    assert_eq!(logged(&start).len(), 1, "one line when it starts to fail");
    assert_eq!(
        logged(&["WARN", &port]).len(),
        1,
        "{:?}",
        logged(&["WARN", &port])
    );
}

#[tokio::test]
async fn a_500_counts_for_nothing_even_with_a_list() {
    stands(
        raw("500 Oops\r\nContent-Length: 4", "x:1\n"),
        "answered 500",
    )
    .await;
}

#[tokio::test]
async fn a_404_page_is_no_list() {
    stands(
        raw("404 Not Found\r\nContent-Length: 10", "not found\n"),
        "answered 404 Not Found",
    )
    .await;
}

#[tokio::test]
async fn a_part_is_no_list() {
    stands(
        raw("206 Partial Content\r\nContent-Length: 4", "a:1\n"),
        "206 Partial Content",
    )
    .await;
}

#[tokio::test]
async fn another_2xx_is_no_list_even_with_one() {
    for status in [
        "201 Created",
        "202 Accepted",
        "203 Elsewhere",
        "226 IM Used",
    ] {
        let head = format!("{status}\r\nContent-Length: 4");
        stands(raw(&head, "x:1\n"), &format!("answered {}", &status[..3])).await;
    }
}

#[tokio::test]
async fn html_with_200_is_no_list() {
    let page = "<!DOCTYPE html>\n<html><body>\nhttp://login:80\n</body></html>\n";
    let head = format!(
        "200 OK\r\nContent-Type: text/html\r\nContent-Length: {}",
        page.len()
    );
    stands(
        raw(&head, page),
        "line 1 of the list is neither a URL nor host:port",
    )
    .await;
}

#[tokio::test]
async fn a_list_with_one_bad_line_is_no_list() {
    stands(list(&["a:1", "", "oops", "b:1"]), "line 3 of the list").await;
}

#[tokio::test]
async fn a_redirect_loop_ends() {
    let to_itself = |service: &Service| {
        let head = format!(
            "302 Found\r\nLocation: {}\r\nContent-Length: 0",
            service.url()
        );
        raw(&head, "")
    };
    stands_with(to_itself, &["more than 5 redirects"]).await;
}

#[tokio::test]
async fn a_reply_that_is_cut_is_no_list() {
    stands(
        raw("200 OK\r\nContent-Length: 400", "a:1\n"),
        "end of file before message length",
    )
    .await;
}

#[tokio::test]
async fn a_chunked_reply_that_is_cut_is_no_list() {
    stands(
        raw("200 OK\r\nTransfer-Encoding: chunked", "4\r\na:1\n\r\n"),
        "no complete reply: ",
    )
    .await;
}

#[tokio::test]
async fn a_reply_that_may_have_been_cut_is_no_list() {
    for body in ["", "a:1\nb:", "a:1"] {
        stands(raw("200 OK", body), "the reply may be truncated").await;
    }
}

#[tokio::test]
async fn a_reply_without_a_length_that_ends_with_a_line_is_a_list() {
    let service = Service::start(raw("200 OK", "a:1\nb:1\n")).await;
    let handler = Handler::start().await;
    let mut stream = handler.stream(&service.details()).await;
    assert_eq!(stream.list().await, ["a:1", "b:1"]);
}

#[tokio::test]
async fn a_length_that_is_none_is_no_list() {
    stands(
        raw("200 OK\r\nContent-Length: many", "a:1\n"),
        "content-length",
    )
    .await;
}

#[tokio::test]
async fn a_slow_drip_is_given_up() {
    let head = b"HTTP/1.1 200 OK\r\nContent-Length: 4000\r\n\r\n".to_vec();
    let drip = Reply::Drip(head, b"a".to_vec(), Duration::from_millis(50));
    stands_within("2s", |_| drip, &["no complete reply within 2s"]).await;
}

#[tokio::test]
async fn silence_is_given_up() {
    stands_within("2s", |_| Reply::Silence, &["no complete reply within 2s"]).await;
}

#[tokio::test]
async fn an_endless_reply_is_given_up() {
    let head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
    let mut chunk = b"10000\r\n".to_vec();
    chunk.extend(
        "http://device:8080/aaaaaaaaaaaa\n"
            .repeat(2_048)
            .into_bytes(),
    );
    chunk.extend(b"\r\n");
    let drip = Reply::Drip(head, chunk, Duration::ZERO);
    stands_with(|_| drip, &["longer than 1048576 bytes"]).await;
}

#[tokio::test]
async fn an_announced_reply_over_the_limit_is_not_even_read() {
    stands(
        raw("200 OK\r\nContent-Length: 1048577", "a:1\n"),
        "longer than 1048576 bytes",
    )
    .await;
}

#[tokio::test]
async fn an_endless_line_is_given_up() {
    let head = b"HTTP/1.1 200 OK\r\n\r\n".to_vec();
    let drip = Reply::Drip(head, vec![b'a'; 4_000], Duration::ZERO);
    stands_with(|_| drip, &["longer than 1048576 bytes"]).await;
}

#[tokio::test]
async fn binary_is_no_list() {
    stands(
        raw("200 OK\r\nContent-Length: 4", b"\x1f\x8b\x08\x00"),
        "line 1 of the list",
    )
    .await;
}

#[tokio::test]
async fn something_else_than_http_is_no_list() {
    stands(
        Reply::Raw(b"SSH-2.0-OpenSSH_9.2\r\n".to_vec()),
        "invalid HTTP",
    )
    .await;
}

#[tokio::test]
async fn a_list_that_the_agent_would_not_take_is_not_sent() {
    let body: String = (0..60_000)
        .map(|n| format!("http://10.{}.{}.1:80\n", n / 250, n % 250))
        .collect();
    let service = Service::start(list(&["a:1"])).await;
    let handler = Handler::start().await;
    let details = format!("url: {}\ninterval: 200ms\ntimeout: 10s", service.url());
    let mut stream = handler.stream(&details).await;
    assert_eq!(stream.list().await, ["a:1"]);
    service.now(Reply::List(body));
    service.polled(2).await;
    let port = service.key();
    let line = log_line(&["WARN", &port, "the list of 60000 devices is too large"]).await;
    assert!(line.contains("more than 4194304 bytes"), "{line}");
    service.now(list(&["b:1"]));
    assert_eq!(stream.list().await, ["b:1"]);
}

#[tokio::test]
async fn an_outage_is_three_lines_and_loses_nothing() {
    let mut service = Service::start(list(&["a:1", "b:1"])).await;
    let handler = Handler::start().await;
    let mut stream = handler.stream(&service.details()).await;
    stream.list().await;
    let port = service.key();

    service.down();
    log_line(&[
        "WARN",
        &port,
        "Connection refused",
        "the last list of 2 devices stands",
    ])
    .await;
    service.now(raw("503 Busy\r\nContent-Length: 0", ""));
    service.up().await;
    log_line(&["WARN", &port, "still failing after", "answered 503"]).await;
    service.now(list(&["a:1", "b:1"]));
    log_line(&["INFO", &port, "works again after"]).await;
    assert_eq!(logged(&["WARN", &port]).len(), 2);
    service.now(list(&["c:1"]));
    assert_eq!(stream.list().await, ["c:1"]);
}

#[tokio::test]
async fn a_service_that_is_not_there_yet_sends_nothing_until_it_is() {
    let mut service = Service::start(list(&["a:1"])).await;
    service.down();
    let handler = Handler::start().await;
    let mut stream = handler.stream(&service.details()).await;
    log_line(&["WARN", &service.key(), "there is no list yet"]).await;
    service.up().await;
    assert_eq!(stream.list().await, ["a:1"]);
}

#[tokio::test]
async fn a_kept_connection_that_the_service_closes_is_no_outage() {
    let service = Service::start(list(&["a:1"])).await;
    let handler = Handler::start().await;
    let mut stream = handler.stream(&service.details()).await;
    stream.list().await;
    // Answers on kept connections, and says nothing of closing them.
    service.now(raw("200 OK\r\nContent-Length: 4", "a:1\n"));
    service.polled(6).await;
    assert!(logged(&["WARN", &service.key()]).is_empty());
}

#[tokio::test]
async fn a_redirect_does_not_carry_the_query_string_elsewhere() {
    let target = Service::start(list(&["a:1"])).await;
    let head = format!(
        "302 Found\r\nLocation: {}\r\nContent-Length: 0",
        target.url()
    );
    let service = Service::start(raw(&head, "")).await;
    let handler = Handler::start().await;
    let mut stream = handler.stream(&(service.url() + "?token=hunter4")).await;
    assert_eq!(stream.list().await, ["a:1"]);
    assert!(service.last_request().contains("hunter4"));
    assert!(
        !target.last_request().contains("hunter4"),
        "{}",
        target.last_request()
    );
}

#[tokio::test]
async fn a_service_that_closes_without_an_answer_is_asked_once_more_within_the_timeout() {
    let service = Service::start(list(&["a:1"])).await;
    let handler = Handler::start().await;
    let details = format!("url: {}\ninterval: 1h", service.url());
    service.now(Reply::Raw(Vec::new()));
    let _stream = handler.stream(&details).await;
    log_line(&["WARN", &service.key(), "no complete reply"]).await;
    assert!(service.polls() >= 2);
}

#[tokio::test]
async fn a_password_in_the_url_is_used_and_never_logged() {
    let service = Service::start(raw("401 No\r\nContent-Length: 0", "")).await;
    let handler = Handler::start().await;
    let url = service.url().replace("http://", "http://me:hunter2@") + "?token=hunter3";
    let _stream = handler.stream(&url).await;
    let port = service.key();
    log_line(&["WARN", &port, "answered 401"]).await;
    assert!(service.last_request().contains("token=hunter3"));
    assert!(
        service
            .last_request()
            .to_lowercase()
            .contains("authorization: basic")
    );
    assert!(logged(&["hunter"]).is_empty());
}
