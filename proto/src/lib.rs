//! The wire types and services that this workspace speaks, generated from the `.proto` files beside this crate.

use std::marker::PhantomData;

use prost::Message;
use tonic::codec::{BufferSettings, Codec};
use tonic_prost::ProstCodec;

/// Akri's discovery interface, `discovery.proto`.
pub mod v0 {
    #![allow(missing_docs, clippy::all, clippy::pedantic)]
    tonic::include_proto!("v0");
}

/// The brokers' interface, `http.proto`.
pub mod http {
    #![allow(missing_docs, clippy::all, clippy::pedantic)]
    tonic::include_proto!("http");

    /// `http.proto` and what it imports as an encoded `FileDescriptorSet`, for gRPC reflection.
    pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/http.bin"));
}

/// The codec of [`http`]: tonic's own, with buffers for readings of a few bytes. They grow; tonic's would be 8 KiB from
/// the start, two for each call.
#[derive(Clone, Copy, Debug)]
pub struct SmallMessageCodec<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for SmallMessageCodec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

/// In bytes: what a buffer begins with, and at how much the encoder hands on what it has, which is tonic's default.
fn small() -> BufferSettings {
    BufferSettings::new(512, 32 * 1024)
}

impl<T, U> Codec for SmallMessageCodec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = <ProstCodec<T, U> as Codec>::Encoder;
    type Decoder = <ProstCodec<T, U> as Codec>::Decoder;

    fn encoder(&mut self) -> Self::Encoder {
        ProstCodec::<T, U>::raw_encoder(small())
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstCodec::<T, U>::raw_decoder(small())
    }
}
