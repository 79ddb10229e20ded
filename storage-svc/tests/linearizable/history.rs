//! What clients saw of a few keys, and whether one store that does one thing at a time could have shown it to them.
//! Knows no wire and no clock.
//!
//! The order need not be searched for, because the store says what it is: every commit takes a revision of its own,
//! every read and every conflict names the revision that it looked at. An answer that was lost names nothing; so every
//! commit also writes a key that nobody else writes and nobody overwrites, and a last read of all keys says of each
//! commit whether it happened, at which revision, and how often. Then no outcome is unknown, and [`check`] has to
//! confirm one order only:
//!
//! * each revision up to the last was made by exactly one commit, once;
//! * played in this order from an empty store, every check of a commit that happened holds, every conflict names just
//!   the checks that do not, every read sees just what is there, and the end is what the last read saw;
//! * what had been answered before something else was sent comes before it in the order.
//!
//! That is all of it. A history that passes is linearizable: the order is at hand, and each answer was tried against
//! it. One that fails is not linearizable in the order of revisions, which the contract promises; that is the stricter
//! of the two.

use std::collections::BTreeMap;

/// An entry, as far as it matters here. `value` is empty where the answer left it out.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Seen {
    pub(crate) value: String,
    pub(crate) revision: u64,
    pub(crate) create_revision: u64,
    pub(crate) version: u64,
}

/// All that is there at one revision.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct State {
    pub(crate) revision: u64,
    pub(crate) entries: BTreeMap<String, Seen>,
}

/// A condition of a commit.
#[derive(Clone, Debug)]
pub(crate) enum Check {
    /// 0: there is no entry.
    Revision(String, u64),
    Exists(String, bool),
    PrefixUnchangedSince(String, u64),
}

/// A commit, and the answers to each time it was sent.
#[derive(Clone, Debug)]
pub(crate) struct Commit {
    /// A key that this commit alone writes, among the others.
    pub(crate) id: String,
    pub(crate) checks: Vec<Check>,
    /// None: deleted.
    pub(crate) writes: BTreeMap<String, Option<String>>,
    pub(crate) attempts: Vec<Attempt>,
}

/// One time that a commit was sent. Times are on a scale that all clients share.
#[derive(Clone, Debug)]
pub(crate) struct Attempt {
    pub(crate) began: u64,
    pub(crate) ended: u64,
    /// None: the answer was lost.
    pub(crate) answer: Option<Answer>,
}

#[derive(Clone, Debug)]
pub(crate) enum Answer {
    Committed {
        revision: u64,
        replayed: bool,
    },
    Conflict {
        revision: u64,
        failed: Vec<usize>,
        /// Of the failed checks whose key is there, without values.
        current: BTreeMap<String, Seen>,
    },
}

/// A read that was answered.
#[derive(Clone, Debug)]
pub(crate) struct Read {
    pub(crate) began: u64,
    pub(crate) ended: u64,
    pub(crate) revision: u64,
    pub(crate) seen: BTreeMap<String, Option<Seen>>,
}

/// What one or several clients did.
#[derive(Clone, Debug, Default)]
pub(crate) struct History {
    pub(crate) commits: Vec<Commit>,
    pub(crate) reads: Vec<Read>,
}

/// How much there was to check: a history in which nothing was lost shows little.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Figures {
    pub(crate) commits: usize,
    pub(crate) reads: usize,
    pub(crate) conflicts: usize,
    pub(crate) lost_answers: usize,
    /// Commits that happened without an answer, or with one from memory only.
    pub(crate) happened_unseen: usize,
    pub(crate) replayed: usize,
}

/// Something that happened at a revision, at some time between two.
struct Point {
    revision: u64,
    makes_it: bool,
    began: u64,
    ended: u64,
    name: String,
}

/// Whether the history can be; else what cannot.
pub(crate) fn check(history: &History, last: &State) -> Result<Figures, String> {
    let mut figures = Figures {
        reads: history.reads.len(),
        ..Figures::default()
    };
    let mut points = Vec::new();
    let mut makers = BTreeMap::new();
    for commit in &history.commits {
        if let Some(point) = happened(commit, last, &mut figures)? {
            if let Some(other) = makers.insert(point.revision, commit) {
                return Err(format!(
                    "revision {} is {}'s and {}'s",
                    point.revision, other.id, commit.id
                ));
            }
            points.push(point);
        }
    }
    figures.commits = makers.len();
    let mut looks: BTreeMap<u64, Vec<Look<'_>>> = BTreeMap::new();
    for look in history.reads.iter().map(Look::Read).chain(conflicts(history)) {
        let (revision, began, ended) = look.place();
        points.push(Point {
            revision,
            makes_it: false,
            began,
            ended,
            name: look.name(),
        });
        figures.conflicts += usize::from(matches!(look, Look::Conflict { .. }));
        looks.entry(revision).or_default().push(look);
    }
    play(&makers, &looks, last)?;
    in_time(&points)?;
    Ok(figures)
}

