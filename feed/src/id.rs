//! The names documents and items go by: ids, slugs, and the path segment that may hold either.
//!
//! Everything here is checked when it is made, so that whoever holds one need not look again. How slugs are drawn is
//! `slug`'s business; how ids are spelled in storage keys is not decided here.

use std::fmt;
use std::str::FromStr;

use uuid::Uuid;

/// Length of a UUID written as 8-4-4-4-12 hex digits.
const UUID_TEXT_LENGTH: usize = 36;

/// The longest slug a stored document can have. A longer one is well-formed but names nothing.
pub const SLUG_LENGTH_MAX: usize = 64;

/// Text that names no document: neither 8-4-4-4-12 hex digits nor, where a slug may stand, letters, digits and hyphens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// Not 8-4-4-4-12 hex digits.
    #[error("not a UUID")]
    Uuid,
    /// Not one or more of the letters a-z and A-Z, digits and hyphens.
    #[error("not a slug")]
    Slug,
    /// Neither `playlist` nor `channel`.
    #[error("not a kind of document")]
    Kind,
}

/// What a document is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A list of works to play.
    Playlist,
    /// A list of playlists.
    Channel,
}

impl Kind {
    /// `playlist` or `channel`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Playlist => "playlist",
            Self::Channel => "channel",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

impl FromStr for Kind {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        match text {
            "playlist" => Ok(Self::Playlist),
            "channel" => Ok(Self::Channel),
            _ => Err(IdError::Kind),
        }
    }
}

fn parse_uuid(text: &str) -> Result<Uuid, IdError> {
    // The library also reads braces, URNs and bare hex; their lengths differ.
    if text.len() != UUID_TEXT_LENGTH {
        return Err(IdError::Uuid);
    }
    Uuid::try_parse(text).map_err(|_| IdError::Uuid)
}

fn random_uuid(rng: &mut dyn rand::Rng) -> Uuid {
    let mut bytes = [0; 16];
    rng.fill_bytes(&mut bytes);
    uuid::Builder::from_random_bytes(bytes).into_uuid()
}

macro_rules! uuid_name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        ///
        /// Any version and letter case is read; it prints in lower case, and orders as its text does.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Uuid);

        impl $name {
            /// Takes a UUID for what it is.
            #[must_use]
            pub const fn new(uuid: Uuid) -> Self {
                Self(uuid)
            }

            /// A new one: UUID version 4.
            #[must_use]
            pub fn random(rng: &mut dyn rand::Rng) -> Self {
                Self(random_uuid(rng))
            }

            /// The UUID itself.
            #[must_use]
            pub const fn uuid(self) -> Uuid {
                self.0
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                parse_uuid(text).map(Self)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.hyphenated().fmt(formatter)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.hyphenated().fmt(formatter)
            }
        }
    };
}

uuid_name! {
    /// The id of a playlist or a channel.
    DocumentId
}

uuid_name! {
    /// The id of an item of a playlist.
    ItemId
}

/// A readable name of a document: letters, digits and hyphens, letter case significant. Not bounded in length, so that a
/// long one in a path is a document that does not exist rather than a malformed request; see [`SLUG_LENGTH_MAX`].
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slug(String);

impl Slug {
    /// The slug as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Slug {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let well_formed = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        if well_formed {
            Ok(Self(text.to_owned()))
        } else {
            Err(IdError::Slug)
        }
    }
}

impl From<Slug> for String {
    fn from(slug: Slug) -> Self {
        slug.0
    }
}

impl fmt::Display for Slug {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// What a path segment names a document by.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reference {
    /// Text that looks like a UUID, whatever its version; letter case does not matter.
    Id(DocumentId),
    /// Any other text of letters, digits and hyphens.
    Slug(Slug),
}

impl FromStr for Reference {
    type Err = IdError;

    fn from_str(segment: &str) -> Result<Self, IdError> {
        match segment.parse() {
            Ok(id) => Ok(Self::Id(id)),
            Err(_) => segment.parse().map(Self::Slug),
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id(id) => id.fmt(formatter),
            Self::Slug(slug) => slug.fmt(formatter),
        }
    }
}

/// Which document: ids of playlists and channels are drawn apart, so the kind belongs to the name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DocumentKey {
    /// Playlist or channel.
    pub kind: Kind,
    /// Its id.
    pub id: DocumentId,
}

impl FromStr for DocumentKey {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let (kind, id) = text.split_once('/').ok_or(IdError::Kind)?;
        Ok(Self {
            kind: kind.parse()?,
            id: id.parse()?,
        })
    }
}

impl fmt::Display for DocumentKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.kind, self.id)
    }
}
