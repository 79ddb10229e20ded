//! The DP-1 REST API: HTTP in, storage calls out. Owns who may write, identity, the signing key, and how requests and
//! errors look on the wire. Knows no SQL and no leases; what a document is and what a write means is `feed`'s, how both
//! are kept is `feed-store`'s.

mod answer;
mod auth;
mod body;
mod compute;
mod config;
mod deletions;
mod encoding;
mod envelope;
mod error;
mod etag;
mod idempotency;
mod list;
mod locks;
mod origins;
mod outgoing;
mod prefer;
mod routes;
mod server;
mod slugs;
mod stream;
mod unread;
mod waits;
mod write;

use std::sync::Arc;

use axum::Router;
use axum::middleware::{from_fn, from_fn_with_state};
use feed_store::FeedStore;
use runtime::clock::Clock;

pub use config::{Args, GatewayArgs, JwtArgs, Settings};
pub use server::serve;

use deletions::DeletionLine;
use locks::DocumentLocks;
use outgoing::Outgoing;
use slugs::SlugDesk;
use waits::Waits;

/// What requests are answered from; clones share it.
#[derive(Clone, Debug)]
pub struct Gateway {
    settings: Arc<Settings>,
    store: Arc<FeedStore>,
    clock: Clock,
    locks: DocumentLocks,
    deletions: DeletionLine,
    slugs: SlugDesk,
    outgoing: Outgoing,
    waits: Waits,
}

impl Gateway {
    /// A gateway over the documents in `store`.
    #[must_use]
    pub fn new(settings: Settings, store: FeedStore, clock: Clock) -> Self {
        Self {
            settings: Arc::new(settings),
            store: Arc::new(store),
            clock,
            locks: DocumentLocks::default(),
            deletions: DeletionLine::default(),
            slugs: SlugDesk::default(),
            outgoing: Outgoing::default(),
            waits: Waits::default(),
        }
    }
}

/// The API as a service.
pub fn router(gateway: Gateway) -> Router {
    routes::router(gateway.clone())
        .layer(from_fn(encoding::measure))
        .layer(encoding::choose())
        .layer(from_fn(encoding::label))
        .layer(from_fn(etag::judge_read))
        .layer(from_fn_with_state(gateway.clone(), envelope::guard))
        .layer(from_fn_with_state(gateway.outgoing, outgoing::send))
        .layer(from_fn(envelope::wrap))
        .layer(from_fn(unread::discard))
}
