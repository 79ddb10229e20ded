//! What a client may send: bodies become drafts and patches, or a list of everything that is wrong with them.
//!
//! The rules are those of the feed API as existing clients know it: lengths in UTF-16 units, white space as JavaScript
//! has it, unknown members dropped at some levels and kept at others, because signed bytes depend on it. This module
//! does not know documents, ids or signatures. `report` collects problems, `text` holds the forms of strings,
//! `schema` what each object may hold.

mod report;
mod schema;
mod text;

use std::fmt;

use serde_json::Value;

use crate::json::Object;
use report::{Path, Report};

pub use schema::{ITEMS_MAX, PLAYLISTS_MAX};

/// Problems of one body that are reported one by one. The rest are counted.
pub const PROBLEMS_MAX: usize = 100;

/// Members that only the feed writes, in the order in which a refusal names them.
const PROTECTED: [&str; 4] = ["id", "slug", "created", "signature"];

/// Something wrong with a body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where: member names and positions joined by `.`, empty for the body itself.
    pub path: String,
    /// What.
    pub text: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}", self.path, self.text)
    }
}

/// Everything wrong with a body, in the order of the schema. `Display` is `<path>: <text>` joined by `; `.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invalid {
    /// The first [`PROBLEMS_MAX`] problems; at least one.
    pub problems: Vec<Problem>,
    /// How many more there are.
    pub more: usize,
}

impl Invalid {
    /// A playlist that a patch would leave with nothing to play.
    pub(crate) fn without_works() -> Self {
        let problem = Problem {
            path: schema::WORKS_PATH.to_owned(),
            text: schema::WORKS_MISSING.to_owned(),
        };
        Self {
            problems: vec![problem],
            more: 0,
        }
    }
}

impl fmt::Display for Invalid {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, problem) in self.problems.iter().enumerate() {
            let separator = if position == 0 { "" } else { "; " };
            write!(formatter, "{separator}{problem}")?;
        }
        if self.more > 0 {
            write!(formatter, "; and {} more", self.more)?;
        }
        Ok(())
    }
}

impl std::error::Error for Invalid {}

/// The members of an update that only the feed writes, whatever their value.
#[must_use]
pub fn protected_fields(body: &Object) -> Vec<&'static str> {
    PROTECTED.into_iter().filter(|name| body.contains_key(*name)).collect()
}

/// A playlist as a client sends it to POST or PUT: checked, and without what the feed does not keep.
#[derive(Clone, Debug, PartialEq)]
pub struct PlaylistDraft {
    pub(crate) members: Object,
}

impl PlaylistDraft {
    /// Checks a body. Members that the feed writes itself (`id`, `slug`, `created`, signatures) are ignored.
    pub fn parse(body: Value) -> Result<Self, Invalid> {
        let mut report = Report::default();
        schema::check(schema::playlist, &body, &mut report);
        if report.is_well_formed() && !schema::has_works(&body) {
            report.problem(
                &Path::ROOT.child("items").child("dynamicQueries"),
                schema::WORKS_MISSING,
            );
        }
        report.finish()?;
        Ok(Self {
            members: schema::projected(schema::PLAYLIST, into_object(body)),
        })
    }

    /// The title, which may be empty.
    #[must_use]
    pub fn title(&self) -> &str {
        title(&self.members)
    }
}

/// A channel as a client sends it to POST or PUT: checked, and without what the feed does not keep.
#[derive(Clone, Debug, PartialEq)]
pub struct ChannelDraft {
    pub(crate) members: Object,
    playlists: Vec<String>,
}

impl ChannelDraft {
    /// Checks a body. Members that the feed writes itself (`id`, `slug`, `created`, signatures) are ignored.
    pub fn parse(body: Value) -> Result<Self, Invalid> {
        let mut report = Report::default();
        schema::check(schema::channel, &body, &mut report);
        report.finish()?;
        let members = schema::projected(schema::CHANNEL, into_object(body));
        Ok(Self {
            playlists: urls(members.get("playlists")),
            members,
        })
    }

