//! CreateQueue, UpdateQueue, ListQueues and DeleteQueue.

use std::time::Duration;

use proto::limits::{
    BACKOFF_JITTER_PERCENT_MAX, DEAD_RETENTION_MAX, DEDUP_WINDOW_MAX, LEASE_MAX, LEASE_MIN, QUEUE_ATTEMPTS_MAX,
    QUEUE_DEPTH_MAX,
};
use proto::v1;

use super::{duration, page_size, queue_name, span_ms, stats, timestamp};
use crate::error::StoreError;
use crate::model::{QueueChange, QueueInfo, QueueList, QueueName, QueuePage, QueueSettings};
use crate::receipt::Seals;

pub(in crate::rpc) fn create_queue(request: v1::CreateQueueRequest) -> Result<(QueueName, QueueSettings), StoreError> {
    let set = set(&request.settings.unwrap_or_default())?;
    let settings = set.apply(QueueSettings::default());
    if settings.backoff_max_ms < settings.backoff_min_ms {
        let rule = "must not be less than backoff.initial";
        return Err(StoreError::invalid("settings.backoff.max", rule));
    }
    Ok((queue_name(request.name, "name")?, settings))
}

pub(in crate::rpc) fn update_queue(request: v1::UpdateQueueRequest) -> Result<(QueueName, QueueChange), StoreError> {
    let set = set(&request.settings.unwrap_or_default())?;
    let paths = request.update_mask.unwrap_or_default().paths;
    let change = if paths.is_empty() { set } else { masked(&set, &paths)? };
    Ok((queue_name(request.name, "name")?, change))
}

/// The settings that a mask names; those among them that are unset are set to their defaults.
fn masked(set: &QueueChange, paths: &[String]) -> Result<QueueChange, StoreError> {
    let full = set.apply(QueueSettings::default());
    let mut change = QueueChange::default();
    for path in paths {
        match path.as_str() {
            "lease" => change.lease_ms = Some(full.lease_ms),
            "max_attempts" => change.attempts_max = Some(full.attempts_max),
            "backoff" => {
                change.backoff_min_ms = Some(full.backoff_min_ms);
                change.backoff_max_ms = Some(full.backoff_max_ms);
                change.backoff_jitter_percent = Some(full.backoff_jitter_percent);
            }
            "backoff.initial" => change.backoff_min_ms = Some(full.backoff_min_ms),
            "backoff.max" => change.backoff_max_ms = Some(full.backoff_max_ms),
            "backoff.jitter_percent" => change.backoff_jitter_percent = Some(full.backoff_jitter_percent),
            "dedup_window" => change.dedup_window_ms = Some(full.dedup_window_ms),
            "dead_retention" => change.dead_retention_ms = Some(full.dead_retention_ms),
            "max_depth" => change.depth_max = Some(full.depth_max),
            "paused" => change.paused = Some(full.paused),
            _ => {
                let rule = format!("must name settings: {path:?} is none");
                return Err(StoreError::invalid("update_mask", rule));
            }
        }
    }
    Ok(change)
}

/// The settings that are set.
fn set(wire: &v1::QueueSettings) -> Result<QueueChange, StoreError> {
    let backoff = wire.backoff.unwrap_or_default();
    Ok(QueueChange {
        lease_ms: span(wire.lease, LEASE_MIN, LEASE_MAX, "settings.lease")?,
        attempts_max: number(wire.max_attempts, 1, QUEUE_ATTEMPTS_MAX, "settings.max_attempts")?,
        backoff_min_ms: span(backoff.initial, Duration::ZERO, LEASE_MAX, "settings.backoff.initial")?,
        backoff_max_ms: span(backoff.max, Duration::ZERO, LEASE_MAX, "settings.backoff.max")?,
        backoff_jitter_percent: number(
            backoff.jitter_percent,
            0,
            BACKOFF_JITTER_PERCENT_MAX,
            "settings.backoff.jitter_percent",
        )?,
        dedup_window_ms: span(
            wire.dedup_window,
            Duration::ZERO,
            DEDUP_WINDOW_MAX,
            "settings.dedup_window",
        )?,
        dead_retention_ms: span(
            wire.dead_retention,
            Duration::ZERO,
            DEAD_RETENTION_MAX,
            "settings.dead_retention",
        )?,
        depth_max: number(wire.max_depth, 1, QUEUE_DEPTH_MAX, "settings.max_depth")?,
        paused: wire.paused,
    })
}

fn span(
    span: Option<prost_types::Duration>,
    least: Duration,
    most: Duration,
    field: &str,
) -> Result<Option<i64>, StoreError> {
    span.map(|span| span_ms(span, least, most, field)).transpose()
}

fn number<T: Copy + PartialOrd + std::fmt::Display>(
    number: Option<T>,
    least: T,
    most: T,
    field: &str,
) -> Result<Option<T>, StoreError> {
    match number {
        Some(number) if !(least..=most).contains(&number) => {
            Err(StoreError::invalid(field, format!("must be {least} to {most}")))
        }
        number => Ok(number),
    }
}

pub(in crate::rpc) fn list_queues(request: &v1::ListQueuesRequest, seals: &Seals) -> Result<QueueList, StoreError> {
    let rule = "must be that of the page before, of this store";
    let after = match request.page_token.as_str() {
        "" => None,
        token => Some(
            seals
                .queue_start(token)
                .ok_or_else(|| StoreError::invalid("page_token", rule))?,
        ),
    };
    Ok(QueueList {
        rows_max: page_size(request.page_size)?,
        after,
    })
}

pub(in crate::rpc) fn queue_page(page: &QueuePage, seals: &Seals) -> v1::ListQueuesResponse {
    let last = page.queues.last().filter(|_| page.more);
    v1::ListQueuesResponse {
        next_page_token: last.map(|last| seals.queue_token(&last.name)).unwrap_or_default(),
        queues: page.queues.iter().map(queue_info).collect(),
    }
}

pub(in crate::rpc) fn delete_queue(request: v1::DeleteQueueRequest) -> Result<(QueueName, bool), StoreError> {
    Ok((queue_name(request.name, "name")?, request.force))
}

pub(in crate::rpc) fn queue_info(info: &QueueInfo) -> v1::Queue {
    v1::Queue {
        name: info.name.as_str().to_owned(),
        settings: Some(settings(&info.settings)),
        stats: Some(stats(info.stats)),
        create_time: (info.create_ms > 0).then(|| timestamp(info.create_ms)),
    }
}

fn settings(settings: &QueueSettings) -> v1::QueueSettings {
    v1::QueueSettings {
        lease: Some(duration(settings.lease_ms)),
        max_attempts: Some(settings.attempts_max),
        backoff: Some(v1::BackoffPolicy {
            initial: Some(duration(settings.backoff_min_ms)),
            max: Some(duration(settings.backoff_max_ms)),
            jitter_percent: Some(settings.backoff_jitter_percent),
        }),
        dedup_window: Some(duration(settings.dedup_window_ms)),
        dead_retention: Some(duration(settings.dead_retention_ms)),
        max_depth: Some(settings.depth_max),
        paused: Some(settings.paused),
    }
}
