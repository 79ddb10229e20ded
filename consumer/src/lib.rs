//! Applies queued writes: leases messages, applies the versions that their operations still own, and settles each
//! message in the same commit. Any number of consumers run side by side; storage alone decides who holds what.
//!
//! Knows leases and outcomes. Knows no HTTP, no SQL and no signing key.

mod apply;
mod config;
mod worker;

pub use config::{Args, ConsumerArgs};
pub use worker::{DRAIN_MAX, Settings, drain, run};
