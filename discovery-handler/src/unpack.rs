//! Bodies that arrive compressed. The client could unpack them as well, but then nobody could see any more whether a body
//! without a length says by itself where it ends.

use std::{io, pin::Pin};

use akri_device_http::{HttpError, Reply, header::CONTENT_ENCODING};
use async_compression::{
    tokio::bufread::{GzipDecoder, ZstdDecoder},
    zstd::DParameter,
};
use bytes::{Bytes, BytesMut};
use futures_util::stream::try_unfold;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio_util::io::StreamReader;

/// What is asked for, for `Accept-Encoding`.
pub const ACCEPTED: &str = "zstd, gzip";

/// The most that zstd may look back: 8 MiB, as RFC 9659 says. It decides how much memory unpacking takes.
const WINDOW_LOG: u32 = 23;

/// How much is unpacked at once, in bytes, so that a bomb is noticed before it has grown.
const PIECE: usize = 16 * 1024;

/// A body, unpacked piece by piece.
pub enum Body {
    /// As it is.
    Plain(Box<Reply>),
    /// Being unpacked, and by what.
    Packed(Pin<Box<dyn AsyncRead + Send>>, &'static str, BytesMut),
}

impl Body {
    /// The body of `reply`, which has not been read yet.
    ///
    /// # Errors
    /// It is compressed in a way that nobody asked for.
    pub fn of(reply: Reply) -> Result<Self, HttpError> {
        let encoding = reply
            .header(&CONTENT_ENCODING)
            .map(|value| value.as_bytes().to_ascii_lowercase());
        match encoding.as_deref() {
            None | Some(b"" | b"identity") => Ok(Self::Plain(Box::new(reply))),
            Some(b"gzip" | b"x-gzip") => {
                let mut decoder = GzipDecoder::new(reader(reply));
                // Up to the end of the reply, so that nothing is left behind, and its connection can be used again.
                decoder.multiple_members(true);
                Ok(Self::Packed(Box::pin(decoder), "gzip", BytesMut::new()))
            }
            Some(b"zstd") => {
                let window = [DParameter::window_log_max(WINDOW_LOG)];
                let mut decoder = ZstdDecoder::with_params(reader(reply), &window);
                decoder.multiple_members(true);
                Ok(Self::Packed(Box::pin(decoder), "zstd", BytesMut::new()))
            }
            Some(_) => Err(HttpError::NoReply(
                "its Content-Encoding is neither zstd nor gzip".into(),
            )),
        }
    }

    /// The next bytes, `None` at their proper end.
    ///
    /// # Errors
    /// As [`Reply::chunk`], and what is compressed is damaged or cut.
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
) -> StreamReader<impl futures_util::Stream<Item = io::Result<Bytes>>, Bytes> {
    let chunks = try_unfold(reply, |mut reply| async move {
        let chunk = reply.chunk().await.map_err(io::Error::other)?;
        Ok(chunk.map(|chunk| (chunk, reply)))
    });
    StreamReader::new(chunks)
}
