//! The way of an answer to its client, part by part. Whoever tells the answer sees how far it gets, and can take back
//! what has not left.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{Buf as _, Bytes};
use proto::limits::ANSWER_FREE_BYTES;

/// Most that is handed to a connection at once. A connection takes a part when it can send some of it, so it holds one,
/// and waits with another: the rest stays here, where it is counted and can be taken back.
pub(crate) const PART_BYTES: usize = ANSWER_FREE_BYTES;

/// The way of one answer; clones are the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct Way(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    /// Of what is on its way, the parts to come.
    rest: Bytes,
    /// More is being made.
    is_filling: bool,
    is_closed: bool,
    /// Parts that were handed on.
    parts: u64,
}

impl Way {
    /// The next part of what is on its way.
    pub(crate) fn next(&self) -> Option<Bytes> {
        self.lock().next()
    }

    /// More is about to be made.
    pub(crate) fn fills(&self) {
        self.lock().is_filling = true;
    }

    /// This much was made: its first part.
    pub(crate) fn filled(&self, data: Bytes) -> Bytes {
        let mut state = self.lock();
        state.is_filling = false;
        if data.len() <= PART_BYTES {
            state.parts += 1;
            return data;
        }
        state.rest = data;
        let first = state.next().unwrap_or_default();
        if state.is_closed {
            state.rest = Bytes::new();
        }
        first
    }

    /// Nothing was made, or only the end.
    pub(crate) fn rests(&self) {
        self.lock().is_filling = false;
    }

    /// Whether no part is left.
    pub(crate) fn is_empty(&self) -> bool {
        self.lock().rest.is_empty()
    }

    /// How many parts were handed on.
    pub(crate) fn parts(&self) -> u64 {
        self.lock().parts
    }

    /// Takes back what has not been handed on, also of what is being made now. Whether there was any: then the last that
    /// was told does not arrive as a whole.
    pub(crate) fn close(&self) -> bool {
        let mut state = self.lock();
        state.is_closed = true;
        let is_torn = state.is_filling || !state.rest.is_empty();
        state.rest = Bytes::new();
        is_torn
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn next(&mut self) -> Option<Bytes> {
        if self.rest.is_empty() {
            return None;
        }
        self.parts += 1;
        // A copy, so that a part which a connection keeps does not keep the whole.
        let part = Bytes::copy_from_slice(&self.rest[..self.rest.len().min(PART_BYTES)]);
        self.rest.advance(part.len());
        if self.rest.is_empty() {
            self.rest = Bytes::new();
        }
        Some(part)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(bytes: usize) -> Bytes {
        (0..=250).cycle().take(bytes).collect()
    }

    fn all(way: &Way, first: Bytes) -> (Vec<usize>, Vec<u8>) {
        let parts: Vec<_> = std::iter::once(first)
            .chain(std::iter::from_fn(|| way.next()))
            .collect();
        (parts.iter().map(Bytes::len).collect(), parts.concat())
    }

    #[test]
    fn parts_are_the_whole_again() {
        for (bytes, expected) in [
            (1, vec![1]),
            (PART_BYTES, vec![PART_BYTES]),
            (PART_BYTES + 1, vec![PART_BYTES, 1]),
            (3 * PART_BYTES, vec![PART_BYTES; 3]),
        ] {
            let way = Way::default();
            way.fills();
            let first = way.filled(data(bytes));
            assert_eq!(all(&way, first), (expected.clone(), data(bytes).to_vec()));
            assert_eq!(way.parts(), expected.len() as u64);
            assert!(!way.close(), "all of it has left");
        }
    }

    #[test]
    fn what_has_not_left_is_taken_back() {
        let way = Way::default();
        way.filled(data(2 * PART_BYTES));
        assert!(way.close());
        assert_eq!(way.next(), None);
        // What was under way meanwhile.
        way.fills();
        assert!(way.close());
        assert_eq!(way.filled(data(2 * PART_BYTES)), data(PART_BYTES));
        assert_eq!(way.next(), None);
        way.fills();
        way.rests();
        assert!(!way.close());
    }

    #[test]
    fn a_part_does_not_keep_the_whole() {
        let way = Way::default();
        let whole = data(2 * PART_BYTES);
        let first = way.filled(whole.clone());
        let second = way.next().expect("there is more");
        assert_eq!((first.len(), second.len()), (PART_BYTES, PART_BYTES));
        assert!(whole.is_unique());
    }
}
