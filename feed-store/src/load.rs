//! Reads documents, applied and pending, and what guards a write.

use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr;

use feed::id::{DocumentId, DocumentKey, Kind, SLUG_LENGTH_MAX, Slug};
use feed::keys::{self, Key};
use feed::record::{Record, accepted_playlist, document_keys, document_state};
use feed::slug::{self, NUMBERS};
use feed::state::{DocumentState, PlaylistRef};
use proto::client::Content as Values;
use proto::limits::{BATCH_GET_KEYS_MAX, COMMIT_BYTES_MAX, SCAN_ROWS_MAX};
use proto::v1;

use crate::{FeedStore, FeedStoreError};

/// Largest texts of documents that are loaded together, applied and pending ones added up, in bytes: as much as one commit
/// could hold of either.
pub const STATE_BYTES_MAX: usize = 2 * COMMIT_BYTES_MAX;
/// Records of one document.
const DOCUMENT_RECORDS: usize = 4;

/// The channels whose accepted versions refer to a playlist.
#[derive(Debug)]
pub struct Links {
    /// The channels, at most as many as were asked for.
    pub channels: Vec<DocumentId>,
    /// The store's revision before they were read.
    pub revision: u64,
}

impl FeedStore {
    /// The state of each document, applied and pending. Documents that do not exist are there with an empty state. More
    /// than [`STATE_BYTES_MAX`] of texts is [`FeedStoreError::TooLarge`].
    ///
    /// What is said of one document is of one moment; two documents may be of two.
    pub async fn documents(
        &self,
        documents: &[DocumentKey],
    ) -> Result<BTreeMap<DocumentKey, DocumentState>, FeedStoreError> {
        let mut states = BTreeMap::new();
        let mut bytes = 0;
        let mut rest = documents;
        while !rest.is_empty() {
            let loaded = self.first_documents(rest).await?;
            rest = &rest[loaded.len()..];
            bytes += loaded.iter().map(|(_, state)| state.text_bytes()).sum::<usize>();
            if bytes > STATE_BYTES_MAX {
                return Err(FeedStoreError::TooLarge);
            }
            states.extend(loaded);
        }
        Ok(states)
    }

    /// The state of as many documents, from the first on, as one answer holds; at least one.
    pub(crate) async fn first_documents(
        &self,
        documents: &[DocumentKey],
    ) -> Result<Vec<(DocumentKey, DocumentState)>, FeedStoreError> {
        let documents = &documents[..documents.len().min(BATCH_GET_KEYS_MAX / DOCUMENT_RECORDS)];
        // The lists of references, of some 50 KiB each, and one text of 8 MiB do not reach the 16 MiB that end an answer,
        // and the other text comes last: whatever a document is, one answer holds all of it.
        let wanted: Vec<_> = documents.iter().map(|key| document_keys(*key).to_vec()).collect();
        let groups = self.first_groups(&wanted, Values::Included).await?;
        let loaded = documents.iter().zip(groups).map(|(key, group)| {
            let mut entries = group.into_iter();
            let records: [_; DOCUMENT_RECORDS] = std::array::from_fn(|_| entries.next().flatten().map(record));
            let state = document_state(*key, records).map_err(|fault| malformed(&keys::document(*key), fault))?;
            Ok((*key, state))
        });
        loaded.collect()
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
        // The two records of a playlist are of one moment: a queued create that was applied between them would look like
        // no playlist at all.
        let records = ids.iter().map(|id| {
            let playlist = playlist_key(*id);
            vec![keys::document(playlist), keys::pending(playlist)]
        });
        let wanted: Vec<_> = std::iter::once(vec![keys::playlist_deleted()]).chain(records).collect();
        let mut groups = self.groups(&wanted, Values::Omitted).await?.into_iter();
        let deleted = groups.next().and_then(|group| group.into_iter().next().flatten());
        let deleted_revision = deleted.map_or(0, |entry| entry.revision);
        let mut found = BTreeMap::new();
        for (id, group) in ids.iter().zip(groups) {
            let mut records = group.into_iter().map(|entry| entry.map(record));
            let (applied, pending) = (records.next().flatten(), records.next().flatten());
            let accepted = accepted_playlist(*id, applied, pending)
                .map_err(|fault| malformed(&keys::document(playlist_key(*id)), fault))?;
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

    /// The numbers of a slug's base that are taken. Costs the same few calls however many slugs begin like it.
    pub async fn taken_numbers(&self, kind: Kind, base: &str) -> Result<BTreeSet<u16>, FeedStoreError> {
        let wanted: Vec<_> = NUMBERS
            .map(|number| keys::slug(kind, &slug::numbered(base, number)))
            .collect();
        let entries = self.entries(&wanted, Values::Omitted).await?;
        let taken = NUMBERS.zip(entries);
        Ok(taken.filter_map(|(number, entry)| entry.map(|_| number)).collect())
    }
}

/// All keys of a prefix.
pub(crate) fn prefix_selector(prefix: &Key) -> v1::Selector {
    v1::Selector {
        namespace: prefix.namespace.to_owned(),
        keys: Some(v1::selector::Keys::Prefix(prefix.key.clone())),
    }
}

fn playlist_key(id: DocumentId) -> DocumentKey {
    DocumentKey {
        kind: Kind::Playlist,
        id,
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
