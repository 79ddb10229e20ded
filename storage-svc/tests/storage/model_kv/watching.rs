//! What watches must tell of a case, gone back over or followed live.

use std::collections::BTreeMap;

use proto::v1;
use proto::v1::watch_event::Kind;
use proto::v1::watch_response::{Batch, Body};
use tonic::{Code, Status, Streaming};
use tonic_types::StatusExt as _;

use super::entries::{Event, Name, expire_ms, selects, shown, timestamp};
use super::steps::View;
use super::{Case, World};

/// How long changes are kept for watches.
const HISTORY_MS: i64 = 3_600_000;
/// Nothing is left out.
const WHOLE: View = View {
    omit_values: false,
    as_bytes: false,
};

/// A watch of some keys of a case, and the keys as it tells them.
pub(super) struct Follower {
    stream: Streaming<v1::WatchResponse>,
    selectors: Vec<v1::Selector>,
    view: View,
    /// The last revision that it told, or was asked to begin after.
    revision: u64,
    entries: BTreeMap<Name, v1::Entry>,
}

impl World {
    /// Watches both namespaces of the case from now on.
    pub(super) async fn follow(&mut self, case: &Case) -> Follower {
        let selectors = (0..2).map(|number| v1::Selector {
            namespace: case.namespace(number),
            keys: None,
        });
        let watch = self.watch(case, selectors.collect(), self.revision, WHOLE).await;
        watch.expect("the watch begins").1
    }

    /// Watches from a revision until the present, and compares what was told with what happened.
    pub(super) async fn replay(&mut self, case: &mut Case, selectors: Vec<v1::Selector>, after: u64, view: View) {
        match self.watch(case, selectors, after, view).await {
            Ok((revision, mut follower)) => {
                self.saw(revision, 0);
                while follower.revision < revision {
                    follower.next(case).await;
                }
                follower.compare(case, revision, self.now_ms);
            }
            Err(status) => self.expect_gone(case, &status, after),
        }
        let ahead = self.revision + self.expired + 1;
        let watch = self
            .watch(
                case,
                vec![v1::Selector {
                    namespace: case.namespace(0),
                    keys: None,
                }],
                ahead,
                view,
            )
            .await;
        let refused = watch.err().expect("it is not there yet");
        assert_eq!(refused.code(), Code::OutOfRange);
        assert_eq!(reason(&refused), "REVISION_AHEAD");
    }

    /// Begins a watch: the store's revision at its head, and the follower.
    async fn watch(
        &mut self,
        case: &Case,
        selectors: Vec<v1::Selector>,
        after: u64,
        view: View,
    ) -> Result<(u64, Follower), Status> {
        let request = v1::WatchRequest {
            selectors: selectors.clone(),
            after_revision: Some(after),
            omit_values: view.omit_values,
            progress_interval: None,
            as_bytes: view.as_bytes,
        };
        let mut stream = self.service().kv.watch(request).await?.into_inner();
        let head = stream.message().await?.and_then(|first| first.body);
        let Some(Body::Head(head)) = head else {
            panic!("the first message is {head:?}");
        };
        assert!(
            head.oldest_revision <= after && after <= head.store_revision,
            "{head:?}"
        );
        let mut follower = Follower {
            stream,
            selectors,
            view,
            revision: after,
            entries: BTreeMap::new(),
        };
        for (_, events) in case.log.range(..=after).map(|(_, logged)| logged) {
            follower.apply(events);
        }
        Ok((head.store_revision, follower))
    }

    /// Asserts that what was refused is no longer kept, and need not be.
    fn expect_gone(&self, case: &Case, status: &Status, after: u64) {
        assert_eq!(status.code(), Code::OutOfRange, "{status:?}");
        assert_eq!(reason(status), "HISTORY_GONE");
        let info = status.get_details_error_info().expect("it says why");
        let oldest: u64 = info.metadata["oldest_revision"].parse().expect("a revision");
        assert!(after < oldest && oldest <= self.revision + self.expired);
        for (revision, (time_ms, _)) in case.log.range(after + 1..=oldest) {
            assert!(
                *time_ms <= self.now_ms - HISTORY_MS,
                "revision {revision} is forgotten too soon"
            );
        }
    }
}

fn reason(status: &Status) -> String {
    status.get_details_error_info().expect("it says why").reason
}

