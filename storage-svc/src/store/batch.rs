//! One transaction of the writer: each request in a savepoint of its own, and what they did beside their rows.

use std::time::Instant;

use rusqlite::{Connection, Transaction};

use super::effects::{Effects, Moment};
use crate::error::StoreError;
use crate::model::{Deadline, Lease, Settlement};

pub(super) const SET_STORE: &str = "update store set revision = ?, clock_ms = max(clock_ms, ?), \
     history_changes = history_changes + ?, history_bytes = history_bytes + ? where id = 0";

/// A transaction and what its requests did so far.
pub(super) struct Batch<'connection> {
    /// Or why nothing of the batch can be committed.
    pub(super) transaction: Result<Transaction<'connection>, StoreError>,
    pub(super) now_ms: i64,
    pub(super) revision: u64,
    pub(super) effects: Effects,
    /// Leases that clients named in settlements, whatever became of those: whoever holds them is there.
    pub(super) named: Vec<Lease>,
}

impl Batch<'_> {
    /// Notes whose client asks for something.
    pub(super) fn hear(&mut self, settlements: &[Settlement]) {
        self.named.extend(settlements.iter().map(|settlement| settlement.lease));
    }

    /// Runs one request in a savepoint of its own; its effects count only if that holds.
    pub(super) fn attempt<T>(
        &mut self,
        work: impl FnOnce(&Connection, Moment) -> Result<(T, Effects), StoreError>,
    ) -> Result<T, StoreError> {
        let moment = Moment {
            now_ms: self.now_ms,
            revision: self.revision,
        };
        let transaction = self.transaction.as_mut().map_err(|failure| failure.clone())?;
        let mut savepoint = transaction.savepoint()?;
        let done = work(&savepoint, moment);
        let kept = match &done {
            Ok(_) => savepoint.commit(),
            Err(_) => savepoint.rollback().and_then(|()| savepoint.commit()),
        };
        let failure = match (done, kept) {
            (Ok((value, effects)), Ok(())) => {
                self.revision = effects.revision.unwrap_or(self.revision);
                self.effects.absorb(effects);
                return Ok(value);
            }
            (Err(error), Ok(())) => return Err(error),
            // A full or failing disk may undo the whole transaction: then there is no savepoint to go back to, and
            // nothing of the others is left either.
            (Err(error), Err(_)) => error,
            (Ok(_), Err(error)) => error.into(),
        };
        self.transaction = Err(failure.clone());
        Err(failure)
    }

    /// Commits what holds. The store's row is written once for all.
    pub(super) fn commit(self) -> Result<(u64, Effects), StoreError> {
        let transaction = self.transaction?;
        if self.effects.wrote {
            transaction.prepare_cached(SET_STORE)?.execute((
                self.revision.cast_signed(),
                self.now_ms,
                self.effects.history.changes,
                self.effects.history.bytes,
            ))?;
        }
        transaction.commit()?;
        Ok((self.revision, self.effects))
    }
}

/// Whether a request may still be begun.
pub(super) fn in_time(deadline: Deadline) -> Result<(), StoreError> {
    match deadline {
        Some(deadline) if deadline <= Instant::now() => Err(StoreError::DeadlineExceeded),
        _ => Ok(()),
    }
}
