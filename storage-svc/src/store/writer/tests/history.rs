//! What the history keeps and lets go, and the values that it holds on to.

use super::*;
use crate::model::{ChangeBatch, CheckReport, Event, Selection, Selector};
use crate::store::changes::{Cursor, Query, page};
use crate::store::check;
use crate::store::errand::{Errand, Errands};
use crate::store::history::facts;
use crate::store::stop::Stop;

/// Too long to lie in a row.
const LONG: usize = 300;

impl Bench {
    fn write(&mut self, commit: Commit) -> u64 {
        let mut done = self.commit(commit, None);
        self.work();
        revision(&mut done)
    }

    fn collect(&mut self) {
        self.writer.collect_at = Instant::now();
        self.work();
    }

    /// Everything after a revision, however many pages it takes.
    fn told_after(&self, revision: u64) -> Result<Vec<ChangeBatch>, StoreError> {
        let query = Query {
            selectors: vec![Selector {
                namespace: name("k").namespace,
                selection: Selection::Prefix(String::new()),
            }],
            with: With::Content,
        };
        let mut cursor = Cursor::behind(revision);
        let mut told = Vec::new();
        loop {
            let page = page(&self.writer.connection, &query, cursor, usize::MAX)?.expect("it fits");
            told.extend(page.batches);
            if page.is_last {
                return Ok(told);
            }
            cursor = page.cursor;
        }
    }

    /// The figures are those of the rows, and every value belongs to an entry or a change.
    fn check(&self) {
        let count = |sql: &str| -> i64 {
            let number = self.writer.connection.query_row(sql, (), |row| row.get(0));
            number.expect("it counts")
        };
        let stats = facts(&self.writer.connection).expect("it reads").stats;
        assert_eq!(stats.changes.cast_signed(), count("select count(*) from change"));
        assert_eq!(
            stats.bytes.cast_signed(),
            count("select ifnull(sum(bytes), 0) from change")
        );
        let orphans = "select count(*) from value where id not in (select value_id from entry where value_id is not null) \
                       and id not in (select value_id from change where value_id is not null)";
        assert_eq!(count(orphans), 0, "values without an owner");
        let missing =
            "select count(*) from entry where value_id is not null and value_id not in (select id from value)";
        assert_eq!(count(missing), 0, "entries without their value");
        let missing = "select count(*) from change, store where value_id is not null \
                       and change.revision > history_revision and value_id not in (select id from value)";
        assert_eq!(count(missing), 0, "changes without their value");
    }

    fn oldest(&self) -> u64 {
        facts(&self.writer.connection).expect("it reads").history_revision
    }
}

fn long(text: &str) -> String {
    text.repeat(LONG)
}

fn deletion(key: &str) -> Commit {
    let mut commit = Commit::new(Origin::Commit);
    commit.mutations.push(Mutation {
        name: name(key),
        change: Change::Delete,
    });
    commit
}

fn expiring(key: &str, value: String) -> Commit {
    let mut commit = put(key, value);
    if let Change::Put { expiry, .. } = &mut commit.mutations[0].change {
        *expiry = Expiry::AfterMs(1_000);
    }
    commit
}

/// Revision, kind, key and text.
fn told(batches: &[ChangeBatch]) -> Vec<(u64, Event, &str, Option<&Content>)> {
    let told = batches.iter().flat_map(|batch| {
        let events = batch.events.iter();
        events.map(|(event, entry)| {
            assert_eq!(entry.revision, batch.revision);
            (batch.revision, *event, entry.name.key.as_str(), entry.content.as_ref())
        })
    });
    told.collect()
}

