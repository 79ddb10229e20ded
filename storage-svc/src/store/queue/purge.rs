//! Deletes messages for good, and whole queues.

use proto::limits::DELETE_QUEUE_MESSAGES_MAX;
use rusqlite::Connection;

use super::lately::Lately;
use super::list::select;
use super::message::find;
use super::settings::{by_name, known};
use crate::error::StoreError;
use crate::model::{MessageState, Moved, Purge, QueueName};
use crate::store::effects::{Effects, Moment};

/// Most remembered ids that are deleted with their queue. More of them stay until their time is over: nobody can meet
/// them, because the row id of a queue is never used again.
const DEDUP_IDS_MAX: i64 = 10_000;

const LEASED: &str = "select id from message indexed by message_state where queue_id = ? and state = 3";
const DELETE_FAILURES: &str = "delete from failure where message_id in \
     (select id from message indexed by message_state where queue_id = ?)";
const DELETE_BODIES: &str = "delete from message_body where id in \
     (select id from message indexed by message_state where queue_id = ?)";
const DELETE_MESSAGES: &str = "delete from message where id in \
     (select id from message indexed by message_state where queue_id = ?)";
const DELETE_DEDUP_IDS: &str = "delete from dedup where (queue_id, dedup_id) in \
     (select queue_id, dedup_id from dedup where queue_id = ? limit ?)";
const DELETE_QUEUE: &str = "delete from queue where id = ?";

#[cfg(test)]
pub(super) const STATEMENTS: [&str; 6] = [
    LEASED,
    DELETE_FAILURES,
    DELETE_BODIES,
    DELETE_MESSAGES,
    DELETE_DEDUP_IDS,
    DELETE_QUEUE,
];

/// Deletes messages, by the states that they are in before the call.
pub(in crate::store) fn purge(
    connection: &Connection,
    moment: Moment,
    purge: &Purge,
) -> Result<(Moved, Effects), StoreError> {
    let queue = known(connection, &purge.queue)?;
    let states: Vec<MessageState> = purge.states.iter().copied().collect();
    let (ids, more) = select(connection, queue.id, &purge.ids, &states)?;
    let mut lately = Lately::default();
    for id in &ids {
        // Read anew: the one before it may have let it go.
        let message = find(connection, *id)?.ok_or(StoreError::Damaged("a message that is only in an index"))?;
        message.remove(connection, moment.now_ms, &mut lately)?;
    }
    let moved = Moved {
        messages: ids.len() as u64,
        more,
    };
    Ok((moved, lately.finish(connection)?))
}

/// Deletes a queue; whether there was one. Those who wait at it look again, and find that it is gone.
pub(in crate::store) fn delete_queue(
    connection: &Connection,
    name: &QueueName,
    force: bool,
) -> Result<(bool, Effects), StoreError> {
    let Some(queue) = by_name(connection, name)? else {
        return Ok((false, Effects::default()));
    };
    let messages = queue.depth();
    if messages > 0 && !force {
        return Err(StoreError::QueueNotEmpty {
            queue: queue.name,
            messages,
        });
    }
    if messages > DELETE_QUEUE_MESSAGES_MAX {
        return Err(StoreError::QueueTooLarge {
            queue: queue.name,
            messages,
        });
    }
    let mut lately = Lately::default();
    if messages > 0 {
        let leased = connection
            .prepare_cached(LEASED)?
            .query_map([queue.id], |row| row.get(0))?
            .collect::<rusqlite::Result<Vec<i64>>>()?;
        for id in leased {
            lately.leaves(queue.id, id, MessageState::Leased);
        }
        for delete in [DELETE_FAILURES, DELETE_BODIES, DELETE_MESSAGES] {
            connection.prepare_cached(delete)?.execute([queue.id])?;
        }
        lately.retimes();
    }
    connection
        .prepare_cached(DELETE_DEDUP_IDS)?
        .execute((queue.id, DEDUP_IDS_MAX))?;
    connection.prepare_cached(DELETE_QUEUE)?.execute([queue.id])?;
    lately.wakes(queue.id);
    Ok((true, lately.finish(connection)?))
}