/// Where the commit stands in the order, if it happened; whether its answers say the same.
fn happened(commit: &Commit, last: &State, figures: &mut Figures) -> Result<Option<Point>, String> {
    let id = &commit.id;
    let made = last.entries.get(id);
    if let Some(made) = made
        && (made.version, made.create_revision) != (1, made.revision)
    {
        return Err(format!("{id} was applied twice: {made:?}"));
    }
    // Since when it may have happened: from the first attempt on, and anew after each conflict.
    let mut sent = None;
    let mut span = None;
    for attempt in &commit.attempts {
        let resent = sent.is_some();
        let began = *sent.get_or_insert(attempt.began);
        match (&attempt.answer, made) {
            (None, _) => figures.lost_answers += 1,
            (Some(Answer::Committed { revision, .. }), None) => {
                return Err(format!("{id} was answered, at {revision}, and is lost"));
            }
            (Some(Answer::Committed { revision, .. }), Some(made)) if *revision != made.revision => {
                return Err(format!("{id} was answered at {revision}, and is at {}", made.revision));
            }
            (Some(Answer::Committed { replayed: true, .. }), _) if !resent => {
                return Err(format!("{id} was answered from memory when it was new"));
            }
            (Some(Answer::Committed { replayed: false, .. }), _) if span.is_some() => {
                return Err(format!("{id} was answered anew, though it had been answered"));
            }
            (Some(Answer::Committed { replayed, .. }), _) => {
                figures.replayed += usize::from(*replayed);
                figures.happened_unseen += usize::from(*replayed && span.is_none());
                // From memory: an earlier attempt did it.
                let began = if *replayed { began } else { attempt.began };
                span = span.or(Some((began, attempt.ended)));
            }
            (Some(Answer::Conflict { .. }), _) if span.is_some() => {
                return Err(format!("{id} was answered a conflict, though it had been answered"));
            }
            (Some(Answer::Conflict { .. }), _) => sent = None,
        }
    }
    let Some(made) = made else { return Ok(None) };
    let (began, ended) = match (span, sent) {
        (Some(span), _) => span,
        (None, Some(began)) => {
            figures.happened_unseen += 1;
            (began, u64::MAX)
        }
        (None, None) => return Err(format!("{id} was answered a conflict, and is at {}", made.revision)),
    };
    Ok(Some(Point {
        revision: made.revision,
        makes_it: true,
        began,
        ended,
        name: id.clone(),
    }))
}

/// What looks at a revision and does not change it.
enum Look<'history> {
    Read(&'history Read),
    Conflict {
        commit: &'history Commit,
        attempt: &'history Attempt,
        revision: u64,
        failed: &'history [usize],
        current: &'history BTreeMap<String, Seen>,
    },
}

fn conflicts(history: &History) -> impl Iterator<Item = Look<'_>> {
    let attempts = history.commits.iter().flat_map(|commit| {
        let of = move |attempt| (commit, attempt);
        commit.attempts.iter().map(of)
    });
    attempts.filter_map(|(commit, attempt)| match &attempt.answer {
        Some(Answer::Conflict {
            revision,
            failed,
            current,
        }) => Some(Look::Conflict {
            commit,
            attempt,
            revision: *revision,
            failed,
            current,
        }),
        _ => None,
    })
}

impl Look<'_> {
    fn place(&self) -> (u64, u64, u64) {
        match self {
            Self::Read(read) => (read.revision, read.began, read.ended),
            Self::Conflict { attempt, revision, .. } => (*revision, attempt.began, attempt.ended),
        }
    }

    fn name(&self) -> String {
        match self {
            Self::Read(read) => format!("a read of {:?}", read.seen.keys().collect::<Vec<_>>()),
            Self::Conflict { commit, .. } => format!("the conflict of {}", commit.id),
        }
    }

    fn agrees(&self, state: &State) -> Result<(), String> {
        match self {
            Self::Read(read) => {
                for (key, seen) in &read.seen {
                    let there = state.entries.get(key);
                    if seen.as_ref() != there {
                        return Err(format!("saw {key} as {seen:?}, and it was {there:?}"));
                    }
                }
                Ok(())
            }
            Self::Conflict {
                commit,
                failed,
                current,
                ..
            } => {
                let fails = failing(&commit.checks, state);
                if fails != *failed {
                    return Err(format!(
                        "blamed {failed:?} of {:?}, and it was {fails:?}",
                        commit.checks
                    ));
                }
                let named = fails.iter().filter_map(|index| match &commit.checks[*index] {
                    Check::Revision(key, _) | Check::Exists(key, _) => state.entries.get_key_value(key),
                    Check::PrefixUnchangedSince(..) => None,
                });
                let there = named.map(|(key, seen)| {
                    let value = String::new();
                    (key.clone(), Seen { value, ..seen.clone() })
                });
                let there: BTreeMap<_, _> = there.collect();
                if there != **current {
                    return Err(format!("told of {current:?}, and it was {there:?}"));
                }
                Ok(())
            }
        }
    }
}

