//! Leases ready messages.

use rusqlite::Connection;

use super::lately::Lately;
use super::settings::by_id;
use crate::error::StoreError;
use crate::model::{Delivery, Lease, MessageState};
use crate::store::effects::Effects;
use crate::store::waiting::{Ask, Taken};
use crate::store::{kv, pairs};

const READY: &str = "select message.id, epoch, attempt, enqueue_ms, last_error, ordering_key, redrives, kind, \
     attributes, dedup_id, body \
     from message indexed by message_state cross join message_body on message_body.id = message.id \
     where queue_id = ? and state = 2 order by message.id limit ?";
const LEASE: &str = "update message set state = 3, due_ms = ?, epoch = epoch + 1, attempt = attempt + 1 where id = ?";

#[cfg(test)]
pub(super) const STATEMENTS: [&str; 2] = [READY, LEASE];

/// Leases as many ready messages as are asked for, the oldest first. The lease runs from now; the attempt counts from
/// now. A paused queue gives none; one that has been deleted meanwhile is an error.
pub(in crate::store) fn claim(
    connection: &Connection,
    now_ms: i64,
    queue_id: i64,
    ask: Ask,
) -> Result<(Taken, Effects), StoreError> {
    let queue = by_id(connection, queue_id)?.ok_or(StoreError::QueueDeleted)?;
    if queue.settings.paused {
        return Ok((Taken::default(), Effects::default()));
    }
    let lease_expire_ms = now_ms.saturating_add(ask.lease_ms.unwrap_or(queue.settings.lease_ms));
    let mut deliveries = Vec::new();
    let mut bytes = 0;
    let mut is_crowded = false;
    let mut statement = connection.prepare_cached(READY)?;
    let mut rows = statement.query((queue_id, i64::try_from(ask.messages_max).unwrap_or(i64::MAX)))?;
    while bytes < ask.bytes_max
        && let Some(row) = rows.next()?
    {
        let attempt: i64 = row.get(2)?;
        let delivery = Delivery {
            lease: Lease {
                message_id: row.get::<_, i64>(0)?.cast_unsigned(),
                epoch: row.get::<_, i64>(1)?.cast_unsigned() + 1,
            },
            body: kv::content(row.get(7)?, row.get(10)?)?,
            attributes: pairs::decode(row.get::<_, Option<Vec<u8>>>(8)?.as_deref())?,
            ordering_key: row.get::<_, Option<String>>(5)?.unwrap_or_default(),
            dedup_id: row.get::<_, Option<String>>(9)?.unwrap_or_default(),
            attempt: u32::try_from(attempt + 1).unwrap_or(u32::MAX),
            redrives: row.get(6)?,
            enqueue_ms: row.get(3)?,
            last_error: row.get::<_, Option<String>>(4)?.unwrap_or_default(),
            lease_expire_ms,
        };
        bytes += delivery.body.as_bytes().len();
        if ask.room.is_some_and(|room| !room.fits(deliveries.len(), bytes)) {
            is_crowded = true;
            break;
        }
        deliveries.push(delivery);
    }
    // Not before the rows are read: a statement must not change the index that it walks.
    drop(rows);
    let mut lately = Lately::default();
    for delivery in &deliveries {
        let id = delivery.lease.message_id.cast_signed();
        connection.prepare_cached(LEASE)?.execute((lease_expire_ms, id))?;
        lately.moves(queue_id, id, MessageState::Ready, MessageState::Leased);
    }
    let taken = Taken { deliveries, is_crowded };
    Ok((taken, lately.finish(connection)?))
}