    /// The title, which may be empty.
    #[must_use]
    pub fn title(&self) -> &str {
        title(&self.members)
    }

    /// The URLs of its playlists, 1 to [`PLAYLISTS_MAX`].
    #[must_use]
    pub fn playlists(&self) -> &[String] {
        &self.playlists
    }
}

/// Some members of a playlist as a client sends them to PATCH. `null` removes a member that need not be there; an empty
/// `title` or `summary` is ignored, as existing clients expect.
#[derive(Clone, Debug, PartialEq)]
pub struct PlaylistPatch {
    pub(crate) changes: Changes,
}

impl PlaylistPatch {
    /// Checks a body. That it names no [`protected_fields`] is the caller's to check first.
    pub fn parse(body: Object) -> Result<Self, Invalid> {
        let mut report = Report::default();
        let body = Value::Object(body);
        schema::check(schema::playlist_patch, &body, &mut report);
        if report.is_well_formed() && schema::sends_works(&body) && !schema::has_works(&body) {
            report.problem(
                &Path::ROOT.child("items").child("dynamicQueries"),
                schema::WORKS_EMPTIED,
            );
        }
        report.finish()?;
        Ok(Self {
            changes: Changes::of(schema::PLAYLIST, into_object(body)),
        })
    }
}

/// Some members of a channel as a client sends them to PATCH. `null` removes a member that need not be there; an empty
/// `title`, `summary` or `curator` is ignored, as existing clients expect.
#[derive(Clone, Debug, PartialEq)]
pub struct ChannelPatch {
    pub(crate) changes: Changes,
    playlists: Option<Vec<String>>,
}

impl ChannelPatch {
    /// Checks a body. That it names no [`protected_fields`] is the caller's to check first.
    pub fn parse(body: Object) -> Result<Self, Invalid> {
        let mut report = Report::default();
        let body = Value::Object(body);
        schema::check(schema::channel_patch, &body, &mut report);
        report.finish()?;
        let playlists = body.get("playlists").map(|playlists| urls(Some(playlists)));
        Ok(Self {
            changes: Changes::of(schema::CHANNEL, into_object(body)),
            playlists,
        })
    }

    /// The URLs of its playlists, 1 to [`PLAYLISTS_MAX`], if they are sent.
    #[must_use]
    pub fn playlists(&self) -> Option<&[String]> {
        self.playlists.as_deref()
    }
}

/// What a patch does to the members of a document, checked.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Changes {
    set: Object,
    removed: Vec<&'static str>,
}

impl Changes {
    fn of(members: &'static [schema::Member], mut body: Object) -> Self {
        let is_null = |name: &str| body.get(name).is_some_and(Value::is_null);
        let removed: Vec<_> = members
            .iter()
            .map(|member| member.name)
            .filter(|name| is_null(name))
            .collect();
        body.retain(|_, value| !value.is_null() && value.as_str() != Some(""));
        Self {
            set: schema::projected(members, body),
            removed,
        }
    }

    pub(crate) fn apply(&self, members: &mut Object) {
        for name in &self.removed {
            members.shift_remove(*name);
        }
        for (name, value) in &self.set {
            members.insert(name.clone(), value.clone());
        }
    }

    pub(crate) fn sets(&self, name: &str) -> bool {
        self.set.contains_key(name)
    }

    pub(crate) fn removes(&self, name: &str) -> bool {
        self.removed.contains(&name)
    }
}

fn into_object(body: Value) -> Object {
    let Value::Object(object) = body else {
        unreachable!("a body that passed is an object")
    };
    object
}

fn title(members: &Object) -> &str {
    members
        .get("title")
        .and_then(Value::as_str)
        .expect("a draft has a title")
}

fn urls(playlists: Option<&Value>) -> Vec<String> {
    let urls = playlists.and_then(Value::as_array).into_iter().flatten();
    urls.filter_map(Value::as_str).map(str::to_owned).collect()
}
