//! Applies queued writes: leases messages, applies the versions that their operations still own, and settles each
//! message in the same commit. Any number of consumers run side by side; storage alone decides who holds what.
//!
//! Knows leases and outcomes. Knows no HTTP, no SQL and no signing key.

mod apply;
mod config;
mod lease;
mod message;
mod metrics;
mod state;
mod sweep;
mod worker;

pub use config::{Args, ConsumerArgs};
pub use state::NotReady;
pub use worker::{Consumer, DRAIN_MAX, Settings};