#[test]
fn each_change_is_told_as_it_was_made_and_values_go_with_the_last_that_names_them() {
    let mut bench = Bench::new();
    bench.write(put("k", long("1")));
    bench.write(put("k", "2"));
    bench.write(put("k", long("3")));
    bench.write(deletion("k"));
    assert_eq!(bench.write(deletion("k")), 4, "there was nothing to delete");
    bench.write(put("stays", long("5")));
    bench.check();
    assert_eq!(bench.rows("value"), 3);
    let text = |text: &str| Content::Text(text.to_owned());
    let (one, two, three, five) = (text(&long("1")), text("2"), text(&long("3")), text(&long("5")));
    let all = [
        (1, Event::Put, "k", Some(&one)),
        (2, Event::Put, "k", Some(&two)),
        (3, Event::Put, "k", Some(&three)),
        (4, Event::Delete, "k", None),
        (5, Event::Put, "stays", Some(&five)),
    ];
    for after in 0..=5 {
        let batches = bench.told_after(after).expect("nothing is forgotten");
        let expected = &all[usize::try_from(after).expect("it is small")..];
        assert_eq!(told(&batches), expected, "after {after}");
    }

    bench.clock.advance_ms(3_599_999);
    bench.collect();
    assert_eq!((bench.rows("change"), bench.oldest()), (5, 0), "an hour is not over");
    bench.clock.advance_ms(1);
    bench.collect();
    bench.check();
    assert_eq!((bench.rows("change"), bench.rows("value"), bench.oldest()), (0, 1, 5));
    assert_eq!(bench.entry("stays").and_then(|entry| entry.content), Some(five));
    let gone = bench.told_after(4).expect_err("it is forgotten");
    assert!(
        matches!(
            gone,
            StoreError::HistoryGone {
                oldest: 5,
                store_revision: 5
            }
        ),
        "{gone}"
    );
    assert_eq!(told(&bench.told_after(5).expect("nothing is missing")), []);
    // Its put is forgotten, so nobody needs the old value when it is overwritten.
    bench.write(put("stays", long("6")));
    assert_eq!(bench.rows("value"), 1);
    bench.write(deletion("stays"));
    assert_eq!(bench.rows("value"), 1, "that of the put, for watches");
    bench.check();
}

#[test]
fn values_from_before_there_was_a_history_go_with_their_entries() {
    let mut bench = Bench::new();
    for key in ["overwritten", "deleted", "collected"] {
        bench.write(expiring(key, long("1")));
    }
    // As if a migration had been just now.
    let forget =
        "delete from change; update store set history_revision = revision, history_changes = 0, history_bytes = 0";
    bench.writer.connection.execute_batch(forget).expect("it is forgotten");
    bench.write(put("overwritten", "2"));
    bench.write(deletion("deleted"));
    bench.clock.advance_ms(1_000);
    bench.collect();
    assert_eq!(bench.rows("value"), 0);
    bench.check();
    let batches = bench.told_after(3).expect("nothing is missing");
    let kinds: Vec<_> = told(&batches).iter().map(|(_, event, key, _)| (*event, *key)).collect();
    assert_eq!(
        kinds,
        [
            (Event::Put, "overwritten"),
            (Event::Delete, "deleted"),
            (Event::Expire, "collected")
        ]
    );
}

#[test]
fn an_expired_key_is_told_of_once_whatever_becomes_of_it() {
    let mut bench = Bench::new();
    for key in ["again", "collected", "deleted"] {
        bench.write(expiring(key, long("1")));
    }
    bench.clock.advance_ms(1_000);
    assert_eq!(bench.write(put("again", "2")), 4);
    assert_eq!(bench.write(deletion("deleted")), 4, "it is not there any more");
    assert_eq!(
        bench.entry("again").map(|entry| (entry.create_revision, entry.version)),
        Some((4, 1))
    );
    bench.collect();
    bench.collect();
    bench.check();
    let batches = bench.told_after(3).expect("nothing is missing");
    let kinds: Vec<_> = told(&batches).iter().map(|told| (told.0, told.1, told.2)).collect();
    assert_eq!(
        kinds,
        [
            (4, Event::Put, "again"),
            (5, Event::Expire, "collected"),
            (5, Event::Expire, "deleted")
        ]
    );
}

#[test]
fn a_request_that_fails_is_not_in_the_history() {
    let mut bench = Bench::new();
    bench.write(put("first", long("1")));
    fill_namespaces(&bench.writer);
    let mut overwrites = failing("first");
    overwrites.mutations.insert(0, deletion("second").mutations.remove(0));
    bench.write(put("second", long("2")));
    let before = bench.commit(put("third", "3"), None);
    let mut bad = bench.commit(overwrites, None);
    bench.work();
    drop(before);
    refusal(&mut bad);
    bench.check();
    let batches = bench.told_after(0).expect("nothing is forgotten");
    let keys: Vec<_> = told(&batches).iter().map(|told| (told.0, told.2)).collect();
    assert_eq!(keys, [(1, "first"), (2, "second"), (3, "third")]);
    assert_eq!(*bench.writer.shared.revision.borrow(), 3);
}

#[test]
fn history_is_kept_up_to_its_size_and_forgotten_in_steps_and_whole_revisions() {
    let mut bench = Bench::new();
    bench.writer.span.bytes_max = 400_000;
    let mut large = Commit::new(Origin::Commit);
    for index in 0..2_500 {
        large
            .mutations
            .push(put(&format!("k{index:04}"), "x".repeat(100)).mutations.remove(0));
    }
    bench.writer.collect_at = Instant::now() + Duration::from_mins(1);
    bench.write(large.clone());
    bench.write(put("between", "1"));
    bench.write(large);
    assert_eq!((bench.rows("change"), bench.oldest()), (5_001, 0));
    bench.collect();
    // The first revision is too much, so it is not told any more; its rows go as the writer finds time.
    assert_eq!((bench.rows("change"), bench.oldest()), (4_001, 1));
    bench.check();
    assert!(bench.told_after(0).is_err());
    let revisions: Vec<_> = bench
        .told_after(1)
        .expect("nothing is missing")
        .iter()
        .map(|batch| batch.revision)
        .collect();
    assert_eq!(revisions, [2, 3], "the next ones are whole");
    while bench.writer.pause().is_zero() {
        bench.work();
        bench.check();
    }
    assert_eq!(
        (bench.rows("change"), bench.oldest()),
        (0, 3),
        "the last one alone is too much"
    );
}

