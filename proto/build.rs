//! Compiles the `.proto` files with protox, so that no machine needs protoc. The code goes to OUT_DIR.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=discovery.proto");
    let files = protox::compile(["discovery.proto"], ["."])?;
    tonic_prost_build::configure().compile_fds(files)?;
    Ok(())
}
