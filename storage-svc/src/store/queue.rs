//! Queues, within the caller's savepoint: enqueue, claim, settle, what the passing of time does to messages, and what an
//! operator does to them.
//!
//! A message is delayed, ready, leased, dead or blocked. Only what is ready is claimed, the lowest id first; what waits
//! for its time is moved by `sweep`, and what waits behind its ordering key by whatever the message before it does, so
//! that a claim never walks over messages that it cannot have.

mod claim;
mod dead;
mod dedup;
mod enqueue;
mod failure;
mod figures;
mod lately;
mod list;
mod message;
mod order;
mod purge;
mod settings;
mod settle;
mod sweep;

pub(super) use self::claim::claim;
pub(super) use self::dead::redrive;
pub(super) use self::dedup::collect as collect_dedup_ids;
pub(super) use self::enqueue::enqueue;
pub(super) use self::figures::{list as list_queues, stats};
pub(super) use self::lately::Lately;
pub(super) use self::list::{get as get_message, list as list_messages};
pub(super) use self::purge::{delete_queue, purge};
pub(super) use self::settings::{create, resolve, update};
pub(super) use self::settle::{give_back, judge, settle, settle_each};
pub(super) use self::sweep::{next_due_ms, sweep};

#[cfg(test)]
pub(super) const STATEMENTS: [&[&str]; 13] = [
    &claim::STATEMENTS,
    &dead::STATEMENTS,
    &dedup::STATEMENTS,
    &failure::STATEMENTS,
    &figures::STATEMENTS,
    &lately::STATEMENTS,
    &list::STATEMENTS,
    &message::STATEMENTS,
    &order::STATEMENTS,
    &purge::STATEMENTS,
    &settings::STATEMENTS,
    &settle::STATEMENTS,
    &sweep::STATEMENTS,
];

#[cfg(test)]
mod tests;
