//! A digest that tells requests apart.

use sha2::{Digest as _, Sha256};

use super::name::{Content, KeyName, Pairs};

/// A digest of fields, each with its length, so that no two requests read alike.
#[derive(Default)]
pub(crate) struct Fingerprint(Sha256);

impl Fingerprint {
    pub(crate) fn number(&mut self, number: u64) -> &mut Self {
        self.0.update(number.to_be_bytes());
        self
    }

    pub(crate) fn signed(&mut self, number: i64) -> &mut Self {
        self.0.update(number.to_be_bytes());
        self
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.number(bytes.len() as u64);
        self.0.update(bytes);
        self
    }

    pub(crate) fn text(&mut self, text: &str) -> &mut Self {
        self.bytes(text.as_bytes())
    }

    pub(crate) fn finish(self) -> [u8; 32] {
        self.0.finalize().into()
    }

    pub(crate) fn key_name(&mut self, name: &KeyName) -> &mut Self {
        self.text(name.namespace.as_str()).text(name.key.as_str())
    }

    pub(crate) fn content(&mut self, content: &Content) -> &mut Self {
        self.number(u64::from(matches!(content, Content::Text(_))));
        self.bytes(content.as_bytes())
    }

    pub(crate) fn pairs(&mut self, pairs: &Pairs) -> &mut Self {
        self.number(pairs.len() as u64);
        for (name, value) in pairs {
            self.text(name).text(value);
        }
        self
    }
}
