//! Receipts and page tokens: opaque to clients, bound to this store.
//!
//! Knows nothing of SQLite; it is given the store's id and secret.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use sha2::{Digest as _, Sha256};

use crate::model::{Fingerprint, Key, Lease, MessageList, QueueName, Scan, Selection, With};

/// Form of the receipts and tokens that this build writes and reads.
const FORM: u8 = 1;
/// Kept of a digest: enough that a guess is hopeless.
const MAC_BYTES: usize = 16;
const RECEIPT_BYTES: usize = 1 + 8 + 8 + MAC_BYTES;
const TOKEN_HEAD_BYTES: usize = 1 + 16 + MAC_BYTES;

/// Writes and reads receipts and page tokens of one store.
#[derive(Clone)]
pub struct Seals {
    store_id: [u8; 16],
    secret: [u8; 32],
}

impl std::fmt::Debug for Seals {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Seals").finish_non_exhaustive()
    }
}

impl Seals {
    pub(crate) fn new(store_id: [u8; 16], secret: [u8; 32]) -> Self {
        Self { store_id, secret }
    }

    /// The receipt of a lease.
    #[must_use]
    pub fn receipt(&self, lease: Lease) -> Bytes {
        let mut receipt = Vec::with_capacity(RECEIPT_BYTES);
        receipt.push(FORM);
        receipt.extend(lease.message_id.to_be_bytes());
        receipt.extend(lease.epoch.to_be_bytes());
        receipt.extend(self.mac(lease));
        receipt.into()
    }

    /// The lease that a receipt names; none if this store did not write it.
    #[must_use]
    pub fn lease(&self, receipt: &[u8]) -> Option<Lease> {
        let (form, rest) = receipt.split_first()?;
        let (message_id, rest) = rest.split_first_chunk::<8>()?;
        let (epoch, mac) = rest.split_first_chunk::<8>()?;
        let lease = Lease {
            message_id: u64::from_be_bytes(*message_id),
            epoch: u64::from_be_bytes(*epoch),
        };
        (*form == FORM && mac == self.mac(lease)).then_some(lease)
    }

    /// Fixed-length input and a cut digest: a keyed hash is enough here.
    fn mac(&self, lease: Lease) -> [u8; MAC_BYTES] {
        let digest: [u8; 32] = Sha256::new()
            .chain_update(self.secret)
            .chain_update(lease.message_id.to_be_bytes())
            .chain_update(lease.epoch.to_be_bytes())
            .finalize()
            .into();
        cut(digest)
    }

    /// The token that continues `scan` after `last`.
    #[must_use]
    pub fn page_token(&self, scan: &Scan, as_bytes: bool, last: &Key) -> String {
        self.token(query_digest(scan, as_bytes), last.as_str().as_bytes())
    }

    /// The key after which `token` continues `scan`; none if it is of another store or another query.
    #[must_use]
    pub fn page_start(&self, scan: &Scan, as_bytes: bool, token: &str) -> Option<Key> {
        let last = self.last(query_digest(scan, as_bytes), token)?;
        Key::parse(String::from_utf8(last).ok()?).ok()
    }

    /// The token that continues a list of queues after `last`.
    #[must_use]
    pub fn queue_token(&self, last: &QueueName) -> String {
        self.token(queues_digest(), last.as_str().as_bytes())
    }

    /// The queue after which `token` continues a list of queues; none if it is of another store or another query.
    #[must_use]
    pub fn queue_start(&self, token: &str) -> Option<QueueName> {
        let last = self.last(queues_digest(), token)?;
        QueueName::parse(String::from_utf8(last).ok()?).ok()
    }

    /// The token that continues a list of messages after `last`.
    #[must_use]
    pub fn message_token(&self, query: &MessageList, last: u64) -> String {
        self.token(messages_digest(query), &last.to_be_bytes())
    }

    /// The message after which `token` continues a list of messages; none if it is of another store or another query.
    #[must_use]
    pub fn message_start(&self, query: &MessageList, token: &str) -> Option<u64> {
        let last = self.last(messages_digest(query), token)?;
        Some(u64::from_be_bytes(last.try_into().ok()?))
    }

    fn token(&self, query: [u8; MAC_BYTES], last: &[u8]) -> String {
        let mut token = Vec::with_capacity(TOKEN_HEAD_BYTES + last.len());
        token.push(FORM);
        token.extend(self.store_id);
        token.extend(query);
        token.extend(last);
        URL_SAFE_NO_PAD.encode(token)
    }

    /// What the page before ended with, if the token is of this store and this query.
    fn last(&self, query: [u8; MAC_BYTES], token: &str) -> Option<Vec<u8>> {
        let token = URL_SAFE_NO_PAD.decode(token).ok()?;
        let (head, last) = token.split_at_checked(TOKEN_HEAD_BYTES)?;
        let (form, head) = head.split_first()?;
        let (store_id, rest) = head.split_first_chunk::<16>()?;
        (*form == FORM && *store_id == self.store_id && rest == query).then(|| last.to_vec())
    }
}

fn queues_digest() -> [u8; MAC_BYTES] {
    let mut digest = Fingerprint::default();
    digest.text("queues");
    cut(digest.finish())
}

/// Of every field but the page's size and start.
fn messages_digest(query: &MessageList) -> [u8; MAC_BYTES] {
    let mut digest = Fingerprint::default();
    digest.text("messages").text(query.queue.as_str());
    digest.number(query.state.map_or(0, |state| state as u64));
    digest.number(u64::from(query.with == With::NoContent));
    cut(digest.finish())
}

/// Of every field but the page's size and start.
fn query_digest(scan: &Scan, as_bytes: bool) -> [u8; MAC_BYTES] {
    let mut digest = Fingerprint::default();
    digest.text(scan.namespace.as_str());
    match &scan.selection {
        Selection::Prefix(prefix) => digest.number(0).text(prefix),
        Selection::Range { start, end } => digest.number(1).text(start).text(end),
    };
    digest.number(u64::from(scan.reverse));
    digest.number(u64::from(scan.with == With::NoContent));
    digest.number(u64::from(as_bytes));
    if let Some(dereference) = &scan.dereference {
        digest.text(dereference.target.as_str());
        digest.number(u64::from(dereference.skip_dangling));
    }
    cut(digest.finish())
}

fn cut(digest: [u8; 32]) -> [u8; MAC_BYTES] {
    let [head @ .., _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _] = digest;
    head
}
