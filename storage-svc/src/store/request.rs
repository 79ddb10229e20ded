//! What effective commits were answered, by the caller's request id, so that a retry does not happen twice.

use proto::limits::REQUEST_ID_KEPT;
use rusqlite::{Connection, OptionalExtension as _};

use crate::error::StoreError;
use crate::model::{Committed, Enqueued, RequestId};

/// Marks the id of a message that was there already. Row ids never reach so high.
const DEDUPLICATED: u64 = 1 << 63;

const RECALL: &str = "select digest, outcome from request where id = ? and expire_ms > ?";
const REMEMBER: &str = "insert or replace into request (id, digest, outcome, expire_ms) values (?, ?, ?, ?)";

#[cfg(test)]
pub(super) const STATEMENTS: [&str; 1] = [RECALL];

/// The answer given to the commit of this id. The same id with other content is refused.
pub(super) fn recall(
    connection: &Connection,
    now_ms: i64,
    request: &RequestId,
) -> Result<Option<Committed>, StoreError> {
    let known: Option<([u8; 32], Vec<u8>)> = connection
        .prepare_cached(RECALL)?
        .query_row((&request.id, now_ms), |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    let Some((digest, outcome)) = known else {
        return Ok(None);
    };
    if digest != request.digest {
        return Err(StoreError::invalid(
            "request_id",
            "was used for a request with other content",
        ));
    }
    decode(&outcome)
        .map(Some)
        .ok_or(StoreError::Damaged("a remembered answer that does not read"))
}

/// Keeps the answer for a while.
pub(super) fn remember(connection: &Connection, request: &RequestId, committed: &Committed) -> Result<(), StoreError> {
    let kept_ms = i64::try_from(REQUEST_ID_KEPT.as_millis()).unwrap_or(i64::MAX);
    let expire_ms = committed.commit_ms.saturating_add(kept_ms);
    connection
        .prepare_cached(REMEMBER)?
        .execute((&request.id, request.digest, encode(committed), expire_ms))?;
    Ok(())
}

fn encode(committed: &Committed) -> Vec<u8> {
    let mut outcome = Vec::with_capacity(24 + 8 * committed.enqueued.len());
    outcome.extend(committed.revision.to_be_bytes());
    outcome.extend(committed.commit_ms.to_be_bytes());
    outcome.extend(committed.created.to_be_bytes());
    outcome.extend(committed.deleted.to_be_bytes());
    for enqueued in &committed.enqueued {
        let mark = if enqueued.deduplicated { DEDUPLICATED } else { 0 };
        outcome.extend((enqueued.id | mark).to_be_bytes());
    }
    outcome
}

fn decode(outcome: &[u8]) -> Option<Committed> {
    let (revision, rest) = outcome.split_first_chunk()?;
    let (commit_ms, rest) = rest.split_first_chunk()?;
    let (created, rest) = rest.split_first_chunk()?;
    let (deleted, rest) = rest.split_first_chunk()?;
    let (ids, rest) = rest.as_chunks();
    rest.is_empty().then(|| Committed {
        revision: u64::from_be_bytes(*revision),
        commit_ms: i64::from_be_bytes(*commit_ms),
        enqueued: ids.iter().map(|id| enqueued(u64::from_be_bytes(*id))).collect(),
        created: u32::from_be_bytes(*created),
        deleted: u32::from_be_bytes(*deleted),
        replayed: true,
    })
}

fn enqueued(marked_id: u64) -> Enqueued {
    Enqueued {
        id: marked_id & !DEDUPLICATED,
        deduplicated: marked_id & DEDUPLICATED != 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read_as_it_was_given() {
        let committed = Committed {
            revision: 7,
            commit_ms: -1,
            enqueued: vec![
                Enqueued {
                    id: 1,
                    deduplicated: false,
                },
                Enqueued {
                    id: i64::MAX.cast_unsigned(),
                    deduplicated: true,
                },
            ],
            created: 3,
            deleted: 2,
            replayed: true,
        };
        let outcome = encode(&committed);
        assert_eq!(decode(&outcome), Some(committed));
        assert_eq!(decode(&outcome[1..]), None);
    }
}
