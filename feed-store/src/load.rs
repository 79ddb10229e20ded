//! Reads documents, applied and pending, and what guards a write.

use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr;

use feed::id::{DocumentId, DocumentKey, Kind, SLUG_LENGTH_MAX, Slug};
use feed::keys::{self, Key};
use feed::record::{Record, accepted_playlist, document_keys, document_state};
use feed::state::{DocumentState, PlaylistRef};
use proto::client::Content as Values;
use proto::limits::{BATCH_GET_KEYS_MAX, SCAN_ROWS_MAX};
use proto::v1;

use crate::{FeedStore, FeedStoreError};

/// The channels whose accepted versions refer to a playlist.
#[derive(Debug)]
pub struct Links {
    /// The channels, at most as many as were asked for.
    pub channels: Vec<DocumentId>,
    /// The store's revision before they were read.
    pub revision: u64,
}

impl FeedStore {
    /// The state of each document, applied and pending. Documents that do not exist are there with an empty state.
    pub async fn documents(
        &self,
        documents: &[DocumentKey],
    ) -> Result<BTreeMap<DocumentKey, DocumentState>, FeedStoreError> {
        let wanted: Vec<_> = documents.iter().flat_map(|key| document_keys(*key)).collect();
        let mut entries = self.entries(&wanted, Values::Included).await?.into_iter();
        let mut states = BTreeMap::new();
        for key in documents {
            let records = std::array::from_fn(|_| entries.next().flatten().map(record));
            let state = document_state(*key, records).map_err(|fault| malformed(&keys::document(*key), fault))?;
            states.insert(*key, state);
        }
        Ok(states)
    }

    /// The id that a slug stands for, pending documents included.
    pub async fn id_of_slug(&self, kind: Kind, slug: &Slug) -> Result<Option<DocumentId>, FeedStoreError> {
        if slug.as_str().len() > SLUG_LENGTH_MAX {
            return Ok(None);
        }
        let key = keys::slug(kind, slug);
        let entry = self.client.get(key.namespace, &key.key).await?;
        entry
            .map(|entry| parse(&key, entry.text().unwrap_or_default()))
            .transpose()
    }

    /// The ids that playlist slugs stand for; those that stand for nothing are left out.
    pub async fn playlist_ids_of_slugs(
        &self,
        slugs: &BTreeSet<Slug>,
    ) -> Result<BTreeMap<Slug, DocumentId>, FeedStoreError> {
        // No document has a longer slug, and no key holds one.
        let slugs = slugs.iter().filter(|slug| slug.as_str().len() <= SLUG_LENGTH_MAX);
        let wanted: Vec<_> = slugs.map(|slug| (slug, keys::slug(Kind::Playlist, slug))).collect();
        let keys: Vec<_> = wanted.iter().map(|(_, key)| key.clone()).collect();
        let entries = self.entries(&keys, Values::Included).await?;
        let found = wanted
            .into_iter()
            .zip(entries)
            .filter_map(|(name, entry)| Some((name, entry?)));
        found
            .map(|((slug, key), entry)| Ok((slug.clone(), parse(&key, entry.text().unwrap_or_default())?)))
            .collect()
    }

    /// Which of the playlists exist in the accepted state, with their times of creation; and the revision of the key
    /// that every deletion changes, read no later than they were.
    pub async fn accepted_playlists(
        &self,
        ids: &BTreeSet<DocumentId>,
    ) -> Result<(BTreeMap<DocumentId, PlaylistRef>, u64), FeedStoreError> {
        let mut wanted = vec![keys::playlist_deleted()];
        for id in ids {
            let key = DocumentKey {
                kind: Kind::Playlist,
                id: *id,
            };
            wanted.push(keys::document(key));
            wanted.push(keys::pending(key));
        }
        let mut entries = self.entries(&wanted, Values::Omitted).await?.into_iter();
        let mut next = || entries.next().flatten();
        let deleted_revision = next().map_or(0, |entry| entry.revision);
        let mut found = BTreeMap::new();
        for id in ids {
            let (applied, pending) = (next().map(record), next().map(record));
            let accepted = accepted_playlist(*id, applied, pending);
            let accepted = accepted.map_err(|fault| {
                malformed(
                    &keys::document(DocumentKey {
                        kind: Kind::Playlist,
                        id: *id,
                    }),
                    fault,
                )
            })?;
            found.extend(accepted.map(|reference| (*id, reference)));
        }
        Ok((found, deleted_revision))
    }

