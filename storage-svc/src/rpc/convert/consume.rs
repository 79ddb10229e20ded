//! Consume.

use proto::limits::{LEASE_MAX, LEASE_MIN, WINDOW_BYTES_MAX, WINDOW_MESSAGES_MAX};
use proto::v1;
use proto::v1::consume_request::{Body, Open};
use proto::v1::consume_response;

use super::{duration, queue_name, settle, span_ms};
use crate::error::StoreError;
use crate::model::{Consume, Settlement};
use crate::receipt::Seals;

/// What the client of an open stream wants.
pub(in crate::rpc) enum Wish {
    Settle(Vec<Settlement>),
    Drain,
}

/// The first request, if there is one.
pub(in crate::rpc) fn open(request: Option<v1::ConsumeRequest>) -> Result<Consume, StoreError> {
    let Some(Body::Open(open)) = request.and_then(|request| request.body) else {
        return Err(StoreError::invalid("open", "must be the first request"));
    };
    let Open {
        queue,
        max_outstanding_messages,
        max_outstanding_bytes,
        lease,
    } = open;
    let messages_max = match usize::try_from(max_outstanding_messages) {
        Ok(0) => 1,
        Ok(messages) if messages <= WINDOW_MESSAGES_MAX => messages,
        _ => {
            let rule = format!("must be 0 to {WINDOW_MESSAGES_MAX}");
            return Err(StoreError::invalid("open.max_outstanding_messages", rule));
        }
    };
    let bytes_max = match max_outstanding_bytes {
        0 => WINDOW_BYTES_MAX,
        bytes if bytes <= WINDOW_BYTES_MAX => bytes,
        _ => {
            let rule = format!("must be 0 to {WINDOW_BYTES_MAX}");
            return Err(StoreError::invalid("open.max_outstanding_bytes", rule));
        }
    };
    let lease_ms = match lease {
        Some(lease) => Some(span_ms(lease, LEASE_MIN, LEASE_MAX, "open.lease")?),
        None => None,
    };
    Ok(Consume {
        queue: queue_name(queue, "open.queue")?,
        messages_max,
        bytes_max: usize::try_from(bytes_max).unwrap_or(usize::MAX),
        lease_ms,
    })
}

/// Any request after the first.
pub(in crate::rpc) fn wish(request: v1::ConsumeRequest, seals: &Seals) -> Result<Wish, StoreError> {
    match request.body {
        Some(Body::Settle(request)) => match settle(request, seals) {
            Ok(settlements) => Ok(Wish::Settle(settlements)),
            Err(StoreError::Invalid { field, rule }) => Err(StoreError::invalid(format!("settle.{field}"), rule)),
            Err(error) => Err(error),
        },
        Some(Body::Drain(_)) => Ok(Wish::Drain),
        Some(Body::Open(_)) => Err(StoreError::invalid("open", "must be the first request, and only that")),
        None => Err(StoreError::invalid("body", "must be set")),
    }
}

pub(in crate::rpc) fn opened(lease_ms: i64) -> v1::ConsumeResponse {
    let lease = Some(duration(lease_ms));
    response(consume_response::Body::Opened(consume_response::Opened { lease }))
}

pub(in crate::rpc) fn deliveries(deliveries: Vec<v1::Delivery>) -> v1::ConsumeResponse {
    let deliveries = consume_response::Deliveries { deliveries };
    response(consume_response::Body::Deliveries(deliveries))
}

pub(in crate::rpc) fn settled_on_stream(results: Vec<v1::SettlementResult>) -> v1::ConsumeResponse {
    response(consume_response::Body::Settled(v1::SettleResponse { results }))
}

pub(in crate::rpc) fn heartbeat() -> v1::ConsumeResponse {
    response(consume_response::Body::Heartbeat(consume_response::Heartbeat {}))
}

pub(in crate::rpc) fn draining(grace_ms: i64) -> v1::ConsumeResponse {
    let grace = Some(duration(grace_ms));
    response(consume_response::Body::Draining(consume_response::Draining { grace }))
}

fn response(body: consume_response::Body) -> v1::ConsumeResponse {
    v1::ConsumeResponse { body: Some(body) }
}
