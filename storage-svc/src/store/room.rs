//! Room in memory, in bytes, for what would add up without it: commits that wait for the writer, and what clients have not
//! taken yet. Nobody who holds some waits for more of it.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::error::StoreError;

/// What room is counted in.
const UNIT_BYTES: usize = 1_024;

/// Some room; clones are the same.
#[derive(Clone, Debug)]
pub(crate) struct Room {
    free: Arc<Semaphore>,
    units: usize,
}

/// A part of a room that is taken, until this is dropped.
#[derive(Debug)]
pub(crate) struct Reserved(OwnedSemaphorePermit);

impl Room {
    pub(super) fn new(bytes: usize) -> Self {
        let units = bytes.div_ceil(UNIT_BYTES);
        Self {
            free: Arc::new(Semaphore::new(units)),
            units,
        }
    }

    /// Takes room, or refuses if there is not so much.
    pub(crate) fn try_take(&self, bytes: usize) -> Result<Reserved, StoreError> {
        let units = Arc::clone(&self.free).try_acquire_many_owned(units(bytes));
        units.map(Reserved).map_err(|_| StoreError::Overloaded)
    }

    /// Waits, behind those who wait already, until there is so much; all of it is as much as there can be.
    pub(super) async fn take(&self, bytes: usize) -> Result<Reserved, StoreError> {
        let bytes = bytes.min(self.units * UNIT_BYTES);
        let units = Arc::clone(&self.free).acquire_many_owned(units(bytes)).await;
        units.map(Reserved).map_err(|_| StoreError::Closing)
    }

    /// How much there is.
    pub(super) fn bytes(&self) -> usize {
        self.units * UNIT_BYTES
    }

    /// How much is left.
    pub(super) fn left_bytes(&self) -> usize {
        self.free.available_permits() * UNIT_BYTES
    }
}

impl Reserved {
    /// Gives back what is more than `bytes`.
    pub(super) fn shrink(&mut self, bytes: usize) {
        let surplus = self.0.num_permits().saturating_sub(units(bytes) as usize);
        drop(self.0.split(surplus));
    }
}

fn units(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(UNIT_BYTES)).unwrap_or(u32::MAX)
}
