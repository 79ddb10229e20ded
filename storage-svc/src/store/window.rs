//! What is out through one stream, and whose stream a message is out through.
//!
//! A message takes its place in the window when the commit that leased it is done, and leaves it when it is leased no
//! more, whoever settled it. The writer alone does both, so that a window is never exceeded and never leaks.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::waiting::{Ask, Room};
use crate::model::{Consume, Delivery, Lease};

/// Most messages of one answer to a stream.
const DELIVERIES_MAX: usize = 100;
/// An answer to a stream ends after the message that reaches this many bytes of bodies.
const DELIVERIES_BYTES: usize = 256 * 1024;

/// The messages that are out through one stream.
#[derive(Debug)]
pub(super) struct Window {
    /// Of the queue as it was opened: if that is deleted, another of its name is another.
    queue_id: i64,
    messages_max: usize,
    bytes_max: usize,
    lease_ms: Option<i64>,
    out: Mutex<Out>,
    released: Notify,
}

#[derive(Debug, Default)]
struct Out {
    places: HashMap<u64, Place>,
    bytes: usize,
    /// How often a message has left.
    releases: u64,
}

/// One message that is out.
#[derive(Debug)]
struct Place {
    epoch: u64,
    bytes: usize,
    /// Whether it was handed to the stream's client, as far as that can be known.
    told: bool,
}

/// What was out through a stream that ended.
#[derive(Debug, Default)]
pub(super) struct Rest {
    pub(super) told: Vec<Lease>,
    pub(super) untold: Vec<Lease>,
}

impl Window {
    pub(super) fn new(queue_id: i64, consume: &Consume) -> Self {
        Self {
            queue_id,
            messages_max: consume.messages_max,
            bytes_max: consume.bytes_max,
            lease_ms: consume.lease_ms,
            out: Mutex::default(),
            released: Notify::new(),
        }
    }

    pub(super) fn queue_id(&self) -> i64 {
        self.queue_id
    }

    /// As much as there is room for now.
    pub(super) fn ask(&self) -> Ask {
        let out = self.lock();
        Ask {
            messages_max: (self.messages_max - out.places.len()).min(DELIVERIES_MAX),
            bytes_max: DELIVERIES_BYTES,
            room: Some(Room {
                bytes: self.bytes_max.saturating_sub(out.bytes),
                is_whole: out.places.is_empty(),
            }),
            lease_ms: self.lease_ms,
        }
    }

    /// Whether a message could fit.
    pub(super) fn has_room(&self) -> bool {
        let out = self.lock();
        out.places.is_empty() || (out.places.len() < self.messages_max && out.bytes < self.bytes_max)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lock().places.is_empty()
    }

    /// How often a message has left so far.
    pub(super) fn releases(&self) -> u64 {
        self.lock().releases
    }

    /// Waits until a message leaves, or has left since the last wait. For one waiter.
    pub(super) async fn released(&self) {
        self.released.notified().await;
    }

    /// Notes that a message is about to be handed to the client; false if it is not out any more.
    pub(super) fn tell(&self, lease: Lease) -> bool {
        let mut out = self.lock();
        let place = out.places.get_mut(&lease.message_id);
        place.filter(|place| place.epoch == lease.epoch).is_some_and(|place| {
            place.told = true;
            true
        })
    }

    /// What is out still. Nothing can be told from then on.
    pub(super) fn end(&self) -> Rest {
        let mut out = self.lock();
        let mut rest = Rest::default();
        for (message_id, Place { epoch, told, .. }) in out.places.drain() {
            let leases = if told { &mut rest.told } else { &mut rest.untold };
            leases.push(Lease { message_id, epoch });
        }
        out.bytes = 0;
        rest
    }

    fn hold(&self, delivery: &Delivery) {
        let bytes = delivery.body.as_bytes().len();
        let mut out = self.lock();
        let place = Place {
            epoch: delivery.lease.epoch,
            bytes,
            told: false,
        };
        out.places.insert(delivery.lease.message_id, place);
        out.bytes += bytes;
    }

    fn release(&self, message_id: u64) {
        let mut out = self.lock();
        if let Some(place) = out.places.remove(&message_id) {
            out.bytes -= place.bytes;
            out.releases += 1;
            self.released.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Out> {
        self.out.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Which window each message is out through: at most a full window of each stream.
#[derive(Debug, Default)]
pub(super) struct Holders(HashMap<u64, Arc<Window>>);

impl Holders {
    /// Messages were leased through a window.
    pub(super) fn hold(&mut self, window: &Arc<Window>, deliveries: &[Delivery]) {
        for delivery in deliveries {
            self.0.insert(delivery.lease.message_id, Arc::clone(window));
            window.hold(delivery);
        }
    }

    /// Messages are leased no more.
    pub(super) fn release(&mut self, message_ids: &[u64]) {
        // Most messages are out through no window at all.
        if self.0.is_empty() {
            return;
        }
        for message_id in message_ids {
            if let Some(window) = self.0.remove(message_id) {
                window.release(*message_id);
            }
        }
    }
}