impl Follower {
    /// Takes the next message.
    async fn next(&mut self, case: &Case) {
        let message = self.stream.message().await.expect("the watch goes on");
        match message.and_then(|message| message.body) {
            Some(Body::Batch(batch)) => self.batch(case, &batch),
            Some(Body::Progress(progress)) => {
                assert!(progress.revision >= self.revision);
                self.expect_nothing_between(case, progress.revision + 1);
                self.revision = progress.revision;
            }
            other => panic!("the watch tells {other:?}"),
        }
    }

    fn batch(&mut self, case: &Case, batch: &Batch) {
        assert!(batch.revision > self.revision, "{batch:?} after {}", self.revision);
        assert!(!batch.more, "nothing here is so large");
        self.expect_nothing_between(case, batch.revision);
        self.revision = batch.revision;
        if let Some((time_ms, events)) = case.log.get(&batch.revision) {
            let expected: Vec<_> = events.iter().filter(|event| self.means(event)).collect();
            let expected = expected
                .into_iter()
                .map(|event| self.told(event, batch.revision, *time_ms));
            assert_eq!(batch.events, expected.collect::<Vec<_>>());
            assert_eq!(batch.commit_time, Some(timestamp(*time_ms)));
            self.apply(events);
            return;
        }
        assert!(!batch.events.is_empty());
        let time = batch.commit_time.expect("it was committed");
        let time_ms = time.seconds * 1_000 + i64::from(time.nanos / 1_000_000);
        for event in &batch.events {
            assert_eq!(
                event.kind(),
                Kind::Expire,
                "revision {} is nobody's: {event:?}",
                batch.revision
            );
            let entry = event.entry.as_ref().expect("it names the key");
            assert_eq!((entry.revision, &entry.content), (batch.revision, &None));
            let ended = self.entries.remove(&(entry.namespace.clone(), entry.key.clone()));
            let expired = ended
                .as_ref()
                .and_then(expire_ms)
                .is_some_and(|expire_ms| expire_ms <= time_ms);
            assert!(expired, "{event:?} of {ended:?}");
        }
    }

    /// Asserts that no change between what was told and `end` is meant.
    fn expect_nothing_between(&self, case: &Case, end: u64) {
        for (revision, (_, events)) in case.log.range(..end).filter(|(revision, _)| **revision > self.revision) {
            assert!(
                !events.iter().any(|event| self.means(event)),
                "revision {revision} is not told"
            );
        }
    }

    fn means(&self, ((namespace, key), _): &Event) -> bool {
        self.selectors.iter().any(|selector| selects(selector, namespace, key))
    }

    fn told(&self, ((namespace, key), entry): &Event, revision: u64, time_ms: i64) -> v1::WatchEvent {
        let (kind, entry) = if let Some(entry) = entry {
            (Kind::Put, shown(entry, self.view.omit_values, self.view.as_bytes))
        } else {
            let gone = v1::Entry {
                namespace: namespace.clone(),
                key: key.clone(),
                revision,
                update_time: Some(timestamp(time_ms)),
                ..Default::default()
            };
            (Kind::Delete, gone)
        };
        v1::WatchEvent {
            kind: kind.into(),
            entry: Some(entry),
        }
    }

    fn apply(&mut self, events: &[Event]) {
        for event in events {
            if self.means(event) {
                let (name, entry) = event.clone();
                match entry {
                    Some(entry) => self.entries.insert(name, entry),
                    None => self.entries.remove(&name),
                };
            }
        }
    }

    /// Asserts that whoever followed knows the keys that are there.
    fn compare(&self, case: &Case, revision: u64, now_ms: i64) {
        self.expect_nothing_between(case, revision + 1);
        let live = &case.state.entries;
        for (name, entry) in live {
            if self.means(&(name.clone(), None)) {
                assert_eq!(self.entries.get(name), Some(entry), "{name:?}");
            }
        }
        for (name, entry) in &self.entries {
            let is_over = expire_ms(entry).is_some_and(|expire_ms| expire_ms <= now_ms);
            assert!(live.contains_key(name) || is_over, "{name:?} is gone");
        }
    }

    /// Reads on to the case's last change.
    pub(super) async fn end(mut self, case: &Case, now_ms: i64) {
        let last = case.log.last_key_value().map_or(0, |(revision, _)| *revision);
        while self.revision < last {
            self.next(case).await;
        }
        self.compare(case, last, now_ms);
    }
}
