//! What an operation still owns of the documents it has versions of, turned into the changes that apply it.

use feed::accept::META_OPERATION;
use feed::apply::{Tally, apply_owned};
use feed::commit::Commit;
use feed::id::DocumentKey;
use feed::keys;
use feed::state::OperationId;
use proto::client::Content as Values;

use crate::{FeedStore, FeedStoreError, check_size};

impl FeedStore {
    /// The changes that apply what `operation` still owns of these documents, and how many it owns. The commit expects
    /// the revisions that were read.
    ///
    /// Only documents that are still owned are loaded, no more at once than one answer of the storage service holds, and
    /// of each only its changes are kept. So however large the documents are together, no more is held than one commit
    /// may be, and part of what comes next: what would be more is [`FeedStoreError::TooLarge`].
    pub async fn owned_changes(
        &self,
        operation: OperationId,
        documents: &[DocumentKey],
    ) -> Result<(Commit, Tally), FeedStoreError> {
        let owned = match documents {
            // Nearly every operation has one document; to look before it is loaded would only cost a call.
            [document] => vec![*document],
            _ => self.owned(operation, documents).await?,
        };
        let mut commit = Commit::default();
        let mut tally = Tally {
            applied: 0,
            superseded: documents.len() - owned.len(),
        };
        let mut rest = &owned[..];
        while !rest.is_empty() {
            let loaded = self.first_documents(rest).await?;
            rest = &rest[loaded.len()..];
            // A version that was replaced since is found to be so here, and never becomes the operation's again.
            let (part, count) = apply_owned(operation, &loaded.into_iter().collect());
            commit.checks.extend(part.checks);
            commit.changes.extend(part.changes);
            check_size(&commit)?;
            tally.applied += count.applied;
            tally.superseded += count.superseded;
        }
        Ok((commit, tally))
    }

    /// Which of the documents have a pending version of this operation.
    pub async fn owned(
        &self,
        operation: OperationId,
        documents: &[DocumentKey],
    ) -> Result<Vec<DocumentKey>, FeedStoreError> {
        let owned = self.owned_versions(operation, documents).await?;
        Ok(owned.into_iter().map(|(key, _)| key).collect())
    }

    /// The same, with the revisions of those versions.
    pub(crate) async fn owned_versions(
        &self,
        operation: OperationId,
        documents: &[DocumentKey],
    ) -> Result<Vec<(DocumentKey, u64)>, FeedStoreError> {
        let wanted: Vec<_> = documents.iter().map(|key| keys::pending(*key)).collect();
        let entries = self.entries(&wanted, Values::Omitted).await?;
        let operation = operation.to_string();
        let is_owned = |entry: &proto::v1::Entry| entry.metadata.get(META_OPERATION) == Some(&operation);
        let owned = documents.iter().zip(entries);
        Ok(owned
            .filter_map(|(key, entry)| Some((*key, entry.filter(is_owned)?.revision)))
            .collect())
    }
}
