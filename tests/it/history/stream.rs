//! What storage went through, as a watch tells it.

use proto::client::StorageClient;
use proto::client::watch::Update;
use proto::v1;
use proto::v1::watch_event::Kind;
use serde_json::Value;

use super::check::{Commit, Pending};

/// Namespaces and prefixes of what is told.
const WATCHED: [(&str, &str); 5] = [
    ("playlists", "id/"),
    ("channels", "id/"),
    ("pending", "playlist/"),
    ("pending", "channel/"),
    ("operations", ""),
];

/// Every commit from the first to now, in order.
pub(super) async fn commits(storage: &StorageClient) -> Vec<Commit> {
    let selectors = WATCHED.map(|(namespace, prefix)| v1::Selector {
        namespace: namespace.to_owned(),
        keys: Some(v1::selector::Keys::Prefix(prefix.to_owned())),
    });
    let mut watch = storage.watch(v1::WatchRequest {
        selectors: selectors.into(),
        after_revision: Some(0),
        ..Default::default()
    });
    let mut commits: Vec<Commit> = Vec::new();
    loop {
        match watch.next().await.expect("it can be watched") {
            Update::Began { .. } => {}
            Update::Changed(batch) => {
                // What is cut into pieces is one commit.
                if commits.last().is_none_or(|last| last.revision != batch.revision) {
                    commits.push(Commit {
                        revision: batch.revision,
                        ..Commit::default()
                    });
                }
                let commit = commits.last_mut().expect("there is one");
                for event in batch.events {
                    add(commit, event);
                }
            }
            Update::CaughtUp { .. } => return commits,
            other => panic!("nothing disturbs this watch: {other:?}"),
        }
    }
}

fn add(commit: &mut Commit, event: v1::WatchEvent) {
    let kind = event.kind();
    let entry = event.entry.expect("an event has an entry");
    let text = match kind {
        Kind::Put => Some(entry.text().expect("documents are text").to_owned()),
        Kind::Delete => None,
        Kind::Expire | Kind::Unspecified => panic!("nothing of this expires so soon: {entry:?}"),
    };
    match entry.namespace.as_str() {
        "pending" => {
            let meta = |name: &str| entry.metadata.get(name).cloned().unwrap_or_default();
            let pending = text.map(|text| Pending {
                operation: meta("operation"),
                text: (meta("change") == "put").then_some(text),
            });
            commit.pending.insert(entry.key, pending);
        }
        "operations" => {
            let record: Value = serde_json::from_str(&text.expect("records are kept")).expect("a record is JSON");
            let state = record["state"].as_str().expect("a record has a state").to_owned();
            commit.operations.insert(entry.key, state);
        }
        namespace => {
            let id = entry.key.trim_start_matches("id/");
            commit
                .documents
                .insert(format!("{}/{id}", namespace.trim_end_matches('s')), text);
        }
    }
}