#[tokio::test]
async fn a_check_asks_no_value_of_a_change_that_is_not_told_any_more() {
    let mut bench = Bench::new();
    let mut large = Commit::new(Origin::Commit);
    for index in 0..2_500 {
        let mut one = put(&format!("k{index:04}"), long("1"));
        large.mutations.push(one.mutations.remove(0));
    }
    bench.write(large);
    bench.writer.span.bytes_max = 0;
    bench.collect();
    // Its change waits to be forgotten, so its value goes at once.
    bench.write(put("k2499", "2"));
    assert_eq!(bench.oldest(), 1);
    assert_eq!((bench.rows("change"), bench.rows("value")), (499, 2_499));

    let path = bench.folder.path().join("store.db");
    let stop = Stop {
        draining: CancellationToken::new(),
        ended: bench.ended.clone(),
    };
    let reports = Errands::new(&path).begin(Errand::Check, stop, check::check);
    let mut reports = reports.expect("there is none yet");
    let mut last = None;
    while let Some(report) = std::future::poll_fn(|context| reports.poll_next(context)).await {
        match report.expect("it reads") {
            CheckReport::Problem(problem) => panic!("{problem}"),
            report => last = Some(report),
        }
    }
    assert_eq!(last, Some(CheckReport::Finished { problems: 0 }));
}

#[test]
fn trimming_gains_on_a_writer_that_never_rests() {
    let mut bench = Bench::new();
    bench.writer.span.bytes_max = 1_000_000;
    bench.writer.collect_at = Instant::now();
    let mut most = 0;
    for round in 0..20 {
        let mut commit = Commit::new(Origin::Commit);
        for index in 0..4_000 {
            commit
                .mutations
                .push(put(&format!("k{index:04}"), format!("{round}")).mutations.remove(0));
        }
        bench.write(commit);
        // As if a tick had passed: it takes longer to get here than to write.
        bench.writer.collect_at = bench.writer.collect_at.min(Instant::now() + Duration::from_millis(1));
        most = most.max(bench.rows("change"));
        bench.check();
    }
    assert!(
        most < 30_000,
        "{most} changes of 80,000 are kept, which is far above the size"
    );
}

#[test]
fn a_revision_is_cut_into_batches_that_say_whether_more_follows() {
    let mut bench = Bench::new();
    let mut commit = Commit::new(Origin::Commit);
    for index in 0..5 {
        commit
            .mutations
            .push(put(&format!("k{index}"), "x".repeat(600_000)).mutations.remove(0));
    }
    let mut elsewhere = put("last", "1").mutations.remove(0);
    elsewhere.name.namespace = Namespace::parse("elsewhere".to_owned()).expect("the name is good");
    commit.mutations.push(elsewhere);
    bench.write(commit);
    bench.write(put("k0", "after"));
    let batches = bench.told_after(0).expect("nothing is forgotten");
    let shape: Vec<_> = batches
        .iter()
        .map(|batch| (batch.revision, batch.events.len(), batch.more))
        .collect();
    assert_eq!(shape, [(1, 2, true), (1, 2, true), (1, 1, false), (2, 1, false)]);
}

#[test]
fn a_full_batch_is_the_last_if_nothing_of_its_revision_follows() {
    let mut bench = Bench::new();
    let mut commit = Commit::new(Origin::Commit);
    for index in 0..2 {
        commit
            .mutations
            .push(put(&format!("k{index}"), "x".repeat(600_000)).mutations.remove(0));
    }
    let mut elsewhere = put("last", "1").mutations.remove(0);
    elsewhere.name.namespace = Namespace::parse("elsewhere".to_owned()).expect("the name is good");
    commit.mutations.push(elsewhere);
    bench.write(commit.clone());
    bench.write(commit);
    let batches = bench.told_after(0).expect("nothing is forgotten");
    let shape: Vec<_> = batches
        .iter()
        .map(|batch| (batch.revision, batch.events.len(), batch.more))
        .collect();
    assert_eq!(shape, [(1, 2, false), (2, 2, false)]);
}
