//! Watch and ScanStream.

use std::time::Duration;

use proto::limits::{WATCH_PROGRESS_DEFAULT, WATCH_PROGRESS_MAX, WATCH_PROGRESS_MIN, WATCH_SELECTORS_MAX};
use proto::v1;
use proto::v1::watch_event::Kind;
use proto::v1::watch_response::{Batch, Body, Head, Progress};

use super::read::{ScanCall, entry, scan, scan_page, selector};
use super::{count, span_ms, timestamp, with};
use crate::error::StoreError;
use crate::model::{ChangeBatch, Event, ScanPage, Selector, Snapshot, StoreInfo, Told, Watch};
use crate::receipt::Seals;

pub(in crate::rpc) fn watch(request: v1::WatchRequest) -> Result<Watch, StoreError> {
    count(request.selectors.len(), 1, WATCH_SELECTORS_MAX, "selectors")?;
    let selectors = request.selectors.into_iter().enumerate().map(|(index, wire)| {
        let (namespace, selection) = selector(wire, &format!("selectors[{index}]"))?;
        Ok(Selector { namespace, selection })
    });
    let progress_interval = match request.progress_interval {
        None => WATCH_PROGRESS_DEFAULT,
        Some(interval) => {
            let ms = span_ms(interval, WATCH_PROGRESS_MIN, WATCH_PROGRESS_MAX, "progress_interval")?;
            Duration::from_millis(ms.unsigned_abs())
        }
    };
    Ok(Watch {
        selectors: selectors.collect::<Result<_, StoreError>>()?,
        after_revision: request.after_revision,
        with: with(request.omit_values),
        progress_interval,
    })
}

pub(in crate::rpc) fn told(told: Told, info: &StoreInfo, as_bytes: bool) -> v1::WatchResponse {
    let body = match told {
        Told::Head {
            store_revision,
            oldest_revision,
        } => Body::Head(Head {
            store_id: info.store_id.clone(),
            incarnation: info.incarnation.clone(),
            store_revision,
            oldest_revision,
        }),
        Told::Changes(batch) => Body::Batch(wire_batch(batch, as_bytes)),
        Told::Progress(revision) => Body::Progress(Progress { revision }),
    };
    v1::WatchResponse { body: Some(body) }
}

fn wire_batch(batch: ChangeBatch, as_bytes: bool) -> Batch {
    let events = batch.events.into_iter().map(|(event, changed)| {
        let kind = match event {
            Event::Put => Kind::Put,
            Event::Delete => Kind::Delete,
            Event::Expire => Kind::Expire,
        };
        v1::WatchEvent {
            kind: kind.into(),
            entry: Some(entry(changed, as_bytes)),
        }
    });
    Batch {
        revision: batch.revision,
        events: events.collect(),
        more: batch.more,
        commit_time: Some(timestamp(batch.commit_ms)),
    }
}

pub(in crate::rpc) fn scan_stream(request: v1::ScanStreamRequest, seals: &Seals) -> Result<ScanCall, StoreError> {
    let request = request.scan.ok_or_else(|| StoreError::invalid("scan", "must be set"))?;
    scan(request, seals).map_err(|error| error.within("scan"))
}

pub(in crate::rpc) fn scan_stream_page(
    page: Snapshot<ScanPage>,
    call: &ScanCall,
    seals: &Seals,
) -> v1::ScanStreamResponse {
    let page = scan_page(page.found, page.store_revision, call, seals);
    v1::ScanStreamResponse {
        rows: page.rows,
        resume_token: page.next_page_token,
        store_revision: page.store_revision,
    }
}
