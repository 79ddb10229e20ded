//! What the passing of time does to messages.

use rusqlite::{Connection, OptionalExtension as _};

use super::dead;
use super::lately::Lately;
use super::message::Message;
use super::settle::{Retry, retry_later};
use crate::error::StoreError;
use crate::model::{Lease, MessageState};
use crate::store::effects::Effects;

/// What `last_error` says of a lease that nobody settled in time.
const LEASE_RAN_OUT: &str = "the lease ran out";

const LEASES_OUT: &str = "select id, queue_id, state, due_ms, epoch, attempt, ordering_key from message \
     where state = 3 and due_ms <= ? order by due_ms limit ?";
const DELAYS_OVER: &str = "select id, queue_id from message where state = 1 and due_ms <= ? order by due_ms limit ?";
const PROMOTE: &str = "update message set state = 2 where id = ?";
const FIRST_LEASE_OUT: &str = "select due_ms from message where state = 3 and due_ms >= ? order by due_ms limit 1";
const FIRST_DELAY_OVER: &str = "select due_ms from message where state = 1 and due_ms >= ? order by due_ms limit 1";

#[cfg(test)]
pub(super) const STATEMENTS: [&str; 5] = [LEASES_OUT, DELAYS_OVER, PROMOTE, FIRST_LEASE_OUT, FIRST_DELAY_OVER];

/// Moves messages whose time has come: leases that ran out, then delays that are over, then dead ones that were kept
/// long enough; at most `messages_max` of each. The back-off after a lease counts from the lease's end, and so does the
/// time that a message is dead, so that neither depends on when the sweep comes.
pub(in crate::store) fn sweep(
    connection: &Connection,
    now_ms: i64,
    messages_max: i64,
) -> Result<((), Effects), StoreError> {
    let mut lately = Lately::default();
    let leases_out = connection
        .prepare_cached(LEASES_OUT)?
        .query_map((now_ms, messages_max), Message::read)?
        .collect::<rusqlite::Result<Vec<_>>>()?;
    for held in leases_out {
        lately.runs_out(Lease {
            message_id: held.id.cast_unsigned(),
            epoch: held.epoch.cast_unsigned(),
        });
        let retry = Retry {
            ended_ms: held.due_ms,
            now_ms,
            delay_ms: None,
            error: LEASE_RAN_OUT,
            refund_attempt: false,
        };
        retry_later(connection, &held, &retry, &mut lately)?;
    }
    let delays_over = connection
        .prepare_cached(DELAYS_OVER)?
        .query_map((now_ms, messages_max), |row| row.try_into())?
        .collect::<rusqlite::Result<Vec<(i64, i64)>>>()?;
    for (id, queue_id) in delays_over {
        connection.prepare_cached(PROMOTE)?.execute([id])?;
        lately.moves(queue_id, id, MessageState::Delayed, MessageState::Ready);
    }
    dead::forget(connection, now_ms, messages_max, &mut lately)?;
    Ok(((), lately.finish(connection)?))
}

/// When the next lease runs out, the next delay is over, or the next dead message has been kept long enough; never: the
/// end of time.
pub(in crate::store) fn next_due_ms(connection: &Connection) -> Result<i64, StoreError> {
    let mut next_ms = dead::first_past_ms(connection)?.unwrap_or(i64::MAX);
    for first in [FIRST_LEASE_OUT, FIRST_DELAY_OVER] {
        let due_ms: Option<i64> = connection
            .prepare_cached(first)?
            .query_row([i64::MIN], |row| row.get(0))
            .optional()?;
        next_ms = next_ms.min(due_ms.unwrap_or(i64::MAX));
    }
    Ok(next_ms)
}
