//! Records of queued writes.

use feed::keys;
use feed::operation::OperationRecord;
use feed::state::OperationId;

use crate::load::malformed;
use crate::{FeedStore, FeedStoreError};

impl FeedStore {
    /// What became of a queued write; none if there is no such operation, or its record has expired.
    pub async fn operation(&self, operation: OperationId) -> Result<Option<OperationRecord>, FeedStoreError> {
        let key = keys::operation(operation);
        let text = self.text(&key).await?;
        text.map(|text| OperationRecord::parse(&text).map_err(|fault| malformed(&key, fault)))
            .transpose()
    }
}
