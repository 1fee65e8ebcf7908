//! HTTP/2 by hand, for what no well-behaved client would send.

#![allow(dead_code, reason = "each test file uses a part")]

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, ToSocketAddrs},
    time::timeout,
};

use super::PATIENCE;

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RESET: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
pub const GO_AWAY: u8 = 7;

pub const REFUSED_STREAM: u32 = 7;
pub const ENHANCE_YOUR_CALM: u32 = 11;

pub const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;

pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

impl Frame {
    pub fn bytes(&self) -> Vec<u8> {
        let length = (self.payload.len() as u32).to_be_bytes();
        let mut bytes = length[1..].to_vec();
        bytes.extend([self.kind, self.flags]);
        bytes.extend(self.stream.to_be_bytes());
        bytes.extend(&self.payload);
        bytes
    }

    /// The error code of RST_STREAM and, behind the last stream, of GOAWAY.
    pub fn error_code(&self) -> u32 {
        let at = if self.kind == GO_AWAY { 4 } else { 0 };
        u32::from_be_bytes(self.payload[at..at + 4].try_into().unwrap())
    }
}

/// The headers of a call to `path` on `stream`, each as a literal (RFC 7541, 6.2.2).
pub fn call(stream: u32, path: &str) -> Frame {
    call_with(stream, path, None)
}

/// The same, with one more header.
pub fn call_with(stream: u32, path: &str, more: Option<(&str, &str)>) -> Frame {
    let mut payload = Vec::new();
    let headers = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "broker"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ];
    for (name, value) in headers.into_iter().chain(more) {
        payload.push(0);
        for text in [name, value] {
            payload.push(u8::try_from(text.len()).unwrap());
            payload.extend(text.bytes());
        }
    }
    let (kind, flags) = (HEADERS, END_HEADERS);
    Frame {
        kind,
        flags,
        stream,
        payload,
    }
}

/// An empty message, which ends the request.
pub fn empty_message(stream: u32) -> Frame {
    Frame {
        kind: DATA,
        flags: END_STREAM,
        stream,
        payload: vec![0; 5],
    }
}

/// A message that names a device, field 2 of the requests, and ends the request.
pub fn message_for(stream: u32, device: &str) -> Frame {
    let length = u8::try_from(device.len()).unwrap();
    let mut payload = vec![0, 0, 0, 0, length + 2, 0x12, length];
    payload.extend(device.bytes());
    Frame {
        kind: DATA,
        flags: END_STREAM,
        stream,
        payload,
    }
}

/// The caller gives the call up.
pub fn reset(stream: u32) -> Frame {
    Frame {
        kind: RESET,
        flags: 0,
        stream,
        payload: 8_u32.to_be_bytes().to_vec(),
    }
}

/// What the broker sends.
pub struct Reads<R>(pub R);

impl<R: AsyncRead + Unpin> Reads<R> {
    /// The next frame; `None` when the broker has closed the connection.
    pub async fn frame(&mut self) -> Option<Frame> {
        let next = timeout(PATIENCE, async {
            let mut head = [0; 9];
            self.0.read_exact(&mut head).await.ok()?;
            let [a, b, c, kind, flags, stream @ ..] = head;
            let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
            self.0.read_exact(&mut payload).await.ok()?;
            let stream = u32::from_be_bytes(stream);
            Some(Frame {
                kind,
                flags,
                stream,
                payload,
            })
        });
        next.await.expect("no frame comes")
    }
}

/// A connection.
pub struct Raw(pub TcpStream);

impl Raw {
    /// Says the beginning of HTTP/2, with windows of this size for the answers.
    pub async fn connect(address: impl ToSocketAddrs, window: u32) -> Self {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
        stream.write_all(preface).await.unwrap();
        let mut raw = Self(stream);
        let settings = Frame {
            kind: SETTINGS,
            flags: 0,
            stream: 0,
            payload: [&[0, 4][..], &window.to_be_bytes()].concat(),
        };
        raw.send(&[settings]).await.unwrap();
        raw
    }

    pub async fn send(&mut self, frames: &[Frame]) -> std::io::Result<()> {
        let bytes: Vec<u8> = frames.iter().flat_map(Frame::bytes).collect();
        self.0.write_all(&bytes).await
    }

    /// Begins a call without sending its message.
    pub async fn begin(&mut self, stream: u32, path: &str) {
        self.send(&[call(stream, path)]).await.unwrap();
    }

    /// Calls with an empty message.
    pub async fn call(&mut self, stream: u32, path: &str) {
        let frames = [call(stream, path), empty_message(stream)];
        self.send(&frames).await.unwrap();
    }

    /// The next frame; `None` when the broker has closed the connection.
    pub async fn frame(&mut self) -> Option<Frame> {
        Reads(&mut self.0).frame().await
    }

    /// Waits until the broker has seen all that was sent before.
    pub async fn answered_ping(&mut self) {
        let ping = Frame {
            kind: PING,
            flags: 0,
            stream: 0,
            payload: vec![0; 8],
        };
        self.send(&[ping]).await.unwrap();
        loop {
            let frame = self.frame().await.expect("the connection was closed");
            if frame.kind == PING && frame.flags == ACK {
                return;
            }
        }
    }
}
