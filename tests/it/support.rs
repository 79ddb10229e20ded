//! What the tests stand on: the real binaries as child processes, clients of them, and checks that share no code with
//! what they check.

mod audit;
mod bodies;
mod client;
mod feed;
mod issuer;
mod link;
mod process;
mod verify;
mod wait;

pub(crate) use audit::rows;
pub(crate) use bodies::{channel, playlist};
pub(crate) use client::{Answer, FeedClient, Mode};
pub(crate) use feed::{Form, Part, TestFeed};
pub(crate) use issuer::{Issuer, Manner, TokenKey, key_set, seconds_from_now};
pub(crate) use link::Link;
pub(crate) use process::{Ended, Launch, Process, run};
pub(crate) use verify::{did_key, verify_document};
pub(crate) use wait::eventually;
