//! Reads of several keys. One answer of the storage service is one snapshot, and holds so many keys and bytes; what is
//! more comes from later ones. So keys that must be of one moment are asked for as one group.

use feed::keys::Key;
use proto::client::Content as Values;
use proto::limits::BATCH_GET_KEYS_MAX;
use proto::v1;

use crate::load::malformed;
use crate::{FeedStore, FeedStoreError};

/// What the keys of one group held, in their order.
pub(crate) type Group = Vec<Option<v1::Entry>>;

impl FeedStore {
    /// Any number of keys, in order, none read before one that stands ahead of it. Each may be of a moment of its own.
    pub(crate) async fn entries(
        &self,
        wanted: &[Key],
        values: Values,
    ) -> Result<Vec<Option<v1::Entry>>, FeedStoreError> {
        let mut entries = Vec::with_capacity(wanted.len());
        while entries.len() < wanted.len() {
            let rest = &wanted[entries.len()..];
            let batch = rest.iter().take(BATCH_GET_KEYS_MAX).map(key_ref).collect();
            entries.extend(self.client.batch_get(batch, values).await?);
        }
        Ok(entries)
    }

    /// Any number of groups, in order, none read before one that stands ahead of it. Each group is of one moment.
    pub(crate) async fn groups(&self, wanted: &[Vec<Key>], values: Values) -> Result<Vec<Group>, FeedStoreError> {
        let mut groups = Vec::with_capacity(wanted.len());
        while groups.len() < wanted.len() {
            groups.extend(self.first_groups(&wanted[groups.len()..], values).await?);
        }
        Ok(groups)
    }

    /// As many groups, from the first on, as one answer holds; at least one. A group that the answer ends in is left
    /// out, and is read again as a whole. One that is alone and yet more than an answer holds is malformed: whoever asks
    /// for a group knows that the largest it can be fits.
    pub(crate) async fn first_groups(&self, wanted: &[Vec<Key>], values: Values) -> Result<Vec<Group>, FeedStoreError> {
        let mut keys = 0;
        let asked: Vec<_> = wanted
            .iter()
            .take_while(|group| {
                keys += group.len();
                keys <= BATCH_GET_KEYS_MAX
            })
            .collect();
        let batch = asked.iter().copied().flatten().map(key_ref).collect();
        let mut entries = self.client.batch_get(batch, values).await?.into_iter();
        let mut groups = Vec::with_capacity(asked.len());
        for group in asked {
            if entries.len() < group.len() {
                break;
            }
            groups.push(entries.by_ref().take(group.len()).collect());
        }
        match wanted.first().and_then(|group| group.first()) {
            Some(key) if groups.is_empty() => Err(malformed(key, TooManyBytes)),
            _ => Ok(groups),
        }
    }
}

/// Records that belong together are larger than the feed makes them.
#[derive(Debug, thiserror::Error)]
#[error("what belongs together is more than one answer holds")]
struct TooManyBytes;

fn key_ref(key: &Key) -> v1::KeyRef {
    v1::KeyRef {
        namespace: key.namespace.to_owned(),
        key: key.key.clone(),
    }
}
