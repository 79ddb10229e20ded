//! Compiles the contract with protox, so that no `protoc` is needed, and keeps the descriptor set for reflection.

use std::error::Error;
use std::path::PathBuf;

use prost::Message as _;

const FILES: [&str; 3] = [
    "dp1/storage/v1/kv.proto",
    "dp1/storage/v1/queue.proto",
    "dp1/storage/v1/admin.proto",
];

#[expect(
    clippy::disallowed_methods,
    reason = "cargo speaks to build scripts through the environment"
)]
fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=dp1");
    let descriptors = protox::compile(FILES, ["."])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure()
        // Documents are handed on, never copied.
        .bytes(".")
        .compile_fds(descriptors)?;
    Ok(())
}
