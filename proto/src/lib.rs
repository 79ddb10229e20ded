//! The storage contract `dp1.storage.v1`: the only wire between the services.
//!
//! Owns the generated types, the limits that both ends enforce, and the typed client. Knows nothing of SQLite, HTTP or
//! playlists: keys, values and messages are opaque here.

pub mod client;
pub mod limits;
pub mod trace;

/// Generated from `dp1/storage/v1/*.proto`; the comments there are the manual.
#[allow(missing_docs, clippy::pedantic, reason = "generated code")]
pub mod v1 {
    tonic::include_proto!("dp1.storage.v1");
}

/// The encoded `FileDescriptorSet` of the contract, for server reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
