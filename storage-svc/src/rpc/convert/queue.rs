//! Receive, Settle and GetQueueStats.

use std::time::Duration;

use proto::limits::{
    COMMIT_SETTLEMENTS_MAX, ERROR_TEXT_BYTES_MAX, LEASE_MAX, LEASE_MIN, RECEIVE_MESSAGES_MAX, RECEIVE_WAIT_MAX,
};
use proto::v1;
use proto::v1::settlement::Action as WireAction;
use proto::v1::settlement_result::Status;

use super::{count, duration, queue_name, span_ms, timestamp};
use crate::error::StoreError;
use crate::model::{Action, Content, Delivery, QueueName, QueueStats, Receive, Settled, Settlement};
use crate::receipt::Seals;

pub(in crate::rpc) fn receive(request: v1::ReceiveRequest) -> Result<Receive, StoreError> {
    let messages_max = match usize::try_from(request.max_messages) {
        Ok(0) => 1,
        Ok(messages) if messages <= RECEIVE_MESSAGES_MAX => messages,
        _ => {
            let rule = format!("must be 0 to {RECEIVE_MESSAGES_MAX}");
            return Err(StoreError::invalid("max_messages", rule));
        }
    };
    let wait_ms = match request.wait {
        Some(wait) => span_ms(wait, Duration::ZERO, RECEIVE_WAIT_MAX, "wait")?,
        None => 0,
    };
    let lease_ms = match request.lease {
        Some(lease) => Some(span_ms(lease, LEASE_MIN, LEASE_MAX, "lease")?),
        None => None,
    };
    Ok(Receive {
        queue: queue_name(request.queue, "queue")?,
        messages_max,
        wait: Duration::from_millis(wait_ms.cast_unsigned()),
        lease_ms,
    })
}

pub(in crate::rpc) fn settlements(wire: Vec<v1::Settlement>, seals: &Seals) -> Result<Vec<Settlement>, StoreError> {
    wire.into_iter()
        .enumerate()
        .map(|(index, settlement)| settlement_of(settlement, index, seals))
        .collect()
}

fn settlement_of(wire: v1::Settlement, index: usize, seals: &Seals) -> Result<Settlement, StoreError> {
    let field = |name: &str| format!("settlements[{index}].{name}");
    let lease = seals
        .lease(&wire.receipt)
        .ok_or_else(|| StoreError::invalid(field("receipt"), "must be a receipt of this store"))?;
    let action = match wire.action {
        Some(WireAction::Ack(_)) => Action::Ack,
        Some(WireAction::Nack(nack)) => Action::Nack {
            delay_ms: match nack.delay {
                Some(delay) => Some(span_ms(delay, Duration::ZERO, LEASE_MAX, &field("nack.delay"))?),
                None => None,
            },
            error: cut(nack.error),
            refund_attempt: nack.refund_attempt,
        },
        Some(WireAction::Extend(extend)) => {
            let lease = extend
                .lease
                .ok_or_else(|| StoreError::invalid(field("extend.lease"), "must be set"))?;
            Action::Extend {
                lease_ms: span_ms(lease, LEASE_MIN, LEASE_MAX, &field("extend.lease"))?,
            }
        }
        Some(WireAction::Dead(dead)) => Action::Dead {
            reason: cut(dead.reason),
        },
        None => return Err(StoreError::invalid(field("action"), "must be set")),
    };
    Ok(Settlement { lease, action })
}

/// As much of a text as is kept, cut between characters.
fn cut(mut text: String) -> String {
    text.truncate(text.floor_char_boundary(ERROR_TEXT_BYTES_MAX));
    text
}

/// The settlements of a Settle call.
pub(in crate::rpc) fn settle(request: v1::SettleRequest, seals: &Seals) -> Result<Vec<Settlement>, StoreError> {
    count(request.settlements.len(), 1, COMMIT_SETTLEMENTS_MAX, "settlements")?;
    settlements(request.settlements, seals)
}

pub(in crate::rpc) fn settled(settled: Settled) -> v1::SettlementResult {
    let (status, lease_expire_ms) = match settled {
        Settled::Done { lease_expire_ms } => (Status::Ok, lease_expire_ms),
        Settled::Stale => (Status::Stale, None),
        Settled::Gone => (Status::Gone, None),
    };
    v1::SettlementResult {
        status: status.into(),
        lease_expire_time: lease_expire_ms.map(timestamp),
    }
}

pub(in crate::rpc) fn delivery(delivery: Delivery, queue: &QueueName, seals: &Seals) -> v1::Delivery {
    let content = match delivery.body {
        Content::Bytes(bytes) => v1::message::Content::Body(bytes),
        Content::Text(text) => v1::message::Content::Text(text),
    };
    v1::Delivery {
        receipt: seals.receipt(delivery.lease),
        lease_expire_time: Some(timestamp(delivery.lease_expire_ms)),
        message: Some(v1::Message {
            id: delivery.lease.message_id,
            queue: queue.as_str().to_owned(),
            content: Some(content),
            attributes: delivery.attributes.into_iter().collect(),
            ordering_key: delivery.ordering_key,
            dedup_id: delivery.dedup_id,
            attempt: delivery.attempt,
            redrives: delivery.redrives,
            enqueue_time: Some(timestamp(delivery.enqueue_ms)),
            due_time: Some(timestamp(delivery.lease_expire_ms)),
            state: v1::MessageState::Leased.into(),
            last_error: delivery.last_error,
            ..Default::default()
        }),
    }
}

pub(in crate::rpc) fn stats(stats: QueueStats) -> v1::QueueStats {
    v1::QueueStats {
        ready: stats.ready,
        delayed: stats.delayed,
        leased: stats.leased,
        dead: stats.dead,
        oldest_ready_age: stats.oldest_ready_ms.map(duration),
        blocked: stats.blocked,
    }
}

pub(in crate::rpc) fn queue(request: v1::GetQueueStatsRequest) -> Result<QueueName, StoreError> {
    queue_name(request.queue, "queue")
}
