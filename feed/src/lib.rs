//! The DP-1 domain: documents, validation and signing. Pure: time, randomness and keys are passed in, nothing is read
//! or written but values.

pub mod accept;
pub mod apply;
pub mod canonical;
mod channel;
pub mod commit;
pub mod document;
pub mod id;
pub mod item_index;
pub mod json;
pub mod keys;
pub mod operation;
pub mod page;
mod playlist;
pub mod record;
pub mod sign;
pub mod slug;
pub mod state;
pub mod time;
pub mod validate;
pub mod withdraw;
