//! Histories made by hand, one right and the others wrong in one way each: the check must tell them apart.

use std::collections::BTreeMap;

use crate::history::{Answer, Attempt, Check, Commit, Figures, History, Read, Seen, State, check};

fn attempt(began: u64, ended: u64, answer: impl Into<Option<Answer>>) -> Attempt {
    let answer = answer.into();
    Attempt { began, ended, answer }
}

fn committed(revision: u64) -> Answer {
    Answer::Committed {
        revision,
        replayed: false,
    }
}

fn replayed(revision: u64) -> Answer {
    Answer::Committed {
        revision,
        replayed: true,
    }
}

fn commit(id: &str, checks: Vec<Check>, writes: &[(&str, &str)], attempts: Vec<Attempt>) -> Commit {
    let mut all = BTreeMap::from([(id.to_owned(), Some(String::new()))]);
    for (key, value) in writes {
        all.insert((*key).to_owned(), (!value.is_empty()).then(|| (*value).to_owned()));
    }
    Commit {
        id: id.to_owned(),
        checks,
        writes: all,
        attempts,
    }
}

fn seen(value: &str, revision: u64, create_revision: u64, version: u64) -> Seen {
    Seen {
        value: value.to_owned(),
        revision,
        create_revision,
        version,
    }
}

fn read(began: u64, ended: u64, revision: u64, key: &str, entry: Option<Seen>) -> Read {
    Read {
        began,
        ended,
        revision,
        seen: BTreeMap::from([(key.to_owned(), entry)]),
    }
}

/// One commit makes two keys, the answer to another is lost, a third finds the second in its way, a fourth is sent
/// twice; meanwhile there are reads.
fn right() -> (History, State) {
    let on = |revision| vec![Check::Revision("left".to_owned(), revision)];
    let conflict = Answer::Conflict {
        revision: 2,
        failed: vec![0],
        current: BTreeMap::from([("left".to_owned(), seen("", 2, 1, 2))]),
    };
    let commits = vec![
        commit(
            "op/1",
            on(0),
            &[("left", "a"), ("right", "a")],
            vec![attempt(0, 10, committed(1))],
        ),
        commit(
            "op/2",
            on(1),
            &[("left", "b"), ("right", "b")],
            vec![attempt(20, 30, None)],
        ),
        commit("op/3", on(1), &[("left", "c")], vec![attempt(40, 50, conflict)]),
        commit(
            "op/4",
            vec![Check::PrefixUnchangedSince("le".to_owned(), 2)],
            &[("right", "")],
            vec![
                attempt(60, 70, None),
                attempt(80, 90, replayed(3)),
                attempt(92, 93, replayed(3)),
            ],
        ),
    ];
    let reads = vec![
        read(91, 95, 3, "right", None),
        read(1, 2, 0, "left", None),
        read(12, 13, 1, "left", Some(seen("a", 1, 1, 1))),
        read(55, 56, 2, "right", Some(seen("b", 2, 1, 2))),
    ];
    let entries = BTreeMap::from([
        ("left".to_owned(), seen("b", 2, 1, 2)),
        ("op/1".to_owned(), seen("", 1, 1, 1)),
        ("op/2".to_owned(), seen("", 2, 2, 1)),
        ("op/4".to_owned(), seen("", 3, 3, 1)),
    ]);
    (History { commits, reads }, State { revision: 3, entries })
}

/// The history, made wrong, is refused for that.
#[track_caller]
fn refused(spoil: impl FnOnce(&mut History, &mut State), because: &str) {
    let (mut history, mut last) = right();
    spoil(&mut history, &mut last);
    let fault = check(&history, &last).expect_err(because);
    assert!(fault.contains(because), "{fault}");
}

#[test]
fn what_can_be_passes() {
    let (history, last) = right();
    let figures = Figures {
        commits: 3,
        reads: 4,
        conflicts: 1,
        lost_answers: 2,
        happened_unseen: 2,
        replayed: 2,
    };
    assert_eq!(check(&history, &last), Ok(figures));
    // What was never answered need not have happened.
    let (mut history, mut last) = right();
    history.commits.truncate(2);
    history.reads.drain(..1);
    history.reads.truncate(2);
    last.entries = BTreeMap::from([
        ("left".to_owned(), seen("a", 1, 1, 1)),
        ("right".to_owned(), seen("a", 1, 1, 1)),
        ("op/1".to_owned(), seen("", 1, 1, 1)),
    ]);
    last.revision = 1;
    assert!(check(&history, &last).is_ok());
}

