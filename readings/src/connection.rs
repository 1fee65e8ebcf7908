//! A connection to a broker. There may be a thousand of them, each with a device or two, so it is HTTP/2 and gRPC's messages
//! and nothing more: the channel and the client of tonic take as much again as all else that the page knows of a device.

use std::{error::Error, net::SocketAddr, sync::Arc, time::Duration};

use akri_daemon::{innermost, one_line};
use bytes::{BufMut, Bytes, BytesMut};
use h2::{
    RecvStream,
    client::{Builder, SendRequest},
};
use prost::Message;
use rustix::net::sockopt::{
    set_socket_keepalive, set_tcp_keepidle, set_tcp_keepintvl, set_tcp_user_timeout,
};
use tokio::{net::TcpStream, time::timeout};
use tokio_util::task::AbortOnDropHandle;
use tonic::{
    Code, Status,
    codegen::http::{HeaderMap, Request, StatusCode, header},
};

/// How long connecting may take.
const CONNECT: Duration = Duration::from_secs(5);

/// After so much silence the broker's machine is asked whether the connection is still there, and how long it may not answer.
const KEEP_ALIVE: Duration = Duration::from_secs(30);

/// What a broker may send before it is read, in bytes, for each call and for each connection.
const WINDOWS: (u32, u32) = (16 * 1024, 64 * 1024);

/// The longest headers of an answer, in bytes.
const MAX_HEADERS: u32 = 16 * 1024;

/// Before each message: whether it is compressed, and its length.
const PREFIX: usize = 5;

/// Clones are the same connection, which closes with the last of them.
#[derive(Clone)]
pub(crate) struct Connection {
    broker: SocketAddr,
    calls: SendRequest<Bytes>,
    running: Arc<AbortOnDropHandle<Result<(), h2::Error>>>,
}

impl Connection {
    /// Connects; the error says why that failed.
    pub(crate) async fn open(broker: SocketAddr) -> Result<Self, String> {
        let stream = match timeout(CONNECT, TcpStream::connect(broker)).await {
            Ok(opened) => opened.map_err(|error| cannot_connect(&error))?,
            Err(_) => return Err(format!("cannot connect within {CONNECT:?}")),
        };
        keep_alive(&stream);
        let mut settings = Builder::new();
        settings
            .initial_window_size(WINDOWS.0)
            .initial_connection_window_size(WINDOWS.1)
            .max_header_list_size(MAX_HEADERS)
            // A header table keeps the buffers of the headers in it.
            .header_table_size(0)
            .enable_push(false);
        // On the heap, since it is large, and only for a moment: it does not wait for the broker.
        let opened = Box::pin(settings.handshake(stream)).await;
        let (calls, connection) = opened.map_err(|error| cannot_connect(&error))?;
        Ok(Self {
            broker,
            calls,
            // Its calls say what went wrong.
            running: Arc::new(AbortOnDropHandle::new(tokio::spawn(connection))),
        })
    }

    /// Whether it can take calls.
    pub(crate) fn is_open(&self) -> bool {
        !self.running.is_finished()
    }

    /// How many clones there are, besides this one.
    pub(crate) fn clones(&self) -> usize {
        Arc::strong_count(&self.running).saturating_sub(1)
    }

    /// Calls a method of the broker. A message of its answer may have `max` bytes.
    pub(crate) async fn call(
        &self,
        method: &str,
        message: &impl Message,
        max: usize,
    ) -> Result<Answer, Status> {
        let request = Request::post(format!("http://{}{method}", self.broker))
            .header(header::CONTENT_TYPE, "application/grpc")
            .header(header::TE, "trailers")
            .body(())
            .map_err(|error| Status::internal(error.to_string()))?;
        let mut calls = self.calls.clone().ready().await.map_err(failed)?;
        let (answer, mut stream) = calls.send_request(request, false).map_err(failed)?;
        stream.send_data(framed(message), true).map_err(failed)?;
        let (head, messages) = answer.await.map_err(failed)?.into_parts();
        if head.status != StatusCode::OK {
            return Err(Status::unknown(format!("HTTP status {}", head.status)));
        }
        is_grpc(&head.headers)?;
        // Where there is no message, the headers may have the status.
        let succeeded = match status(head.headers) {
            Some(status) if status.code() != Code::Ok => return Err(status),
            status => status.is_some(),
        };
        Ok(Answer {
            messages,
            succeeded,
            received: Bytes::new(),
            message: Vec::new(),
            max,
        })
    }
}

/// What a broker answers, as it comes.
pub(crate) struct Answer {
    messages: RecvStream,
    succeeded: bool,
    /// What has not gone into a message yet; empty while more is awaited.
    received: Bytes,
    /// The beginning of a message, with its prefix.
    message: Vec<u8>,
    max: usize,
}

