//! Records of queued writes, and the messages that name them.

use serde::{Deserialize, Serialize};

use crate::commit::Commit;
use crate::id::{DocumentKey, Kind};
use crate::keys;
use crate::state::{Malformed, OperationId};
use crate::time;

/// A record is kept this long after it was written last: 7 days, in ms. An operation that waits longer than that is
/// still applied; its record is then written anew.
pub const OPERATION_KEPT_MS: i64 = 7 * 24 * 60 * 60 * 1000;

/// How far a queued write has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OperationState {
    /// Accepted: it will be applied, unless a newer write replaces it.
    Accepted,
    /// At least one of its documents was applied.
    Applied,
    /// All of its documents had been replaced by newer accepted versions, which were based on them.
    Superseded,
    /// Could not be applied; `reason` says why.
    Failed,
}

/// What became of a queued write.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OperationRecord {
    /// The operation.
    pub id: OperationId,
    /// How far it has come.
    pub state: OperationState,
    /// Path of the document that was written.
    pub resource: String,
    /// When it was accepted, as ISO 8601 in UTC.
    pub accepted_at: String,
    /// When it ended; absent while it waits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<String>,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Where to read on.
    pub links: OperationLinks,
}

/// Paths of the REST API that have to do with an operation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperationLinks {
    /// The record itself.
    #[serde(rename = "self")]
    pub operation: String,
    /// Every document that the operation has a version of: the one that was written first, then those of its cascade.
    pub documents: Vec<String>,
}

impl OperationRecord {
    /// The record of the operation that a message names.
    #[must_use]
    pub fn new(message: &OperationMessage, state: OperationState) -> Self {
        let documents: Vec<_> = message.documents.iter().map(|key| resource_path(*key)).collect();
        Self {
            id: message.operation,
            state,
            resource: documents.first().cloned().unwrap_or_default(),
            accepted_at: message.accepted_at.clone(),
            finished_at: None,
            reason: None,
            links: OperationLinks {
                operation: operation_path(message.operation),
                documents,
            },
        }
    }

    /// The record of an operation that ended at `now_ms`.
    #[must_use]
    pub fn ended(message: &OperationMessage, state: OperationState, reason: Option<&str>, now_ms: i64) -> Self {
        Self {
            finished_at: Some(time::to_text(now_ms)),
            reason: reason.map(str::to_owned),
            ..Self::new(message, state)
        }
    }

    /// Adds the record to a commit; it is gone [`OPERATION_KEPT_MS`] later.
    pub fn put(&self, commit: &mut Commit) {
        commit.put_for(keys::operation(self.id), self.to_text(), OPERATION_KEPT_MS);
    }

    /// The message that names the operation, as it was enqueued.
    pub fn message(&self) -> Result<OperationMessage, Malformed> {
        let documents = self.links.documents.iter().map(|path| parse_resource_path(path));
        Ok(OperationMessage {
            operation: self.id,
            accepted_at: self.accepted_at.clone(),
            documents: documents.collect::<Option<_>>().ok_or(Malformed("operation record"))?,
        })
    }

    /// As stored and as answered.
    #[must_use]
    pub fn to_text(&self) -> String {
        serde_json::to_string(self).expect("a record of strings is JSON")
    }

    /// Reads a stored record.
    pub fn parse(text: &str) -> Result<Self, Malformed> {
        serde_json::from_str(text).map_err(|_| Malformed("operation record"))
    }
}

/// A message of the write queue: which operation, and the documents it has a version of. The versions themselves wait
/// in storage, so that what is delivered late or twice can never bring an old one back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperationMessage {
    /// The operation.
    pub operation: OperationId,
    /// When it was accepted, as ISO 8601 in UTC.
    pub accepted_at: String,
    /// Its documents, the one written first, then those of its cascade.
    #[serde(with = "document_keys")]
    pub documents: Vec<DocumentKey>,
}

impl OperationMessage {
    /// As sent.
    #[must_use]
    pub fn to_text(&self) -> String {
        serde_json::to_string(self).expect("a message of strings is JSON")
    }

    /// Reads a message.
    pub fn parse(text: &str) -> Result<Self, Malformed> {
        serde_json::from_str(text).map_err(|_| Malformed("operation message"))
    }
}