/// The checks that do not hold.
fn failing(checks: &[Check], state: &State) -> Vec<usize> {
    let revision_of = |key: &String| state.entries.get(key).map_or(0, |seen| seen.revision);
    let holds = |check: &Check| match check {
        Check::Revision(key, revision) => revision_of(key) == *revision,
        Check::Exists(key, exists) => state.entries.contains_key(key) == *exists,
        Check::PrefixUnchangedSince(prefix, revision) => {
            let below = state.entries.iter().filter(|(key, _)| key.starts_with(prefix));
            below.map(|(_, seen)| seen.revision).all(|written| written <= *revision)
        }
    };
    (0..checks.len()).filter(|index| !holds(&checks[*index])).collect()
}

/// Plays the commits in their order, and asks of each look whether it saw what was there.
fn play(makers: &BTreeMap<u64, &Commit>, looks: &BTreeMap<u64, Vec<Look<'_>>>, last: &State) -> Result<(), String> {
    let mut state = State::default();
    if let Some(beyond) = looks
        .keys()
        .chain(makers.keys())
        .find(|revision| **revision > last.revision)
    {
        return Err(format!(
            "there was a revision {beyond}, and the last one is {}",
            last.revision
        ));
    }
    for revision in 0..=last.revision {
        if revision > 0 {
            let commit = makers
                .get(&revision)
                .ok_or_else(|| format!("revision {revision} was made by nobody"))?;
            let fails = failing(&commit.checks, &state);
            if !fails.is_empty() {
                return Err(format!(
                    "{} happened at {revision} though {fails:?} of {:?} did not hold",
                    commit.id, commit.checks
                ));
            }
            apply(commit, revision, &mut state);
        }
        for look in looks.get(&revision).into_iter().flatten() {
            look.agrees(&state)
                .map_err(|fault| format!("{} at {revision} {fault}", look.name()))?;
        }
    }
    if state == *last {
        return Ok(());
    }
    let keys = state.entries.keys().chain(last.entries.keys());
    let mut differing = keys.filter(|key| state.entries.get(*key) != last.entries.get(*key));
    let key = differing.next().map_or("", String::as_str);
    let (should, is) = (state.entries.get(key), last.entries.get(key));
    Err(format!(
        "a commit is half applied: {key} should be {should:?} and is {is:?}"
    ))
}

fn apply(commit: &Commit, revision: u64, state: &mut State) {
    state.revision = revision;
    for (key, value) in &commit.writes {
        let before = state.entries.remove(key);
        if let Some(value) = value {
            let seen = Seen {
                value: value.clone(),
                revision,
                create_revision: before.as_ref().map_or(revision, |before| before.create_revision),
                version: before.map_or(1, |before| before.version + 1),
            };
            state.entries.insert(key.clone(), seen);
        }
    }
}

/// Whether the order of revisions is that of time, where time tells: what had ended before another began.
fn in_time(points: &[Point]) -> Result<(), String> {
    let mut by_end: Vec<usize> = (0..points.len()).collect();
    by_end.sort_by_key(|index| points[*index].ended);
    let mut by_begin: Vec<usize> = (0..points.len()).collect();
    by_begin.sort_by_key(|index| points[*index].began);
    let mut ends = by_end.into_iter().map(|index| &points[index]).peekable();
    let mut latest: Option<&Point> = None;
    for point in by_begin.into_iter().map(|index| &points[index]) {
        while let Some(ended) = ends.next_if(|ended| ended.ended < point.began) {
            if latest.is_none_or(|latest| latest.revision < ended.revision) {
                latest = Some(ended);
            }
        }
        let Some(latest) = latest else { continue };
        let (before, after) = (latest.revision, point.revision);
        if after < before || (after == before && point.makes_it) {
            return Err(format!(
                "{} is at {after}, though {} had been answered at {before} before it was sent",
                point.name, latest.name
            ));
        }
    }
    Ok(())
}
