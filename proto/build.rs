//! Compiles the `.proto` files with protox, so that no machine needs protoc. The code goes to OUT_DIR.

use std::{env, error::Error, fs, path::Path};

use protox::Compiler;
use tonic_prost_build::configure;

fn main() -> Result<(), Box<dyn Error>> {
    configure()
        // In one order, so that equal devices are equal bytes on every node (rule 10).
        .btree_map("properties")
        .compile_fds(compiler("discovery.proto")?.file_descriptor_set())?;
    let http = compiler("http.proto")?;
    configure().compile_fds(http.file_descriptor_set())?;
    // For reflection: with the comments, which `grpcurl describe` shows.
    let output = env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?;
    let file = Path::new(&output).join("http.bin");
    fs::write(file, http.encode_file_descriptor_set())?;
    Ok(())
}

fn compiler(file: &str) -> Result<Compiler, Box<dyn Error>> {
    println!("cargo::rerun-if-changed={file}");
    let mut compiler = Compiler::new(["."])?;
    compiler.include_imports(true).include_source_info(true);
    compiler.open_file(file)?;
    Ok(compiler)
}
