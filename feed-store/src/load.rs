//! Reads documents, applied and pending, and what guards a write.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Display;
use std::str::FromStr;

use feed::accept::{CHANGE_DELETE, CHANGE_PUT, META_CHANGE, META_OPERATION, META_SLUG};
use feed::apply::{META_CREATED, META_ORIGIN};
use feed::document::Document;
use feed::id::{DocumentId, DocumentKey, Kind, Slug};
use feed::keys::{self, Key};
use feed::state::{Content, DocumentState, Pending, PlaylistRef, Refs, Version};
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
        let mut wanted = Vec::new();
        for key in documents {
            wanted.push(keys::document(*key));
            wanted.push(keys::pending(*key));
            if key.kind == Kind::Channel {
                wanted.push(keys::refs(key.id));
                wanted.push(keys::pending_refs(key.id));
            }
        }
        let mut entries = self.entries(&wanted, Values::Included).await?.into_iter();
        let mut next = || entries.next().flatten();
        let mut states = BTreeMap::new();
        for key in documents {
            let (applied, pending) = (next(), next());
            let (refs, pending_refs) = match key.kind {
                Kind::Channel => (next(), next()),
                Kind::Playlist => (None, None),
            };
            let state = DocumentState {
                applied_revision: revision(applied.as_ref()),
                pending_revision: revision(pending.as_ref()),
                applied: applied.map(|entry| content(key.kind, &entry, refs.as_ref())).transpose()?,
                pending: pending.map(|entry| read_pending(*key, &entry, pending_refs.as_ref())).transpose()?,
            };
            states.insert(*key, state);
        }
        Ok(states)
    }

    /// The id that a slug stands for, pending documents included.
    pub async fn id_of_slug(&self, kind: Kind, slug: &Slug) -> Result<Option<DocumentId>, FeedStoreError> {
        let key = keys::slug(kind, slug);
        let entry = self.client.get(key.namespace, &key.key).await?;
        entry.map(|entry| parse(&entry, entry.text().unwrap_or_default(), "id")).transpose()
    }

    /// The ids that playlist slugs stand for; those that stand for nothing are left out.
    pub async fn playlist_ids_of_slugs(
        &self,
        slugs: &BTreeSet<Slug>,
    ) -> Result<BTreeMap<Slug, DocumentId>, FeedStoreError> {
        let wanted: Vec<_> = slugs.iter().map(|slug| keys::slug(Kind::Playlist, slug)).collect();
        let entries = self.entries(&wanted, Values::Included).await?;
        let found = slugs.iter().zip(entries).filter_map(|(slug, entry)| Some((slug, entry?)));
        found.map(|(slug, entry)| Ok((slug.clone(), parse(&entry, entry.text().unwrap_or_default(), "id")?))).collect()
    }

    /// Which of the playlists exist in the accepted state, with their times of creation; and the revision of the key
    /// that every deletion changes, read no later than they were.
    pub async fn accepted_playlists(
        &self,
        ids: &BTreeSet<DocumentId>,
    ) -> Result<(BTreeMap<DocumentId, PlaylistRef>, u64), FeedStoreError> {
        let mut wanted = vec![keys::playlist_deleted()];
        for id in ids {
            let key = DocumentKey { kind: Kind::Playlist, id: *id };
            wanted.push(keys::document(key));
            wanted.push(keys::pending(key));
        }
        let mut entries = self.entries(&wanted, Values::Omitted).await?.into_iter();
        let mut next = || entries.next().flatten();
        let deleted_revision = revision(next().as_ref());
        let mut found = BTreeMap::new();
        for id in ids {
            let (applied, pending) = (next(), next());
            let accepted = match &pending {
                Some(entry) if meta(entry, META_CHANGE)? == CHANGE_DELETE => None,
                Some(_) => pending,
                None => applied,
            };
            if let Some(entry) = accepted {
                found.insert(*id, PlaylistRef { id: *id, created_ms: optional_meta(&entry, META_CREATED)? });
            }
        }
        Ok((found, deleted_revision))
    }

    /// The channels linked to a playlist, up to `limit`.
    pub async fn links(&self, playlist: DocumentId, limit: usize) -> Result<Links, FeedStoreError> {
        let prefix = keys::links(playlist);
        let mut links = Links { channels: Vec::new(), revision: 0 };
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
                links.channels.push(parse(&entry, channel, "link")?);
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
                .map(|key| v1::KeyRef { namespace: key.namespace.to_owned(), key: key.key.clone() })
                .collect();
            entries.extend(self.client.batch_get(&refs, values).await?.entries);
        }
        Ok(entries)
    }
}

/// All keys of a prefix.
fn prefix_selector(prefix: &Key) -> v1::Selector {
    v1::Selector {
        namespace: prefix.namespace.to_owned(),
        keys: Some(v1::selector::Keys::Prefix(prefix.key.clone())),
    }
}

fn revision(entry: Option<&v1::Entry>) -> u64 {
    entry.map_or(0, |entry| entry.revision)
}

fn content(kind: Kind, entry: &v1::Entry, refs: Option<&v1::Entry>) -> Result<Content, FeedStoreError> {
    let text = entry.text().ok_or_else(|| malformed(entry, "it is not text"))?;
    let document = Document::parse(kind, text.to_owned()).map_err(|error| malformed(entry, error))?;
    let refs = match refs {
        Some(refs) => parse(refs, refs.text().unwrap_or_default(), "references")?,
        None => Refs::default(),
    };
    if refs.0.len() != document.playlists.len() {
        return Err(malformed(entry, "its references are not one per URL"));
    }
    Ok(Content { document, refs, origin: parse(entry, meta(entry, META_ORIGIN)?, META_ORIGIN)? })
}

fn read_pending(
    key: DocumentKey,
    entry: &v1::Entry,
    refs: Option<&v1::Entry>,
) -> Result<Pending, FeedStoreError> {
    let operation = parse(entry, meta(entry, META_OPERATION)?, META_OPERATION)?;
    let version = match meta(entry, META_CHANGE)? {
        CHANGE_PUT => Version::Put(content(key.kind, entry, refs)?),
        CHANGE_DELETE => Version::Delete { key, slug: parse(entry, meta(entry, META_SLUG)?, META_SLUG)? },
        _ => return Err(malformed(entry, "its change is neither put nor delete")),
    };
    Ok(Pending { operation, version })
}

fn meta<'a>(entry: &'a v1::Entry, name: &str) -> Result<&'a str, FeedStoreError> {
    let metadata: &HashMap<String, String> = &entry.metadata;
    metadata.get(name).map(String::as_str).ok_or_else(|| malformed(entry, format!("metadata {name} is missing")))
}

fn optional_meta<T: FromStr>(entry: &v1::Entry, name: &str) -> Result<Option<T>, FeedStoreError> {
    entry.metadata.get(name).map(|text| parse(entry, text, name)).transpose()
}

fn parse<T: FromStr>(entry: &v1::Entry, text: &str, what: &str) -> Result<T, FeedStoreError> {
    text.parse().map_err(|_| malformed(entry, format!("{what} {text:?} does not parse")))
}

fn malformed(entry: &v1::Entry, fault: impl Display) -> FeedStoreError {
    FeedStoreError::Malformed { key: format!("{}/{}", entry.namespace, entry.key), fault: fault.to_string() }
}
