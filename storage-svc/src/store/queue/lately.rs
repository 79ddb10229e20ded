//! What a request did to queues so far: their figures are written once, at its end.

use std::collections::BTreeMap;

use rusqlite::Connection;

use crate::error::StoreError;
use crate::model::{Lease, MessageState};
use crate::store::effects::{Effects, Forgotten};

const COUNT: &str = "update queue set delayed = delayed + ?, ready = ready + ?, leased = leased + ?, dead = dead + ?, \
     blocked = blocked + ? where id = ?";

#[cfg(test)]
pub(super) const STATEMENTS: [&str; 1] = [COUNT];

/// What a request did to queues so far.
#[derive(Debug, Default)]
pub(in crate::store) struct Lately {
    /// By queue, then by state in the order of their numbers.
    counts: BTreeMap<i64, [i64; 5]>,
    effects: Effects,
}

impl Lately {
    /// A message is added.
    pub(super) fn enters(&mut self, queue_id: i64, state: MessageState) {
        self.count(queue_id, state, 1);
        if state == MessageState::Ready {
            self.effects.ready.insert(queue_id);
        }
    }

    /// A message is deleted.
    pub(super) fn leaves(&mut self, queue_id: i64, message_id: i64, state: MessageState) {
        self.count(queue_id, state, -1);
        if state == MessageState::Leased {
            self.effects.released.push(message_id.cast_unsigned());
        }
    }

    /// A message goes from one state to another.
    pub(super) fn moves(&mut self, queue_id: i64, message_id: i64, from: MessageState, to: MessageState) {
        self.leaves(queue_id, message_id, from);
        self.enters(queue_id, to);
    }

    /// Nobody settled a message in time.
    pub(super) fn runs_out(&mut self, lease: Lease) {
        self.effects.ran_out.push(lease);
    }

    /// The file is changed in a way that no figure shows.
    pub(super) fn writes(&mut self) {
        self.effects.wrote = true;
    }

    /// A time is changed that something is to happen at.
    pub(super) fn retimes(&mut self) {
        self.effects.wrote = true;
        self.effects.timed = true;
    }

    /// Whoever waits at the queue must look again.
    pub(super) fn wakes(&mut self, queue_id: i64) {
        self.effects.wrote = true;
        self.effects.ready.insert(queue_id);
    }

    /// A dead message was kept long enough.
    pub(super) fn forgets(&mut self, queue: String, message_id: i64) {
        self.effects.forgotten.push(Forgotten {
            queue,
            message_id: message_id.cast_unsigned(),
        });
    }

    /// How many messages more than its row says the queue holds.
    pub(super) fn growth(&self, queue_id: i64) -> i64 {
        self.counts.get(&queue_id).map_or(0, |counts| counts.iter().sum())
    }

    fn count(&mut self, queue_id: i64, state: MessageState, change: i64) {
        self.counts.entry(queue_id).or_default()[state as usize - 1] += change;
        self.effects.wrote = true;
        // Everything but being ready or blocked ends at a time.
        self.effects.timed |= !matches!(state, MessageState::Ready | MessageState::Blocked);
    }

    /// Writes the figures.
    pub(in crate::store) fn finish(self, connection: &Connection) -> Result<Effects, StoreError> {
        for (queue_id, [delayed, ready, leased, dead, blocked]) in self.counts {
            if [delayed, ready, leased, dead, blocked] != [0; 5] {
                connection
                    .prepare_cached(COUNT)?
                    .execute((delayed, ready, leased, dead, blocked, queue_id))?;
            }
        }
        Ok(self.effects)
    }
}
