//! Collecting problems and where they are. What counts as one is not decided here.

use std::fmt;

use super::{Invalid, PROBLEMS_MAX, Problem};
use crate::json::shown;

/// Characters of a sender's text, a member name or a refused value, that a problem repeats.
const SHOWN_CHARS_MAX: usize = 64;

/// A place in a body, linked to the place it is in.
#[derive(Clone, Copy)]
pub(super) struct Path<'a> {
    parent: Option<&'a Path<'a>>,
    segment: Segment<'a>,
}

#[derive(Clone, Copy)]
enum Segment<'a> {
    Root,
    Member(&'a str),
    Position(usize),
}

impl<'a> Path<'a> {
    pub(super) const ROOT: Path<'static> = Path {
        parent: None,
        segment: Segment::Root,
    };

    pub(super) const fn child(&'a self, member: &'a str) -> Path<'a> {
        Path {
            parent: Some(self),
            segment: Segment::Member(member),
        }
    }

    pub(super) const fn element(&'a self, position: usize) -> Path<'a> {
        Path {
            parent: Some(self),
            segment: Segment::Position(position),
        }
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(parent) = self.parent {
            parent.fmt(formatter)?;
            if !matches!(parent.segment, Segment::Root) {
                formatter.write_str(".")?;
            }
        }
        match self.segment {
            Segment::Root => Ok(()),
            Segment::Member(name) => formatter.write_str(&shown(name, SHOWN_CHARS_MAX)),
            Segment::Position(position) => position.fmt(formatter),
        }
    }
}

/// The problems found so far.
#[derive(Default)]
pub(super) struct Report {
    problems: Vec<Problem>,
    more: usize,
    malformed: usize,
}

impl Report {
    /// Something of the right type whose value will not do.
    pub(super) fn problem(&mut self, path: &Path<'_>, text: impl fmt::Display) {
        if self.problems.len() < PROBLEMS_MAX {
            self.problems.push(Problem {
                path: path.to_string(),
                text: text.to_string(),
            });
        } else {
            self.more += 1;
        }
    }

    /// Something missing or of the wrong type: rules over several members make no sense around it.
    pub(super) fn malformed(&mut self, path: &Path<'_>, text: impl fmt::Display) {
        self.malformed += 1;
        self.problem(path, text);
    }

    /// Problems of [`Report::malformed`]'s kind so far, to see whether an object added some.
    pub(super) const fn malformed_count(&self) -> usize {
        self.malformed
    }

    pub(super) const fn is_well_formed(&self) -> bool {
        self.malformed == 0
    }

    pub(super) fn finish(self) -> Result<(), Invalid> {
        if self.problems.is_empty() {
            Ok(())
        } else {
            Err(Invalid {
                problems: self.problems,
                more: self.more,
            })
        }
    }
}

/// A refused value as a problem repeats it.
pub(super) fn repeated(value: &str) -> String {
    shown(value, SHOWN_CHARS_MAX)
}
