//! Bodies that arrive compressed. The client could unpack them as well, but then nobody could see any more whether a body
//! without a length says by itself where it ends.

use std::{io, pin::Pin};

use akri_device_http::{HttpError, Reply};
use async_compression::{
    tokio::bufread::{GzipDecoder, ZstdDecoder},
    zstd::DParameter,
};
use bytes::{Bytes, BytesMut};
use futures_util::stream::try_unfold;
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    task::yield_now,
};
use tokio_util::io::StreamReader;

/// What is asked for, for `Accept-Encoding`.
pub const ACCEPTED: &str = "zstd, gzip";

/// The most that zstd may look back: 8 MiB, as RFC 9659 says. It decides how much memory unpacking takes.
const WINDOW_LOG: u32 = 23;

/// How much is taken and unpacked at once, in bytes, so that a bomb is noticed before it has grown, and other polls get their
/// turn.
const PIECE: usize = 16 * 1024;

/// A body, unpacked piece by piece.
pub enum Body {
    /// As it is.
    Plain(Box<Reply>),
    /// Being unpacked, and by what.
    Packed(Pin<Box<dyn AsyncRead + Send>>, &'static str, BytesMut),
}

impl Body {
    /// The body of `reply`, which has not been read yet. Compressed, it may have `limit` bytes.
    ///
    /// # Errors
    /// It is compressed in a way that nobody asked for.
    pub fn of(reply: Reply, limit: usize) -> Result<Self, HttpError> {
        match reply.encoding().as_str() {
            "" => Ok(Self::Plain(Box::new(reply))),
            "gzip" | "x-gzip" => {
                let mut decoder = GzipDecoder::new(reader(reply, limit));
                // Up to the end of the reply, so that nothing is left behind, and its connection can be used again.
                decoder.multiple_members(true);
                Ok(Self::Packed(Box::pin(decoder), "gzip", BytesMut::new()))
            }
            "zstd" => {
                let window = [DParameter::window_log_max(WINDOW_LOG)];
                let mut decoder = ZstdDecoder::with_params(reader(reply, limit), &window);
                decoder.multiple_members(true);
                Ok(Self::Packed(Box::pin(decoder), "zstd", BytesMut::new()))
            }
            _ => Err(HttpError::NoReply(
                "its Content-Encoding is neither zstd nor gzip".into(),
            )),
        }
    }

    /// The next bytes, `None` at their proper end.
    ///
    /// # Errors
    /// As [`Reply::chunk`], and what is compressed is damaged, cut or too long.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, HttpError> {
        let (reader, encoding, piece) = match self {
            Self::Plain(reply) => return reply.chunk().await,
            Self::Packed(reader, encoding, piece) => (reader, *encoding, piece),
        };
        piece.reserve(PIECE);
        match (&mut *reader).take(PIECE as u64).read_buf(piece).await {
            Ok(0) => Ok(None),
            Ok(_) => Ok(Some(piece.split().freeze())),
            Err(error) => Err(match error.downcast() {
                Ok(error) => error,
                // The words of the libraries differ, and say no more.
                Err(_) => HttpError::NoReply(format!("the {encoding} body is damaged or cut")),
            }),
        }
    }
}

fn reader(
    reply: Reply,
    limit: usize,
) -> StreamReader<impl futures_util::Stream<Item = io::Result<Bytes>>, Bytes> {
    // What holds nothing is work, too: it is only bounded by its own length.
    let start = (reply.to_unpack(), limit, Bytes::new());
    let pieces = try_unfold(start, move |(mut reply, mut left, mut chunk)| async move {
        if chunk.is_empty() {
            let Some(next) = reply.chunk().await.map_err(io::Error::other)? else {
                return Ok(None);
            };
            left = (left.checked_sub(next.len()))
                .ok_or_else(|| io::Error::other(HttpError::TooLarge(limit)))?;
            chunk = next;
        } else {
            yield_now().await;
        }
        let piece = chunk.split_to(PIECE.min(chunk.len()));
        Ok(Some((piece, (reply, left, chunk))))
    });
    StreamReader::new(pieces)
}