#[test]
fn a_lost_write_is_refused() {
    refused(|_, last| drop(last.entries.remove("op/1")), "is lost");
    refused(
        |history, _| history.commits[0].attempts[0].answer = Some(committed(4)),
        "was answered at 4, and is at 1",
    );
    // Its effect on a key that nobody wrote later.
    refused(|_, last| drop(last.entries.remove("left")), "left should be Some");
}

#[test]
fn a_stale_read_is_refused() {
    // It names the old revision that it saw.
    refused(
        |history, _| history.reads[3] = read(95, 96, 2, "left", Some(seen("b", 2, 1, 2))),
        "had been answered at 3 before it was sent",
    );
    // It says that it is new.
    refused(
        |history, _| history.reads[3].seen = BTreeMap::from([("left".to_owned(), Some(seen("a", 1, 1, 1)))]),
        "saw left as",
    );
    // A read after a read.
    refused(
        |history, _| history.reads.push(read(57, 58, 1, "op/2", None)),
        "a read of",
    );
    refused(|history, _| history.reads[1].revision = 9, "there was a revision 9");
}

#[test]
fn a_half_applied_commit_is_refused() {
    // Seen on the way.
    refused(
        |history, _| history.reads[3].seen = BTreeMap::from([("right".to_owned(), Some(seen("a", 1, 1, 1)))]),
        "saw right as",
    );
    // Seen at the end.
    refused(
        |_, last| drop(last.entries.insert("right".to_owned(), seen("b", 2, 1, 2))),
        "half applied: right",
    );
}

#[test]
fn a_commit_applied_twice_is_refused() {
    refused(
        |_, last| drop(last.entries.insert("op/4".to_owned(), seen("", 4, 3, 2))),
        "op/4 was applied twice",
    );
    // The second time over what the first one wrote is not to be seen, but it took a revision.
    refused(|_, last| last.revision = 4, "revision 4 was made by nobody");
    refused(
        |history, _| history.commits[3].attempts[2].answer = Some(committed(3)),
        "was answered anew",
    );
    refused(
        |history, _| history.commits[0].attempts[0].answer = Some(replayed(1)),
        "from memory when it was new",
    );
    refused(
        |_, last| drop(last.entries.insert("op/2".to_owned(), seen("", 1, 1, 1))),
        "revision 1 is",
    );
}

#[test]
fn a_check_that_is_passed_over_is_refused() {
    refused(
        |history, _| history.commits[1].checks = vec![Check::Revision("left".to_owned(), 0)],
        "op/2 happened at 2 though",
    );
    refused(
        |history, _| history.commits[1].checks = vec![Check::Exists("left".to_owned(), false)],
        "op/2 happened at 2 though",
    );
    refused(
        |history, _| history.commits[3].checks = vec![Check::PrefixUnchangedSince("le".to_owned(), 1)],
        "op/4 happened at 3 though",
    );
}

#[test]
fn a_wrong_conflict_is_refused() {
    refused(
        |history, _| history.commits[2].checks = vec![Check::Revision("left".to_owned(), 2)],
        "blamed [0]",
    );
    refused(
        |history, _| {
            let Some(Answer::Conflict { current, .. }) = &mut history.commits[2].attempts[0].answer else {
                panic!("it is a conflict");
            };
            current.clear();
        },
        "told of {}",
    );
    // It had been answered.
    refused(
        |history, _| {
            let conflict = history.commits[2].attempts[0].answer.clone();
            history.commits[3].attempts[2].answer = conflict;
        },
        "op/4 was answered a conflict, though",
    );
    // It happened all the same.
    refused(
        |_, last| drop(last.entries.insert("op/3".to_owned(), seen("", 4, 4, 1))),
        "op/3 was answered a conflict",
    );
}

#[test]
fn an_order_against_time_is_refused() {
    // Its effect was seen before it was sent.
    refused(
        |history, _| history.reads.push(read(57, 58, 3, "right", None)),
        "op/4 is at 3, though a read of",
    );
    refused(
        |history, _| history.reads[2] = read(95, 96, 1, "left", Some(seen("a", 1, 1, 1))),
        "a read of [\"left\"] is at 1",
    );
}