impl Answer {
    /// The next message; `None` after the last.
    pub(crate) async fn next<M: Message + Default>(&mut self) -> Result<Option<M>, Status> {
        loop {
            if let Some(message) = self.whole()? {
                return Ok(Some(message));
            }
            let Some(data) = self.messages.data().await else {
                break;
            };
            let data = data.map_err(failed)?;
            // The broker may send as much again.
            let flow = self.messages.flow_control();
            flow.release_capacity(data.len()).map_err(failed)?;
            self.received = data;
        }
        let trailers = self.messages.trailers().await.map_err(failed)?;
        match trailers.and_then(status) {
            Some(status) if status.code() != Code::Ok => Err(status),
            None if !self.succeeded => Err(Status::unknown("the answer has no status")),
            _ if !self.message.is_empty() => Err(Status::unknown("the answer is cut")),
            _ => Ok(None),
        }
    }

    /// The only message of a call that succeeds, or what is `wanted` of it, so that the rest need not be kept until the call ends.
    pub(crate) async fn only<M: Message + Default, T>(
        mut self,
        wanted: impl FnOnce(M) -> T,
    ) -> Result<T, Status> {
        let Some(message) = self.next().await? else {
            return Err(Status::unknown("an answer without a message"));
        };
        let wanted = wanted(message);
        match self.next::<M>().await? {
            Some(_) => Err(Status::unknown("two messages instead of one")),
            None => Ok(wanted),
        }
    }

    /// The next message, if it is there as a whole.
    fn whole<M: Message + Default>(&mut self) -> Result<Option<M>, Status> {
        self.take(PREFIX);
        let Some(&[compressed, ref length @ ..]) = self.message.first_chunk::<PREFIX>() else {
            return Ok(None);
        };
        let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
        if compressed != 0 {
            return Err(Status::internal(
                "the broker compresses, though nobody asked for it",
            ));
        }
        let max = self.max;
        if length > max {
            let why = format!("a message of {length} bytes, more than {max}");
            return Err(Status::out_of_range(why));
        }
        self.take(PREFIX + length);
        let Some(message) = self.message.get(PREFIX..PREFIX + length) else {
            return Ok(None);
        };
        let message = M::decode(message).map_err(|error| Status::internal(error.to_string()))?;
        // Nothing is set aside for the next one, which may come much later.
        self.message = Vec::new();
        Ok(Some(message))
    }

    /// Moves what a message of this length lacks, as far as it has come. The message never has more room than it needs.
    fn take(&mut self, length: usize) {
        let lacks = length.saturating_sub(self.message.len());
        let come = self.received.split_to(lacks.min(self.received.len()));
        self.message.reserve_exact(lacks);
        self.message.extend_from_slice(&come);
    }
}

fn framed(message: &impl Message) -> Bytes {
    let message = message.encode_to_vec();
    let mut framed = BytesMut::with_capacity(PREFIX + message.len());
    framed.put_u8(0);
    // What the page asks is short.
    framed.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    framed.extend_from_slice(&message);
    framed.freeze()
}

/// Whatever else speaks HTTP/2 is no broker.
fn is_grpc(headers: &HeaderMap) -> Result<(), Status> {
    match headers.get(header::CONTENT_TYPE) {
        Some(given) if given.as_bytes().starts_with(b"application/grpc") => Ok(()),
        Some(given) => Err(Status::unknown(format!("not gRPC, but {given:?}"))),
        None => Err(Status::unknown("not gRPC: the answer has no content-type")),
    }
}

fn status(mut headers: HeaderMap) -> Option<Status> {
    // tonic panics where they are not as they should be.
    headers.remove("grpc-status-details-bin");
    Status::from_header_map(&headers)
}

/// Why a call failed, in one line.
pub(crate) fn why(status: &Status) -> String {
    let code = status.code();
    match status.message() {
        "" => format!("{code:?}"),
        message => format!("{code:?}: {}", one_line(message)),
    }
}

fn failed(error: h2::Error) -> Status {
    Status::unavailable(innermost(&error).to_string())
}

fn cannot_connect(error: &(dyn Error + 'static)) -> String {
    format!("cannot connect: {}", innermost(error))
}

/// A connection that refuses these works all the same.
fn keep_alive(stream: &TcpStream) {
    let _ = stream.set_nodelay(true);
    let _ = set_socket_keepalive(stream, true);
    let _ = set_tcp_keepidle(stream, KEEP_ALIVE);
    let _ = set_tcp_keepintvl(stream, KEEP_ALIVE / 3);
    let timeout = u32::try_from(KEEP_ALIVE.as_millis()).unwrap_or(u32::MAX);
    let _ = set_tcp_user_timeout(stream, timeout);
}

#[cfg(test)]
mod tests;
