//! Histories made by hand, one right and the others wrong in one way each: the check must tell them apart.

use std::collections::BTreeMap;

use serde_json::json;

use super::check::{Answer, Commit, Document, Effect, Fields, Figures, Pending, Write, check};

const PLAYLIST: &str = "playlist/p";
const CHANNEL: &str = "channel/c";

/// An operation, and its version of a document.
type Waiting<'a> = (&'a str, Option<String>);

/// What was written, what storage went through, and what is there in the end.
struct History {
    writes: Vec<Write>,
    commits: Vec<Commit>,
    last: BTreeMap<Document, String>,
}

fn texts(texts: &[(&'static str, &str)]) -> BTreeMap<&'static str, String> {
    texts.iter().map(|(name, value)| (*name, (*value).to_owned())).collect()
}

fn playlist(values: &[(&'static str, &str)]) -> String {
    json!(texts(values)).to_string()
}

fn channel(title: &str, playlists: &[&str]) -> String {
    let urls: Vec<_> = playlists
        .iter()
        .map(|id| format!("http://feed.test/api/v1/playlists/{id}"))
        .collect();
    json!({ "title": title, "playlists": urls }).to_string()
}

fn create(title: &str, playlists: &[&str]) -> Effect {
    Effect::Create(Fields {
        texts: texts(&[("title", title)]),
        playlists: playlists.iter().map(|id| (*id).to_owned()).collect(),
    })
}

fn patch(name: &'static str, value: &str) -> Effect {
    Effect::Patch(texts(&[(name, value)]), None)
}

fn write(value: &str, document: Option<&str>, effect: Effect, began: u64, answer: Answer) -> Write {
    Write {
        value: value.to_owned(),
        document: document.map(str::to_owned),
        effect,
        is_queued: matches!(answer, Answer::Accepted { operation: Some(_), .. }),
        began,
        ended: began + 5,
        answer,
    }
}

fn accepted(document: &str, text: Option<String>, operation: Option<&str>) -> Answer {
    Answer::Accepted {
        document: document.to_owned(),
        text,
        operation: operation.map(str::to_owned),
    }
}

fn commit(
    revision: u64,
    documents: &[(&str, Option<String>)],
    pending: &[(&str, Option<Waiting<'_>>)],
    operations: &[(&str, &str)],
) -> Commit {
    let waits = |(operation, text): &Waiting<'_>| Pending {
        operation: (*operation).to_owned(),
        text: text.clone(),
    };
    Commit {
        revision,
        documents: documents
            .iter()
            .map(|(document, text)| ((*document).to_owned(), text.clone()))
            .collect(),
        pending: pending
            .iter()
            .map(|(document, version)| ((*document).to_owned(), version.as_ref().map(waits)))
            .collect(),
        operations: operations
            .iter()
            .map(|(id, state)| ((*id).to_owned(), (*state).to_owned()))
            .collect(),
    }
}

/// A playlist is made by a queued write and a channel over it at once; then the playlist is changed twice by queued
/// writes, of which one is replaced, and by one at once whose answer is lost; it is deleted by a queued write, and whoever
/// changes it then is refused. Nothing is delivered in order.
fn right() -> History {
    let created = playlist(&[("title", "w1")]);
    let titled = playlist(&[("title", "w3")]);
    let both = playlist(&[("title", "w3"), ("summary", "w4")]);
    let lost = playlist(&[("title", "w3"), ("summary", "w5")]);
    let over = channel("w2", &["p"]);
    let emptied = channel("w2", &[]);
    let some = |text: &String| Some(text.clone());
    let writes = vec![
        write(
            "w1",
            None,
            create("w1", &[]),
            0,
            accepted(PLAYLIST, some(&created), Some("o1")),
        ),
        write(
            "w2",
            None,
            create("w2", &["p"]),
            10,
            accepted(CHANNEL, some(&over), None),
        ),
        write(
            "w3",
            Some(PLAYLIST),
            patch("title", "w3"),
            20,
            accepted(PLAYLIST, some(&titled), Some("o3")),
        ),
        write(
            "w4",
            Some(PLAYLIST),
            patch("summary", "w4"),
            30,
            accepted(PLAYLIST, some(&both), Some("o4")),
        ),
        write("w5", Some(PLAYLIST), patch("summary", "w5"), 40, Answer::Lost),
        write(
            "w6",
            Some(PLAYLIST),
            Effect::Delete,
            50,
            accepted(PLAYLIST, None, Some("o6")),
        ),
        write("w7", Some(PLAYLIST), patch("title", "w7"), 60, Answer::Refused),
        write("w8", Some(CHANNEL), patch("title", "w8"), 70, Answer::Lost),
    ];
    let commits = vec![
        commit(
            1,
            &[],
            &[(PLAYLIST, Some(("o1", some(&created))))],
            &[("o1", "accepted")],
        ),
        commit(2, &[(CHANNEL, some(&over))], &[], &[]),
        commit(
            3,
            &[(PLAYLIST, some(&created))],
            &[(PLAYLIST, None)],
            &[("o1", "applied")],
        ),
        commit(
            4,
            &[],
            &[(PLAYLIST, Some(("o3", some(&titled))))],
            &[("o3", "accepted")],
        ),
        commit(6, &[], &[(PLAYLIST, Some(("o4", some(&both))))], &[("o4", "accepted")]),
        commit(7, &[(PLAYLIST, some(&both))], &[(PLAYLIST, None)], &[("o4", "applied")]),
        commit(8, &[], &[], &[("o3", "superseded")]),
        commit(9, &[(PLAYLIST, some(&lost))], &[], &[]),
        commit(
            10,
            &[],
            &[(PLAYLIST, Some(("o6", None))), (CHANNEL, Some(("o6", some(&emptied))))],
            &[("o6", "accepted")],
        ),
        commit(
            11,
            &[(PLAYLIST, None), (CHANNEL, some(&emptied))],
            &[(PLAYLIST, None), (CHANNEL, None)],
            &[("o6", "applied")],
        ),
    ];
    History {
        writes,
        commits,
        last: BTreeMap::from([(CHANNEL.to_owned(), emptied)]),
    }
}

/// The history, made wrong, is refused for that.
#[track_caller]
fn refused(spoil: impl FnOnce(&mut History), because: &str) {
    let mut history = right();
    spoil(&mut history);
    let fault = check(&history.writes, &history.commits, &history.last).expect_err(because);
    assert!(fault.contains(because), "{fault}");
}

/// The commit of a revision.
fn at(history: &mut History, revision: u64) -> &mut Commit {
    let mut commits = history.commits.iter_mut();
    commits
        .find(|commit| commit.revision == revision)
        .expect("there is one")
}

fn put(commit: &mut Commit, document: &str, text: impl Into<Option<String>>) {
    commit.documents.insert(document.to_owned(), text.into());
}

fn drop_commit(history: &mut History, revision: u64) {
    history.commits.retain(|commit| commit.revision != revision);
}

#[test]
fn what_can_be_passes() {
    let History { writes, commits, last } = right();
    let figures = Figures {
        versions: 7,
        answered: 5,
        refused: 1,
        lost: 2,
        accepted_unseen: 1,
        applied: 3,
        superseded: 1,
        cascaded: 1,
    };
    assert_eq!(check(&writes, &commits, &last), Ok(figures));
}

#[test]
fn a_write_that_was_answered_is_accepted_once_and_as_it_was_answered() {
    // The last but one to be accepted, at once, and nothing of it.
    refused(
        |history| {
            let answer = accepted(PLAYLIST, Some("{}".to_owned()), None);
            history.writes[4].answer = answer;
        },
        "answered with another version",
    );
    refused(
        |history| history.writes[7].answer = accepted(CHANNEL, Some(channel("w8", &[])), None),
        "\"w8\" was answered, and is lost",
    );
    refused(
        |history| {
            let commit = at(history, 9).clone();
            history.commits.push(Commit { revision: 12, ..commit });
        },
        "was deleted",
    );
    refused(
        |history| {
            let commit = at(history, 9).clone();
            history.commits.insert(
                8,
                Commit {
                    revision: 9,
                    ..commit.clone()
                },
            );
            at(history, 10).revision = 11;
        },
        "comes after",
    );
    refused(
        |history| history.writes[4].answer = Answer::Refused,
        "was refused, and is accepted",
    );
    refused(
        |history| history.writes[4].is_queued = true,
        "is accepted as None of playlist/p",
    );
    refused(
        |history| history.writes[4].document = Some(CHANNEL.to_owned()),
        "is accepted as None of playlist/p",
    );
    refused(|history| drop(history.writes.remove(4)), "nobody wrote playlist/p");
}

#[test]
fn the_same_version_put_again_is_refused() {
    refused(
        |history| {
            let commit = at(history, 7).clone();
            let again = Commit {
                revision: 8,
                operations: BTreeMap::new(),
                pending: BTreeMap::new(),
                ..commit
            };
            history.commits.retain(|commit| commit.revision < 8);
            history.commits.push(again);
        },
        "nobody wrote playlist/p",
    );
}

#[test]
fn a_field_that_is_lost_is_refused() {
    // The second queued write was made of what was there before the first.
    refused(
        |history| {
            let text = playlist(&[("title", "w1"), ("summary", "w4")]);
            let pending = Pending {
                operation: "o4".to_owned(),
                text: Some(text.clone()),
            };
            at(history, 6).pending.insert(PLAYLIST.to_owned(), Some(pending));
            put(at(history, 7), PLAYLIST, text);
        },
        "and should make",
    );
}

#[test]
fn an_order_that_is_not_that_of_time_is_refused() {
    refused(
        |history| {
            history.writes[3].began = 0;
            history.writes[3].ended = 4;
            history.writes[2].began = 5;
        },
        "before that of \"w3\" began",
    );
    refused(
        |history| {
            history.writes[6].began = 10;
            history.writes[6].ended = 15;
        },
        "\"w7\" was refused, and all that it needs was there",
    );
}

#[test]
fn what_is_deleted_stays_so() {
    refused(
        |history| {
            let write = write("w9", Some(PLAYLIST), patch("title", "w9"), 80, Answer::Lost);
            history.writes.push(write);
            let back = playlist(&[("title", "w9")]);
            history.commits.push(commit(12, &[(PLAYLIST, Some(back))], &[], &[]));
        },
        "playlist/p is accepted anew, and was deleted",
    );
    // An older queued write brings it back.
    refused(
        |history| {
            let text = playlist(&[("title", "w3")]);
            drop_commit(history, 8);
            let back = commit(12, &[(PLAYLIST, Some(text))], &[], &[("o3", "applied")]);
            history.commits.push(back);
        },
        "o3 changes playlist/p, of which nothing waits",
    );
    refused(
        |history| drop(history.last.insert(PLAYLIST.to_owned(), playlist(&[("title", "w1")]))),
        "playlist/p reads Some",
    );
}

#[test]
fn a_channel_that_names_what_is_not_there_is_refused() {
    let left = || channel("w2", &["p"]);
    refused(
        |history| {
            at(history, 10).pending.remove(CHANNEL);
            let commit = at(history, 11);
            commit.documents.remove(CHANNEL);
            commit.pending.remove(CHANNEL);
            history.last.insert(CHANNEL.to_owned(), left());
        },
        "the deletion of playlist/p makes {}",
    );
    refused(
        |history| {
            history.writes[7].effect = Effect::Patch(texts(&[("title", "w8")]), Some(vec!["p".to_owned()]));
            let late = commit(12, &[(CHANNEL, Some(channel("w8", &["p"])))], &[], &[]);
            history.commits.push(late);
        },
        "names the playlist p, which is not there",
    );
}

/// What happens without the ownership check: the message that was replaced applies the version that replaced it.
#[test]
fn a_version_that_is_applied_by_another_operation_is_refused() {
    refused(
        |history| {
            at(history, 7).operations = BTreeMap::from([("o3".to_owned(), "applied".to_owned())]);
            at(history, 8).operations = BTreeMap::from([("o4".to_owned(), "superseded".to_owned())]);
        },
        "o3 applies the version of playlist/p that is Some(\"o4\")'s",
    );
}

#[test]
fn a_queued_write_ends_once_and_as_it_should() {
    refused(
        |history| at(history, 8).operations = BTreeMap::from([("o3".to_owned(), "applied".to_owned())]),
        "o3 is applied, and should be superseded",
    );
    refused(
        |history| at(history, 7).operations = BTreeMap::from([("o4".to_owned(), "failed".to_owned())]),
        "o4 is failed, and should be applied",
    );
    refused(|history| drop_commit(history, 8), "o3 never ends");
    refused(
        |history| history.commits.push(commit(12, &[], &[], &[("o3", "superseded")])),
        "o3 ends again",
    );
    refused(
        |history| history.commits.push(commit(12, &[], &[], &[("o9", "superseded")])),
        "was never accepted",
    );
    refused(
        |history| at(history, 7).operations = BTreeMap::from([("o3".to_owned(), "superseded".to_owned())]),
        "o3 applies the version",
    );
}

#[test]
fn versions_are_applied_whole_and_together() {
    // A part of the operation only.
    refused(
        |history| {
            let commit = at(history, 11);
            commit.documents.remove(CHANNEL);
            commit.pending.remove(CHANNEL);
        },
        "o6 ends, and its version of channel/c waits on",
    );
    // Not what was accepted.
    refused(
        |history| put(at(history, 7), PLAYLIST, playlist(&[("title", "w1")])),
        "was accepted",
    );
    refused(|history| at(history, 7).documents.clear(), "was accepted");
    // A version applied at once leaves the one that waited.
    refused(
        |history| {
            drop_commit(history, 7);
            drop_commit(history, 8);
        },
        "an older version of playlist/p waits on",
    );
    refused(
        |history| put(at(history, 4), CHANNEL, channel("w2", &["p"])),
        "channel/c is changed by the acceptance of o3",
    );
    refused(
        |history| at(history, 4).operations.clear(),
        "a version of playlist/p waits, and nobody was told so",
    );
    refused(
        |history| drop(at(history, 4).operations.insert("o1".to_owned(), "applied".to_owned())),
        "two queued writes in one commit",
    );
}

#[test]
fn the_end_is_what_was_accepted_last() {
    refused(|history| history.last.clear(), "channel/c reads None");
    refused(
        |history| drop(history.last.insert("playlist/q".to_owned(), "{}".to_owned())),
        "playlist/q is there, and was never accepted",
    );
}
