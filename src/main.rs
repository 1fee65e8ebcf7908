//! `cargo run`: the whole flow on one machine, without a cluster.
fn main() {}
