//! What an operator asks and is told, as messages.

use std::time::Duration;

use bytes::Bytes;
use proto::limits::HISTORY_SPAN_MAX;
use proto::v1;
use proto::v1::{backup_response, integrity_check_response};

use super::span_ms;
use crate::error::StoreError;
use crate::model::{BackupHeader, BackupPart, CheckReport, StoreStats};

/// Figures, with those that the store does not know.
pub(crate) fn store_stats(stats: &StoreStats, watches: u64, consumers: u64) -> v1::GetStoreStatsResponse {
    v1::GetStoreStatsResponse {
        file_bytes: stats.file_bytes,
        wal_bytes: stats.wal_bytes,
        page_bytes: stats.page_bytes,
        pages: stats.pages,
        free_pages: stats.free_pages,
        history_changes: stats.history_changes,
        history_bytes: stats.history_bytes,
        queues: stats.queues,
        namespaces: stats.namespaces,
        commits: stats.commits,
        requests: stats.requests,
        writes_waiting: stats.writes_waiting,
        watches,
        consumers,
        uptime: prost_types::Duration::try_from(stats.uptime).ok(),
    }
}

/// How old the history is that is kept.
pub(crate) fn compact_keep(request: &v1::CompactRequest) -> Result<Duration, StoreError> {
    let keep = request.keep.unwrap_or_default();
    let keep_ms = span_ms(keep, Duration::ZERO, HISTORY_SPAN_MAX, "keep")?;
    Ok(Duration::from_millis(keep_ms.unsigned_abs()))
}

/// A part of a backup.
pub(crate) fn backup_part(part: BackupPart) -> v1::BackupResponse {
    let body = match part {
        BackupPart::Header(header) => {
            let BackupHeader {
                store_revision,
                total_bytes,
                schema_version,
                store_id,
            } = header;
            backup_response::Body::Header(backup_response::Header {
                store_revision,
                total_bytes,
                schema_version,
                store_id,
            })
        }
        BackupPart::Chunk(chunk) => backup_response::Body::Chunk(chunk),
        BackupPart::Trailer { sha256 } => backup_response::Body::Trailer(backup_response::Trailer {
            sha256: Bytes::copy_from_slice(&sha256),
        }),
    };
    v1::BackupResponse { body: Some(body) }
}

/// A word of an integrity check.
pub(crate) fn check_report(report: CheckReport) -> v1::IntegrityCheckResponse {
    let body = match report {
        CheckReport::Progress { step, steps, subject } => {
            integrity_check_response::Body::Progress(integrity_check_response::Progress { step, steps, subject })
        }
        CheckReport::Problem(problem) => integrity_check_response::Body::Problem(problem),
        CheckReport::Finished { problems } => {
            integrity_check_response::Body::Finished(integrity_check_response::Finished {
                ok: problems == 0,
                problems,
            })
        }
    };
    v1::IntegrityCheckResponse { body: Some(body) }
}
