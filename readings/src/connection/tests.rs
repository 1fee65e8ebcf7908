use akri_proto::http::{ListDevicesRequest, ReadSensorResponse};
use tokio::net::TcpListener;
use tonic::codegen::http::Response;

use super::*;

const MAX: usize = 1024;

/// A broker that answers every call with this head, these pieces and these trailers.
async fn broker(
    head: &[(&'static str, &'static str)],
    pieces: &[&[u8]],
    trailers: Option<&[(&'static str, &'static str)]>,
) -> Connection {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (mut head, trailers) = (headers(head), trailers.map(headers));
    let grpc = header::HeaderValue::from_static("application/grpc");
    head.entry(header::CONTENT_TYPE).or_insert(grpc);
    let pieces: Vec<_> = pieces.iter().map(|it| Bytes::copy_from_slice(it)).collect();
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut calls = h2::server::handshake(stream).await.unwrap();
        while let Some(Ok((_, mut answer))) = calls.accept().await {
            let mut response = Response::new(());
            *response.headers_mut() = head.clone();
            if let Some(status) = head.get("http") {
                *response.status_mut() = status.to_str().unwrap().parse().unwrap();
            }
            let mut stream = answer.send_response(response, false).unwrap();
            for piece in &pieces {
                stream.send_data(piece.clone(), false).unwrap();
            }
            match &trailers {
                Some(trailers) => stream.send_trailers(trailers.clone()).unwrap(),
                None => stream.send_data(Bytes::new(), true).unwrap(),
            }
        }
    });
    Connection::open(address).await.unwrap()
}

fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
    let pairs = pairs.iter().map(|(name, value)| {
        let value = header::HeaderValue::from_static(value);
        (header::HeaderName::from_static(name), value)
    });
    pairs.collect()
}

fn reading(value: &str) -> ReadSensorResponse {
    ReadSensorResponse {
        value: value.into(),
        ..ReadSensorResponse::default()
    }
}

/// The values of an answer, and how it ended.
async fn values(connection: &Connection) -> (Vec<String>, Result<(), Status>) {
    let mut values = Vec::new();
    let request = ListDevicesRequest {};
    let mut answer = match connection.call("/a/b", &request, MAX).await {
        Ok(answer) => answer,
        Err(status) => return (values, Err(status)),
    };
    loop {
        match answer.next::<ReadSensorResponse>().await {
            Ok(Some(reading)) => values.push(reading.value),
            Ok(None) => return (values, Ok(())),
            Err(status) => return (values, Err(status)),
        }
    }
}

#[tokio::test]
async fn messages_come_whole_in_whatever_pieces_they_are_sent() {
    let long = "x".repeat(MAX - 3);
    let sent = ["", "21.5", &long, "last"];
    let bytes: Vec<u8> = (sent.iter()).flat_map(|it| framed(&reading(it))).collect();
    for size in [17, bytes.len()] {
        let pieces: Vec<&[u8]> = bytes.chunks(size).collect();
        let connection = broker(&[], &pieces, Some(&[("grpc-status", "0")])).await;
        // The second call is as good as the first.
        for _ in 0..2 {
            let (values, end) = values(&connection).await;
            assert!(end.is_ok(), "{end:?}");
            assert_eq!(values, sent);
        }
        assert!(connection.is_open());
    }
}

#[tokio::test]
async fn an_answer_that_is_not_as_it_should_be_is_an_error_after_what_was_good() {
    let good = framed(&reading("1"));
    let too_long = framed(&reading(&"x".repeat(MAX)));
    let huge = [0, 255, 255, 255, 255];
    let compressed = [1, 0, 0, 0, 0];
    let no_message = [0, 0, 0, 0, 1, 255];
    let ok: &[_] = &[("grpc-status", "0")];
    let not_found: &[_] = &[("grpc-status", "5"), ("grpc-message", "no%20such%20device")];
    let hostile: &[_] = &[("grpc-status", "5"), ("grpc-status-details-bin", "?")];
    for (rest, trailers, code, says) in [
        (&too_long[..], Some(ok), Code::OutOfRange, "more than 1024"),
        (&huge, Some(ok), Code::OutOfRange, "4294967295 bytes"),
        (&compressed, Some(ok), Code::Internal, "compresses"),
        (&no_message, Some(ok), Code::Internal, "decode"),
        (&good[..4], Some(ok), Code::Unknown, "is cut"),
        (&good[..7], Some(ok), Code::Unknown, "is cut"),
        (&[], None, Code::Unknown, "has no status"),
        (&[], Some(&[]), Code::Unknown, "has no status"),
        (&[], Some(not_found), Code::NotFound, "no such device"),
        (&[], Some(hostile), Code::NotFound, ""),
    ] {
        let connection = broker(&[], &[&good, rest], trailers).await;
        let (values, end) = values(&connection).await;
        let status = end.unwrap_err();
        assert_eq!(values, ["1"], "{status}");
        assert_eq!(status.code(), code, "{status}");
        assert!(status.message().contains(says), "{status}");
    }
}

