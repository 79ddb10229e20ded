//! How much may be going on at once: calls of each kind, and requests that are still arriving.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::methods::Lane;
use crate::error::StoreError;

/// Most calls at once that are a question and its answer, waiting ones included; one more is refused.
pub(crate) const CALLS_MAX: usize = 1_024;
/// Most streams at once; one more is refused.
pub(crate) const STREAMS_MAX: usize = 1_024;
/// Most health checks at once, and most watches of the health; one more is refused.
const HEALTH_CALLS_MAX: usize = 64;
const HEALTH_STREAMS_MAX: usize = 256;
/// Most that requests may hold together while they arrive, in bytes, beside the first [`FREE_BYTES`] of each; what
/// would hold more is refused.
pub(crate) const ARRIVING_BYTES_MAX: usize = 256 * 1024 * 1024;
/// Every request may hold this much, in bytes, so that small ones get through whatever large ones are arriving. The
/// number of calls bounds what that can be together.
pub(super) const FREE_BYTES: usize = 64 * 1024;
/// What room for arriving requests is counted in.
const UNIT_BYTES: usize = 1_024;

/// The room that there is; clones count the same.
#[derive(Clone, Debug)]
pub(super) struct Places {
    calls: Room,
    streams: Room,
    health_calls: Room,
    health_streams: Room,
    arriving: Arc<Semaphore>,
}

/// Places of one kind.
#[derive(Clone, Debug)]
struct Room {
    places: Arc<Semaphore>,
    all: u32,
}

impl Room {
    fn new(places: usize) -> Self {
        Self {
            places: Arc::new(Semaphore::new(places)),
            all: u32::try_from(places).expect("the limits are small"),
        }
    }

    /// Waits until nobody is there, letting in no others meanwhile.
    async fn emptied(&self) {
        // Nobody closes the semaphore.
        let _ = self.places.acquire_many(self.all).await;
    }
}

impl Places {
    pub(super) fn new() -> Self {
        Self::of(CALLS_MAX, STREAMS_MAX, ARRIVING_BYTES_MAX)
    }

    pub(super) fn of(calls: usize, streams: usize, arriving_bytes: usize) -> Self {
        Self {
            calls: Room::new(calls),
            streams: Room::new(streams),
            health_calls: Room::new(HEALTH_CALLS_MAX),
            health_streams: Room::new(HEALTH_STREAMS_MAX),
            arriving: Arc::new(Semaphore::new(arriving_bytes / UNIT_BYTES)),
        }
    }

    /// A place for a call, given up when it is dropped.
    pub(super) fn take(&self, lane: Lane) -> Result<OwnedSemaphorePermit, StoreError> {
        let room = match lane {
            Lane::Calls => &self.calls,
            Lane::Streams => &self.streams,
            Lane::HealthCalls => &self.health_calls,
            Lane::HealthStreams => &self.health_streams,
        };
        let place = Arc::clone(&room.places).try_acquire_owned();
        place.map_err(|_| StoreError::Overloaded)
    }

    /// Sees to it that `held` is room for `bytes` of an arriving request beside those that are free.
    pub(super) fn hold(&self, bytes: usize, held: &mut Option<OwnedSemaphorePermit>) -> Result<(), StoreError> {
        let needed = bytes.saturating_sub(FREE_BYTES).div_ceil(UNIT_BYTES);
        let more = needed.saturating_sub(held.as_ref().map_or(0, OwnedSemaphorePermit::num_permits));
        if more == 0 {
            return Ok(());
        }
        let more = u32::try_from(more).map_err(|_| StoreError::Overloaded)?;
        let room = Arc::clone(&self.arriving).try_acquire_many_owned(more);
        let room = room.map_err(|_| StoreError::Overloaded)?;
        match held {
            Some(held) => held.merge(room),
            None => *held = Some(room),
        }
        Ok(())
    }

    /// Waits until all calls and streams have ended, letting in no others meanwhile. Health is watched to the last.
    pub(super) async fn emptied(&self) {
        self.calls.emptied().await;
        self.streams.emptied().await;
    }
}
