//! The wire types and services that this workspace speaks, generated from the `.proto` files beside this crate.

/// Akri's discovery interface, `discovery.proto`.
pub mod v0 {
    #![allow(missing_docs, clippy::all, clippy::pedantic)]
    tonic::include_proto!("v0");
}
