//! The DP-1 domain: documents, validation and signing. Pure: time, randomness and keys are passed in, nothing is read
//! or written but values.

pub mod canonical;
mod channel;
pub mod document;
pub mod id;
pub mod json;
pub mod page;
mod playlist;
pub mod sign;
pub mod slug;
pub mod time;
pub mod validate;
