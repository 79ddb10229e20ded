//! What becomes of leased messages: acked, tried again later, buried, given back.

use rusqlite::Connection;

use super::dead::{ATTEMPTS_EXHAUSTED, bury};
use super::lately::Lately;
use super::message::{Message, find};
use super::settings::{backoff_ms, of_message};
use super::{failure, order};
use crate::error::StoreError;
use crate::model::{Action, Lease, MessageState, Settled, Settlement};
use crate::store::effects::Effects;

const EXTEND: &str = "update message set due_ms = ? where id = ?";
const WAIT: &str = "update message set state = ?, due_ms = ?, attempt = ?, last_error = ? where id = ?";
const RETURN: &str = "update message set state = ?, due_ms = ?, attempt = attempt - 1 where id = ?";

#[cfg(test)]
pub(super) const STATEMENTS: [&str; 3] = [EXTEND, WAIT, RETURN];

/// The message, if the lease still holds; else how it was lost.
pub(in crate::store) fn judge(
    connection: &Connection,
    now_ms: i64,
    lease: Lease,
) -> Result<Result<Message, Settled>, StoreError> {
    let Some(message) = find(connection, lease.message_id.cast_signed())? else {
        return Ok(Err(Settled::Gone));
    };
    let is_held = message.state == MessageState::Leased
        && message.epoch.cast_unsigned() == lease.epoch
        && message.due_ms > now_ms;
    Ok(if is_held { Ok(message) } else { Err(Settled::Stale) })
}

/// Settles messages, each for itself.
pub(in crate::store) fn settle_each(
    connection: &Connection,
    now_ms: i64,
    settlements: &[Settlement],
) -> Result<(Vec<Settled>, Effects), StoreError> {
    let mut lately = Lately::default();
    let mut results = Vec::with_capacity(settlements.len());
    for settlement in settlements {
        results.push(settle(connection, now_ms, settlement, &mut lately)?);
    }
    Ok((results, lately.finish(connection)?))
}

/// Settles one message, if its lease still holds.
pub(in crate::store) fn settle(
    connection: &Connection,
    now_ms: i64,
    settlement: &Settlement,
    lately: &mut Lately,
) -> Result<Settled, StoreError> {
    let held = match judge(connection, now_ms, settlement.lease)? {
        Ok(held) => held,
        Err(lost) => return Ok(lost),
    };
    let mut lease_expire_ms = None;
    match &settlement.action {
        Action::Ack => held.remove(connection, now_ms, lately)?,
        Action::Nack {
            delay_ms,
            error,
            refund_attempt,
        } => {
            let retry = Retry {
                ended_ms: now_ms,
                now_ms,
                delay_ms: *delay_ms,
                error,
                refund_attempt: *refund_attempt,
            };
            retry_later(connection, &held, &retry, lately)?;
        }
        Action::Extend { lease_ms } => {
            let expire_ms = now_ms.saturating_add(*lease_ms);
            connection.prepare_cached(EXTEND)?.execute((expire_ms, held.id))?;
            lately.retimes();
            lease_expire_ms = Some(expire_ms);
        }
        Action::Dead { reason } => {
            failure::record(connection, &held, now_ms, reason)?;
            bury(connection, &held, (now_ms, now_ms), None, reason, lately)?;
        }
    }
    Ok(Settled::Done { lease_expire_ms })
}

/// How an attempt that failed is followed.
pub(super) struct Retry<'error> {
    /// When the attempt ended; the delay counts from here.
    pub(super) ended_ms: i64,
    pub(super) now_ms: i64,
    /// None: the queue's back-off.
    pub(super) delay_ms: Option<i64>,
    pub(super) error: &'error str,
    /// It was no attempt.
    pub(super) refund_attempt: bool,
}

/// A nack and a lease that ran out end alike: back to the queue after a delay, or dead after the last attempt.
pub(super) fn retry_later(
    connection: &Connection,
    held: &Message,
    retry: &Retry<'_>,
    lately: &mut Lately,
) -> Result<(), StoreError> {
    let settings = of_message(connection, held.queue_id)?.settings;
    if !retry.refund_attempt {
        failure::record(connection, held, retry.ended_ms, retry.error)?;
        if held.attempt >= i64::from(settings.attempts_max) {
            let times = (retry.now_ms, retry.ended_ms);
            return bury(connection, held, times, Some(retry.error), ATTEMPTS_EXHAUSTED, lately);
        }
    }
    let delay_ms = retry.delay_ms.unwrap_or_else(|| backoff_ms(&settings, held.attempt));
    let due_ms = retry.ended_ms.saturating_add(delay_ms);
    let key = held.ordering_key.as_deref();
    let state = order::on_return(connection, retry.now_ms, (held.queue_id, held.id), key, due_ms)?;
    let attempt = held.attempt - i64::from(retry.refund_attempt);
    connection
        .prepare_cached(WAIT)?
        .execute((state as i64, due_ms, attempt, retry.error, held.id))?;
    come_back(connection, retry.now_ms, held, state, lately)
}

/// Takes back messages that were leased for callers who went away before they were told: ready again at once, the
/// attempt not counted.
pub(in crate::store) fn give_back(
    connection: &Connection,
    now_ms: i64,
    leases: &[Lease],
) -> Result<((), Effects), StoreError> {
    let mut lately = Lately::default();
    for lease in leases {
        if let Ok(held) = judge(connection, now_ms, *lease)? {
            let key = held.ordering_key.as_deref();
            let state = order::on_return(connection, now_ms, (held.queue_id, held.id), key, now_ms)?;
            connection
                .prepare_cached(RETURN)?
                .execute((state as i64, now_ms, held.id))?;
            come_back(connection, now_ms, &held, state, &mut lately)?;
        }
    }
    Ok(((), lately.finish(connection)?))
}

/// Counts a message that is no longer leased; if it is blocked, the earlier one of its ordering key may go.
fn come_back(
    connection: &Connection,
    now_ms: i64,
    held: &Message,
    state: MessageState,
    lately: &mut Lately,
) -> Result<(), StoreError> {
    lately.moves(held.queue_id, held.id, MessageState::Leased, state);
    if state == MessageState::Blocked {
        order::advance(connection, now_ms, held.queue_id, held.ordering_key.as_deref(), lately)?;
    }
    Ok(())
}
