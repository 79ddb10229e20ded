//! Names and contents: what keys, queues and values may be.

use std::collections::BTreeMap;

use bytes::Bytes;
use proto::limits::{KEY_BYTES_MAX, NAMESPACE_CHARS_MAX, QUEUE_NAME_CHARS_MAX};

/// A namespace's name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Namespace(String);

impl Namespace {
    /// Checks the name; the error is the rule that it breaks.
    pub fn parse(name: String) -> Result<Self, String> {
        check_name(&name, NAMESPACE_CHARS_MAX)?;
        Ok(Self(name))
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A queue's name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QueueName(String);

impl QueueName {
    /// Checks the name; the error is the rule that it breaks.
    pub fn parse(name: String) -> Result<Self, String> {
        check_name(&name, QUEUE_NAME_CHARS_MAX)?;
        Ok(Self(name))
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn check_name(name: &str, chars_max: usize) -> Result<(), String> {
    let valid = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-".contains(&byte);
    if name.is_empty() || name.len() > chars_max || !name.bytes().all(valid) {
        return Err(format!("must be 1 to {chars_max} characters of [a-z0-9._-]"));
    }
    Ok(())
}

/// A key's name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(String);

impl Key {
    /// Checks the name; the error is the rule that it breaks.
    pub fn parse(key: String) -> Result<Self, String> {
        if key.is_empty() || key.len() > KEY_BYTES_MAX || key.contains('\0') {
            return Err(format!("must be 1 to {KEY_BYTES_MAX} bytes without NUL"));
        }
        Ok(Self(key))
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A key in its namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyName {
    /// Where.
    pub namespace: Namespace,
    /// Which.
    pub key: Key,
}

/// A value or a message's body. What was written as text is read as text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// Any bytes.
    Bytes(Bytes),
    /// UTF-8.
    Text(String),
}

impl Content {
    /// The bytes, whatever the kind.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Text(text) => text.as_bytes(),
        }
    }
}

/// Metadata of an entry or attributes of a message.
pub type Pairs = BTreeMap<String, String>;
