//! Get, BatchGet and Scan.

use proto::limits::{BATCH_GET_KEYS_MAX, KEY_BYTES_MAX, SCAN_ROWS_DEFAULT, SCAN_ROWS_MAX};
use proto::v1;
use proto::v1::selector::Keys;

use super::{count, entry_content, key, namespace, timestamp, with};
use crate::error::StoreError;
use crate::model::{Dereference, Entry, KeyName, Namespace, Scan, ScanPage, Selection, With};
use crate::receipt::Seals;

pub(in crate::rpc) fn get(request: v1::GetRequest) -> Result<(KeyName, With), StoreError> {
    let name = KeyName {
        namespace: namespace(request.namespace, "namespace")?,
        key: key(request.key, "key")?,
    };
    Ok((name, with(request.omit_value)))
}

pub(in crate::rpc) fn batch_get(request: v1::BatchGetRequest) -> Result<(Vec<KeyName>, With), StoreError> {
    count(request.keys.len(), 1, BATCH_GET_KEYS_MAX, "keys")?;
    let names = request.keys.into_iter().enumerate().map(|(index, name)| {
        Ok(KeyName {
            namespace: namespace(name.namespace, format!("keys[{index}].namespace"))?,
            key: key(name.key, format!("keys[{index}].key"))?,
        })
    });
    Ok((names.collect::<Result<_, StoreError>>()?, with(request.omit_values)))
}

/// A scan with what only its answer's form depends on.
pub(in crate::rpc) struct ScanCall {
    pub(in crate::rpc) scan: Scan,
    pub(in crate::rpc) as_bytes: bool,
}

pub(in crate::rpc) fn scan(request: v1::ScanRequest, seals: &Seals) -> Result<ScanCall, StoreError> {
    let selector = request
        .selector
        .ok_or_else(|| StoreError::invalid("selector", "must be set"))?;
    let rows_max = match usize::try_from(request.page_size) {
        Ok(0) => SCAN_ROWS_DEFAULT,
        Ok(rows) if rows <= SCAN_ROWS_MAX => rows,
        _ => {
            return Err(StoreError::invalid(
                "page_size",
                format!("must be 0 to {SCAN_ROWS_MAX}"),
            ));
        }
    };
    let dereference = match request.dereference {
        Some(dereference) => Some(Dereference {
            target: namespace(dereference.target_namespace, "dereference.target_namespace")?,
            skip_dangling: dereference.skip_dangling,
        }),
        None => None,
    };
    let (namespace, selection) = self::selector(selector, "selector")?;
    let mut scan = Scan {
        namespace,
        selection,
        reverse: request.reverse,
        rows_max,
        after: None,
        with: with(request.omit_values),
        dereference,
    };
    if !request.page_token.is_empty() {
        let after = seals.page_start(&scan, request.as_bytes, &request.page_token);
        let rule = || {
            StoreError::invalid(
                "page_token",
                "must be that of the page before, of this store and this scan",
            )
        };
        scan.after = Some(after.ok_or_else(rule)?);
    }
    Ok(ScanCall {
        scan,
        as_bytes: request.as_bytes,
    })
}

/// Some keys of one namespace.
pub(super) fn selector(wire: v1::Selector, field: &str) -> Result<(Namespace, Selection), StoreError> {
    let selection = match wire.keys {
        None => Selection::Prefix(String::new()),
        Some(Keys::Prefix(prefix)) => Selection::Prefix(bound(prefix, format!("{field}.prefix"))?),
        Some(Keys::Range(range)) => Selection::Range {
            start: bound(range.start, format!("{field}.range.start"))?,
            end: bound(range.end, format!("{field}.range.end"))?,
        },
    };
    Ok((namespace(wire.namespace, format!("{field}.namespace"))?, selection))
}

/// The start of keys: as long as a key, but it may be empty.
pub(super) fn bound(text: String, field: impl Into<String>) -> Result<String, StoreError> {
    if text.len() > KEY_BYTES_MAX || text.contains('\0') {
        return Err(StoreError::invalid(
            field,
            format!("must be at most {KEY_BYTES_MAX} bytes without NUL"),
        ));
    }
    Ok(text)
}

pub(in crate::rpc) fn scan_page(
    page: ScanPage,
    store_revision: u64,
    call: &ScanCall,
    seals: &Seals,
) -> v1::ScanResponse {
    let rows = page.rows.into_iter().map(|row| v1::ScanRow {
        entry: Some(entry(row.entry, call.as_bytes)),
        target: row.target.map(|target| entry(target, call.as_bytes)),
    });
    v1::ScanResponse {
        rows: rows.collect(),
        next_page_token: page
            .last
            .map(|last| seals.page_token(&call.scan, call.as_bytes, &last))
            .unwrap_or_default(),
        store_revision,
    }
}

pub(in crate::rpc) fn entry(entry: Entry, as_bytes: bool) -> v1::Entry {
    v1::Entry {
        namespace: entry.name.namespace.as_str().to_owned(),
        key: entry.name.key.as_str().to_owned(),
        content: entry.content.map(|content| entry_content(content, as_bytes)),
        revision: entry.revision,
        create_revision: entry.create_revision,
        version: entry.version,
        update_time: Some(timestamp(entry.update_ms)),
        expire_time: entry.expire_ms.map(timestamp),
        metadata: entry.metadata.into_iter().collect(),
    }
}
