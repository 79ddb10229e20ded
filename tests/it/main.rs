//! Tests of the whole: the real binaries as processes, used over HTTP and gRPC as anybody would.

mod accepted;
mod channels;
mod commands;
mod conditional;
mod consumers;
mod contention;
mod corpus;
mod history;
mod idempotency;
mod items;
mod latency;
mod lists;
mod lost_answers;
mod operations;
mod playlists;
mod protocol;
mod queue_commands;
mod recovery;
mod refusals;
mod secured;
mod slugs;
mod startup;
mod support;
mod sweeps;
mod waits;
mod withdrawals;