#[tokio::test]
async fn where_one_message_is_due_its_call_has_to_end_well_after_it() {
    let good = framed(&reading("1"));
    let ok: &[_] = &[("grpc-status", "0")];
    let internal: &[_] = &[("grpc-status", "13"), ("grpc-message", "it broke")];
    for (sent, trailers, expected) in [
        (&[&good[..]][..], Some(ok), Ok("1")),
        (&[&good], Some(internal), Err("Internal: it broke")),
        (&[&good], None, Err("Unknown: the answer has no status")),
        (
            &[&good, &good[..7]],
            Some(ok),
            Err("Unknown: the answer is cut"),
        ),
        (
            &[&good, &good],
            Some(ok),
            Err("Unknown: two messages instead of one"),
        ),
        (&[], Some(ok), Err("Unknown: an answer without a message")),
    ] {
        let connection = broker(&[], sent, trailers).await;
        let answer = connection.call("/a/b", &ListDevicesRequest {}, MAX).await;
        let only = answer.unwrap().only(|it: ReadSensorResponse| it.value);
        let only = only.await.map_err(|status| why(&status));
        let expected = expected.map(str::to_owned).map_err(str::to_owned);
        assert_eq!(only, expected);
    }
}

#[tokio::test]
async fn a_broker_may_end_a_call_with_a_code_and_no_words() {
    for (code, says) in [
        ("1", "Cancelled"),
        ("4", "DeadlineExceeded"),
        ("11", "OutOfRange"),
    ] {
        let connection = broker(&[("grpc-status", code)], &[], None).await;
        assert_eq!(why(&values(&connection).await.1.unwrap_err()), says);
    }
}

#[tokio::test]
async fn a_message_takes_no_more_memory_than_its_length() {
    let long = framed(&reading(&"x".repeat(MAX - 3)));
    let connection = broker(&[], &[], Some(&[])).await;
    let request = ListDevicesRequest {};
    let mut answer = connection.call("/a/b", &request, MAX).await.unwrap();
    let mut most = 0;
    for byte in long.chunks(1) {
        answer.received = Bytes::copy_from_slice(byte);
        let whole = answer.whole::<ReadSensorResponse>().unwrap();
        assert!(answer.received.is_empty());
        most = answer.message.capacity().max(most);
        assert!(whole.is_none() || answer.message.capacity() == 0);
    }
    assert_eq!(most, long.len());
}

#[tokio::test]
async fn the_headers_may_say_how_a_call_went() {
    let refused = broker(&[("grpc-status", "12"), ("grpc-message", "no")], &[], None).await;
    let status = values(&refused).await.1.unwrap_err();
    assert_eq!(
        (status.code(), status.message()),
        (Code::Unimplemented, "no")
    );
    let empty = broker(&[("grpc-status", "0")], &[], None).await;
    assert!(values(&empty).await.1.is_ok());
    let web = broker(&[("http", "503")], &[b"<html>"], None).await;
    let status = values(&web).await.1.unwrap_err();
    assert_eq!(status.message(), "HTTP status 503 Service Unavailable");
    let web = broker(&[("content-type", "text/html")], &[b"<html>"], None).await;
    let status = values(&web).await.1.unwrap_err();
    assert_eq!(status.message(), "not gRPC, but \"text/html\"");
}

#[tokio::test]
async fn a_broker_that_closes_or_speaks_something_else_ends_the_call_and_the_connection() {
    for says in [&b""[..], b"HTTP/1.1 400 Bad Request\r\n\r\n"] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let connection = Connection::open(listener.local_addr().unwrap())
            .await
            .unwrap();
        let (mut stream, _) = listener.accept().await.unwrap();
        tokio::io::AsyncWriteExt::write_all(&mut stream, says)
            .await
            .unwrap();
        drop(stream);
        let status = values(&connection).await.1.unwrap_err();
        assert_eq!(status.code(), Code::Unavailable, "{status}");
        while connection.is_open() {
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test]
async fn a_silent_connection_is_asked_whether_it_is_still_there_and_not_for_long() {
    use rustix::net::sockopt::{socket_keepalive, tcp_keepidle, tcp_user_timeout};
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let stream = TcpStream::connect(listener.local_addr().unwrap())
        .await
        .unwrap();
    keep_alive(&stream);
    assert!(socket_keepalive(&stream).unwrap());
    assert_eq!(tcp_keepidle(&stream).unwrap(), Duration::from_secs(30));
    assert_eq!(tcp_user_timeout(&stream).unwrap(), 30_000);
}
