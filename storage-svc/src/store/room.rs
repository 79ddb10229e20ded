//! Room in memory, in bytes, for what would add up without it: commits that wait for the writer, and what clients have not
//! taken yet. Nobody who holds some waits for more of it.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::error::StoreError;

/// What room is counted in.
const UNIT_BYTES: usize = 1_024;

/// Some room; clones are the same.
#[derive(Clone, Debug)]
pub(crate) struct Room(Arc<Semaphore>);

/// A part of a room that is taken, until the last clone of this is dropped.
#[derive(Clone, Debug)]
pub(crate) struct Reserved {
    _units: Arc<OwnedSemaphorePermit>,
}

impl Room {
    pub(super) fn new(bytes: usize) -> Self {
        Self(Arc::new(Semaphore::new(bytes.div_ceil(UNIT_BYTES))))
    }

    /// Takes room, or refuses if there is not so much.
    pub(crate) fn try_take(&self, bytes: usize) -> Result<Reserved, StoreError> {
        let units = Arc::clone(&self.0).try_acquire_many_owned(units(bytes));
        units.map(Reserved::new).map_err(|_| StoreError::Overloaded)
    }

    /// Waits, behind those who wait already, until there is so much.
    pub(super) async fn take(&self, bytes: usize) -> Result<Reserved, StoreError> {
        let units = Arc::clone(&self.0).acquire_many_owned(units(bytes)).await;
        units.map(Reserved::new).map_err(|_| StoreError::Closing)
    }

    /// How much is left.
    pub(super) fn left_bytes(&self) -> usize {
        self.0.available_permits() * UNIT_BYTES
    }
}

impl Reserved {
    fn new(units: OwnedSemaphorePermit) -> Self {
        Self {
            _units: Arc::new(units),
        }
    }
}

fn units(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(UNIT_BYTES)).unwrap_or(u32::MAX)
}
