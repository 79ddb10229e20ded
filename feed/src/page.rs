//! Where a page of a list begins, which way it runs and how long it is, as a client says it.
//!
//! How rows are kept is not known here: a position is a time and an id, whatever the list.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

/// Rows of a page when the client does not say, and the most it may ask for.
pub const LIMIT_MAX: usize = 100;

/// The first byte of every cursor, so that a later form can be told apart.
const CURSOR_VERSION: u8 = 1;
/// Bytes of the binding's SHA-256 that a cursor carries. It guards against mistakes, not attacks: a cursor only says
/// where to begin in a list that anyone may read.
const BINDING_BYTES: usize = 8;
const CURSOR_BYTES: usize = 1 + BINDING_BYTES + 8 + 16;
/// Length of every cursor.
pub const CURSOR_LENGTH: usize = CURSOR_BYTES * 4 / 3;

/// The order of a list: by creation time, then id. Descending is exactly ascending reversed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Sort {
    /// Oldest first.
    #[default]
    Ascending,
    /// Newest first.
    Descending,
}

impl Sort {
    /// `desc` in any letter case is descending; anything else, or nothing, ascending.
    #[must_use]
    pub fn parse(value: Option<&str>) -> Self {
        match value {
            Some(text) if text.eq_ignore_ascii_case("desc") => Self::Descending,
            _ => Self::Ascending,
        }
    }

    /// `asc` or `desc`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ascending => "asc",
            Self::Descending => "desc",
        }
    }
}

/// A page length that is not a whole number from 1 to [`LIMIT_MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("limit is not a whole number from 1 to {LIMIT_MAX}")]
pub struct LimitError;

/// The number of rows asked for: decimal digits only, 1 to [`LIMIT_MAX`], which it is when absent or empty.
pub fn parse_limit(value: Option<&str>) -> Result<usize, LimitError> {
    let text = match value {
        None | Some("") => return Ok(LIMIT_MAX),
        Some(text) => text,
    };
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(LimitError);
    }
    match text.parse() {
        Ok(limit) if (1..=LIMIT_MAX).contains(&limit) => Ok(limit),
        _ => Err(LimitError),
    }
}

/// A cursor that does not continue the list it was given to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CursorError {
    /// Not a cursor of this feed.
    #[error("not a cursor")]
    Malformed,
    /// A cursor of another list, order or filter.
    #[error("a cursor of another list, order or filter")]
    OtherList,
}

/// A row of a list: the last one of a page, after which the next begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// When the row's document or item was created, in ms since 1970.
    pub created_ms: i64,
    /// Its id.
    pub id: Uuid,
}

/// What a cursor continues: one list, in one order, under one filter. Its text is opaque to clients and of one length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor<'a> {
    /// The list's name.
    pub list: &'a str,
    /// Its order.
    pub sort: Sort,
    /// What the list is filtered by, such as a channel's id.
    pub filter: Option<&'a str>,
}

impl Cursor<'_> {
    /// The text that continues this list after `last`: [`CURSOR_LENGTH`] characters of base64url.
    #[must_use]
    pub fn encode(&self, last: &Position) -> String {
        let mut bytes = Vec::with_capacity(CURSOR_BYTES);
        bytes.push(CURSOR_VERSION);
        bytes.extend(self.binding());
        bytes.extend(last.created_ms.to_be_bytes());
        bytes.extend(last.id.as_bytes());
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// The position in a cursor's text, if it continues this very list.
    pub fn decode(&self, text: &str) -> Result<Position, CursorError> {
        if text.len() != CURSOR_LENGTH {
            return Err(CursorError::Malformed);
        }
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| CursorError::Malformed)?;
        let (version, rest) = bytes.split_first().ok_or(CursorError::Malformed)?;
        let (binding, rest) = rest
            .split_first_chunk::<BINDING_BYTES>()
            .ok_or(CursorError::Malformed)?;
        let (created_ms, rest) = rest.split_first_chunk::<8>().ok_or(CursorError::Malformed)?;
        let id = Uuid::from_slice(rest).map_err(|_| CursorError::Malformed)?;
        if *version != CURSOR_VERSION {
            return Err(CursorError::Malformed);
        }
        if *binding != self.binding() {
            return Err(CursorError::OtherList);
        }
        Ok(Position {
            created_ms: i64::from_be_bytes(*created_ms),
            id,
        })
    }

    fn binding(&self) -> [u8; BINDING_BYTES] {
        let mut hash = Sha256::new();
        // Lengths keep the parts apart; the last byte tells an absent filter from an empty one.
        for part in [self.list, self.sort.as_str(), self.filter.unwrap_or_default()] {
            hash.update(part.len().to_be_bytes());
            hash.update(part);
        }
        hash.update([u8::from(self.filter.is_some())]);
        let digest: [u8; 32] = hash.finalize().into();
        *digest.first_chunk().expect("a digest is longer than the binding")
    }
}
