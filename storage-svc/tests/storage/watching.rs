//! Watches as the tests begin and read them.

use std::collections::HashMap;
use std::time::Duration;

use proto::limits::WATCH_PROGRESS_MIN;
use proto::v1;
use proto::v1::kv_service_client::KvServiceClient;
use proto::v1::selector::Keys;
use proto::v1::watch_event::Kind;
use proto::v1::watch_response::{Batch, Body, Head};
use rusqlite::Connection;
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};
use tonic_types::StatusExt as _;

use crate::support::{Service, put, seconds, within};

pub(crate) fn selector(namespace: &str, keys: Option<Keys>) -> v1::Selector {
    v1::Selector {
        namespace: namespace.to_owned(),
        keys,
    }
}

pub(crate) fn prefix(namespace: &str, prefix: &str) -> v1::Selector {
    selector(namespace, Some(Keys::Prefix(prefix.to_owned())))
}

pub(crate) fn range(namespace: &str, start: &str, end: &str) -> v1::Selector {
    let (start, end) = (start.to_owned(), end.to_owned());
    selector(namespace, Some(Keys::Range(v1::KeyRange { start, end })))
}

/// All of a namespace, with marks as often as can be.
pub(crate) fn all(after_revision: impl Into<Option<u64>>) -> v1::WatchRequest {
    v1::WatchRequest {
        selectors: vec![selector("n", None)],
        after_revision: after_revision.into(),
        progress_interval: prost_types::Duration::try_from(WATCH_PROGRESS_MIN).ok(),
        ..Default::default()
    }
}

pub(crate) fn deletion(key: &str) -> v1::DeleteRequest {
    v1::DeleteRequest {
        namespace: "n".to_owned(),
        key: key.to_owned(),
        ..Default::default()
    }
}

pub(crate) fn expiring(key: &str, text: &str) -> v1::PutRequest {
    v1::PutRequest {
        expiry: Some(v1::put_request::Expiry::Ttl(seconds(1))),
        ..put(key, text)
    }
}

/// A watch that has been begun.
pub(crate) struct Watching {
    pub(crate) head: Head,
    stream: Streaming<v1::WatchResponse>,
}

impl Watching {
    pub(crate) async fn begin(kv: &mut KvServiceClient<Channel>, request: v1::WatchRequest) -> Result<Self, Status> {
        let mut stream = within(kv.watch(request)).await?.into_inner();
        let first = within(stream.message()).await?.expect("there is a head");
        let Some(Body::Head(head)) = first.body else {
            panic!("a head: {first:?}")
        };
        Ok(Self { head, stream })
    }

    pub(crate) async fn next(&mut self) -> Result<Body, Status> {
        let message = within(self.stream.message()).await?;
        let message = message.expect("a watch does not end without a word");
        Ok(message.body.expect("a message says something"))
    }

    /// Batches up to the next mark, and its revision.
    pub(crate) async fn until_mark(&mut self) -> (Vec<Batch>, u64) {
        let mut batches = Vec::new();
        loop {
            match self.next().await.expect("the watch goes on") {
                Body::Head(head) => panic!("a second head: {head:?}"),
                Body::Batch(batch) => batches.push(batch),
                Body::Progress(mark) => return (batches, mark.revision),
            }
        }
    }

    /// The next batch, whatever marks come before it.
    pub(crate) async fn batch(&mut self) -> Batch {
        let batch = async {
            loop {
                match self.next().await.expect("the watch goes on") {
                    Body::Batch(batch) => return batch,
                    Body::Progress(_) => {}
                    Body::Head(head) => panic!("a second head: {head:?}"),
                }
            }
        };
        within(batch).await
    }

    /// Reads on until it ends; the revisions of the whole batches on the way.
    pub(crate) async fn until_end(&mut self) -> (Vec<u64>, Status) {
        let mut revisions = Vec::new();
        let end = async {
            loop {
                match self.next().await {
                    Ok(Body::Batch(batch)) if !batch.more => revisions.push(batch.revision),
                    Ok(_) => {}
                    Err(status) => return status,
                }
            }
        };
        let status = within(end).await;
        (revisions, status)
    }
}

/// Revision, kind, key and text of each event.
pub(crate) fn told(batches: &[Batch]) -> Vec<(u64, Kind, &str, Option<&str>)> {
    let told = batches.iter().flat_map(|batch| {
        batch.events.iter().map(|event| {
            let entry = event.entry.as_ref().expect("an event names its key");
            assert_eq!(entry.revision, batch.revision);
            (batch.revision, event.kind(), entry.key.as_str(), entry.text())
        })
    });
    told.collect()
}

#[track_caller]
pub(crate) fn reason(status: &Status, code: Code, reason: &str) -> HashMap<String, String> {
    assert_eq!(status.code(), code, "{status:?}");
    let info = status.get_details_error_info().expect("it says why");
    assert_eq!((info.reason.as_str(), info.domain.as_str()), (reason, "storage.dp1"));
    info.metadata
}

pub(crate) fn metadata<const N: usize>(numbers: [(&str, u64); N]) -> HashMap<String, String> {
    numbers
        .map(|(name, number)| (name.to_owned(), number.to_string()))
        .into()
}

pub(crate) async fn oldest(service: &mut Service) -> u64 {
    let info = service.admin.get_server_info(v1::GetServerInfoRequest {}).await;
    info.expect("it answers").into_inner().oldest_watch_revision
}

pub(crate) fn rows(service: &Service, table: &str) -> i64 {
    let file = Connection::open(service.path()).expect("the file opens");
    file.busy_timeout(Duration::from_secs(5)).expect("it is set");
    file.query_row(&format!("select count(*) from {table}"), (), |row| row.get(0))
        .expect("it counts")
}
