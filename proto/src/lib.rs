//! The wire types and services that this workspace speaks, generated from the `.proto` files beside this crate.

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
