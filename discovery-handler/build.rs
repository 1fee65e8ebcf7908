//! Makes the server half of `v0.DiscoveryHandler` once more, with a codec of our own for its responses.
//!
//! A `DeviceList` is written to the wire as it is. By way of generated `Device`s the largest list that the Agent accepts
//! (rule 11) would take more memory than Akri's chart grants (rule 17), and an out-of-memory kill withdraws every device (rule 1).

use tonic_build::manual::{Builder, Method, Service};

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let discover = Method::builder()
        .name("discover")
        .route_name("Discover")
        .input_type("akri_http_proto::v0::DiscoverRequest")
        .output_type("std::sync::Arc<crate::devices::DeviceList>")
        .codec_path("crate::discover::DiscoverCodec")
        .server_streaming()
        .build();
    let service = Service::builder()
        .package("v0")
        .name("DiscoveryHandler")
        .method(discover)
        .build();
    Builder::new().build_client(false).compile(&[service]);
}