const PLAYLISTS: &str = "/api/v1/playlists/";
const CHANNELS: &str = "/api/v1/channels/";

/// Where the REST API serves a document.
#[must_use]
pub fn resource_path(document: DocumentKey) -> String {
    match document.kind {
        Kind::Playlist => format!("{PLAYLISTS}{}", document.id),
        Kind::Channel => format!("{CHANNELS}{}", document.id),
    }
}

fn parse_resource_path(path: &str) -> Option<DocumentKey> {
    let (kind, id) = match path.strip_prefix(PLAYLISTS) {
        Some(id) => (Kind::Playlist, id),
        None => (Kind::Channel, path.strip_prefix(CHANNELS)?),
    };
    Some(DocumentKey {
        kind,
        id: id.parse().ok()?,
    })
}

const OPERATIONS: &str = "/api/v1/operations/";

/// Where the REST API serves the record of an operation.
#[must_use]
pub fn operation_path(operation: OperationId) -> String {
    format!("{OPERATIONS}{operation}")
}

/// The operation whose record is served there.
#[must_use]
pub fn parse_operation_path(path: &str) -> Option<OperationId> {
    path.strip_prefix(OPERATIONS)?.parse().ok()
}

/// Documents as `<kind>/<uuid>`.
mod document_keys {
    use serde::de::Error as _;
    use serde::{Deserialize as _, Deserializer, Serialize as _, Serializer};

    use crate::id::DocumentKey;

    pub(super) fn serialize<S: Serializer>(keys: &[DocumentKey], serializer: S) -> Result<S::Ok, S::Error> {
        keys.iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<DocumentKey>, D::Error> {
        let texts = Vec::<String>::deserialize(deserializer)?;
        texts
            .iter()
            .map(|text| {
                text.parse()
                    .map_err(|_| D::Error::custom("a document is <kind>/<uuid>"))
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commit::Change;

    #[test]
    fn a_record_reads_back_and_is_kept_for_a_week() {
        let playlist = "playlist/385f79b6-a45f-4c1c-8080-e93a192adccc";
        let channel = "channel/485f79b6-a45f-4c1c-8080-e93a192adccc";
        let message = OperationMessage {
            operation: "585f79b6-a45f-4c1c-8080-e93a192adccc".parse().expect("an id"),
            accepted_at: time::to_text(0),
            documents: [playlist, channel]
                .map(|text| text.parse().expect("a document"))
                .to_vec(),
        };
        assert_eq!(OperationMessage::parse(&message.to_text()), Ok(message.clone()));
        let record = OperationRecord::ended(&message, OperationState::Failed, Some("a reason"), 1_000);
        let expected = r#"{"id":"585f79b6-a45f-4c1c-8080-e93a192adccc","state":"failed","resource":"/api/v1/playlists/385f79b6-a45f-4c1c-8080-e93a192adccc","acceptedAt":"1970-01-01T00:00:00.000Z","finishedAt":"1970-01-01T00:00:01.000Z","reason":"a reason","links":{"self":"/api/v1/operations/585f79b6-a45f-4c1c-8080-e93a192adccc","documents":["/api/v1/playlists/385f79b6-a45f-4c1c-8080-e93a192adccc","/api/v1/channels/485f79b6-a45f-4c1c-8080-e93a192adccc"]}}"#;
        assert_eq!(record.to_text(), expected);
        assert_eq!(OperationRecord::parse(expected), Ok(record.clone()));
        assert_eq!(record.message(), Ok(message.clone()));
        let other = OperationRecord::parse(&expected.replace("/channels/", "/others/")).expect("strings");
        assert_eq!(other.message(), Err(Malformed("operation record")));
        assert_eq!(parse_operation_path(&record.links.operation), Some(message.operation));

        let mut commit = Commit::default();
        record.put(&mut commit);
        let Some(Change::Put { ttl_ms, .. }) = commit.changes.get(&keys::operation(message.operation)) else {
            panic!("the record is written");
        };
        assert_eq!(*ttl_ms, Some(7 * 24 * 3_600 * 1_000));
    }
}
