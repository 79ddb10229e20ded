//! The storage service: keys and queues over gRPC on one SQLite file.
//!
//! `store` owns the file and knows nothing of the wire; `rpc` speaks the contract and knows nothing of SQLite; `model`
//! is what the two say to each other. Nobody here knows what the values mean.

mod config;
mod error;
mod listen;
mod metrics;
pub mod model;
mod receipt;
mod rpc;
mod serve;
mod store;

pub use config::{Args, StoreArgs, StreamLimits, Sync};
pub use error::{OpenError, StoreError};
pub use listen::{ListenArgs, Listener, bind};
pub use receipt::Seals;
pub use serve::{routes, serve};
pub use store::{Flow, Store};