    /// The channels linked to a playlist, up to `limit`.
    pub async fn links(&self, playlist: DocumentId, limit: usize) -> Result<Links, FeedStoreError> {
        let prefix = keys::links(playlist);
        let mut links = Links {
            channels: Vec::new(),
            revision: 0,
        };
        let mut page_token = String::new();
        loop {
            let page = self
                .client
                .scan(v1::ScanRequest {
                    selector: Some(prefix_selector(&prefix)),
                    page_size: i32::try_from(limit.clamp(1, SCAN_ROWS_MAX)).unwrap_or(i32::MAX),
                    page_token,
                    omit_values: true,
                    ..Default::default()
                })
                .await?;
            if links.revision == 0 {
                links.revision = page.store_revision;
            }
            for entry in page.rows.into_iter().filter_map(|row| row.entry) {
                let channel = entry.key.strip_prefix(&prefix.key).unwrap_or_default();
                links.channels.push(parse(&prefix, channel)?);
            }
            page_token = page.next_page_token;
            if page_token.is_empty() || links.channels.len() >= limit {
                links.channels.truncate(limit);
                return Ok(links);
            }
        }
    }

    /// The slugs of one base that are taken, as their parts behind the base.
    pub async fn taken_slugs(&self, kind: Kind, base: &str) -> Result<Vec<String>, FeedStoreError> {
        let prefix = keys::slugs_of_base(kind, base);
        let mut taken = Vec::new();
        let mut page_token = String::new();
        loop {
            let page = self
                .client
                .scan(v1::ScanRequest {
                    selector: Some(prefix_selector(&prefix)),
                    page_size: i32::try_from(SCAN_ROWS_MAX).unwrap_or(i32::MAX),
                    page_token,
                    omit_values: true,
                    ..Default::default()
                })
                .await?;
            let entries = page.rows.into_iter().filter_map(|row| row.entry);
            taken.extend(entries.filter_map(|entry| entry.key.strip_prefix(&prefix.key).map(str::to_owned)));
            page_token = page.next_page_token;
            if page_token.is_empty() {
                return Ok(taken);
            }
        }
    }

    /// Any number of keys, in order.
    pub async fn entries(&self, wanted: &[Key], values: Values) -> Result<Vec<Option<v1::Entry>>, FeedStoreError> {
        let mut entries = Vec::with_capacity(wanted.len());
        for part in wanted.chunks(BATCH_GET_KEYS_MAX) {
            let refs: Vec<_> = part
                .iter()
                .map(|key| v1::KeyRef {
                    namespace: key.namespace.to_owned(),
                    key: key.key.clone(),
                })
                .collect();
            entries.extend(self.client.batch_get(&refs, values).await?.entries);
        }
        Ok(entries)
    }
}

/// All keys of a prefix.
pub(crate) fn prefix_selector(prefix: &Key) -> v1::Selector {
    v1::Selector {
        namespace: prefix.namespace.to_owned(),
        keys: Some(v1::selector::Keys::Prefix(prefix.key.clone())),
    }
}

fn record(entry: v1::Entry) -> Record {
    let text = match entry.content {
        Some(v1::entry::Content::Text(text)) => text,
        // What was left out, or is not ours: reads as empty, and is then malformed where a text is needed.
        _ => String::new(),
    };
    Record {
        text,
        metadata: entry.metadata,
        revision: entry.revision,
    }
}

pub(crate) fn parse<T>(key: &Key, text: &str) -> Result<T, FeedStoreError>
where
    T: FromStr<Err: std::error::Error + Send + Sync + 'static>,
{
    text.parse().map_err(|fault| malformed(key, fault))
}

pub(crate) fn malformed(key: &Key, fault: impl std::error::Error + Send + Sync + 'static) -> FeedStoreError {
    FeedStoreError::Malformed {
        key: format!("{}/{}", key.namespace, key.key),
        fault: Box::new(fault),
    }
}
