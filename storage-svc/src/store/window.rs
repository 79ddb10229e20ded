//! What is out through one stream, and whose stream a message is out through.
//!
//! A message takes its place in the window when the commit that leased it is done, and leaves it when it is leased no
//! more, whoever settled it. The writer alone does both, so that a window is never exceeded and never leaks.
//!
//! A lease that runs out makes room, but says that the client may be frozen: it would be given the same messages again
//! and again, each time for a whole lease and one of their attempts. So its stream is in doubt, and given nothing, until
//! the client is heard of, or a time is over.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

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
    /// How often a message has left, or a doubt has ended: since then there may be room that was not there before.
    releases: u64,
    doubt: Option<Doubt>,
}

/// Why a stream is given nothing.
#[derive(Debug)]
struct Doubt {
    since: Instant,
    /// What its client had when it was last heard of, and let run out: it may still name them.
    lost: HashSet<Lease>,
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

    /// As much as there is room for now; none while the stream is in doubt.
    pub(super) fn ask(&self) -> Option<Ask> {
        let out = self.lock();
        out.doubt.is_none().then(|| Ask {
            messages_max: (self.messages_max - out.places.len()).min(DELIVERIES_MAX),
            bytes_max: DELIVERIES_BYTES,
            room: Some(Room {
                bytes: self.bytes_max.saturating_sub(out.bytes),
                is_whole: out.places.is_empty(),
            }),
            lease_ms: self.lease_ms,
        })
    }

    /// Whether a message could fit, and would be given.
    pub(super) fn has_room(&self) -> bool {
        let out = self.lock();
        let fits = out.places.is_empty() || (out.places.len() < self.messages_max && out.bytes < self.bytes_max);
        fits && out.doubt.is_none()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lock().places.is_empty()
    }

    /// Since when the stream is in doubt.
    pub(super) fn in_doubt_since(&self) -> Option<Instant> {
        self.lock().doubt.as_ref().map(|doubt| doubt.since)
    }

    /// Ends a doubt: the client is there, or is to be believed so.
    pub(super) fn trust(&self) {
        let mut out = self.lock();
        if out.doubt.take().is_some() {
            out.releases += 1;
            self.released.notify_one();
        }
    }

    /// How often a message has left so far, or a doubt has ended.
    pub(super) fn releases(&self) -> u64 {
        self.lock().releases
    }

    /// Waits until that happens, or has happened since the last wait. For one waiter.
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
        out.doubt = None;
        rest
    }

    /// A lease ran out. Whether the stream is in doubt now and was not before; it is not if the client was never told.
    fn doubt(&self, lease: Lease) -> bool {
        let mut out = self.lock();
        if !out.is_told(lease) {
            return false;
        }
        let is_new = out.doubt.is_none();
        let doubt = out.doubt.get_or_insert_with(|| Doubt {
            since: Instant::now(),
            lost: HashSet::new(),
        });
        doubt.lost.insert(lease);
        is_new
    }

    /// Whether a client that names this lease is the one that is doubted.
    fn doubts(&self, lease: Lease) -> bool {
        let out = self.lock();
        let doubt = out.doubt.as_ref();
        doubt.is_some_and(|doubt| doubt.lost.contains(&lease) || out.is_told(lease))
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

impl Out {
    fn is_told(&self, lease: Lease) -> bool {
        let place = self.places.get(&lease.message_id);
        place.is_some_and(|place| place.told && place.epoch == lease.epoch)
    }
}

/// The windows that anything is out through.
#[derive(Debug, Default)]
pub(super) struct Holders {
    /// Which window each message is out through: at most a full window of each stream.
    windows: HashMap<u64, Arc<Window>>,
    /// Those in doubt, and some that were.
    doubted: Vec<Arc<Window>>,
}

impl Holders {
    /// Messages were leased through a window.
    pub(super) fn hold(&mut self, window: &Arc<Window>, deliveries: &[Delivery]) {
        for delivery in deliveries {
            self.windows.insert(delivery.lease.message_id, Arc::clone(window));
            window.hold(delivery);
        }
    }

    /// Leases ran out, and others or the same were named by clients since: to be told before those messages are released,
    /// and before anybody is served.
    pub(super) fn doubt(&mut self, ran_out: &[Lease], named: &[Lease]) {
        self.doubted.retain(|window| window.in_doubt_since().is_some());
        for lease in ran_out {
            if let Some(window) = self.windows.get(&lease.message_id)
                && window.doubt(*lease)
            {
                self.doubted.push(Arc::clone(window));
            }
        }
        for window in &self.doubted {
            if named.iter().any(|lease| window.doubts(*lease)) {
                window.trust();
            }
        }
    }

    /// Messages are leased no more.
    pub(super) fn release(&mut self, message_ids: &[u64]) {
        // Most messages are out through no window at all.
        if self.windows.is_empty() {
            return;
        }
        for message_id in message_ids {
            if let Some(window) = self.windows.remove(message_id) {
                window.release(*message_id);
            }
        }
    }
}
