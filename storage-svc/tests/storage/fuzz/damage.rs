//! What can happen to the bytes of a message.

use proptest::prelude::*;

/// Messages within messages: more than any decoder follows.
const DEPTH: usize = 300;

#[derive(Clone, Debug)]
pub(super) enum Damage {
    Flip(prop::sample::Index, u8),
    Truncate(prop::sample::Index),
    /// A part once more, elsewhere.
    Splice(prop::sample::Index, prop::sample::Index, usize),
    /// A number of ten bytes, all of them or all but the last as high as can be.
    Varint(prop::sample::Index, bool),
    /// A field within itself, again and again.
    Nest(u8),
    /// Groups that begin and do not end.
    Groups(u8),
    Insert(prop::sample::Index, Vec<u8>),
    Twice,
}

pub(super) fn damage() -> impl Strategy<Value = Damage> {
    let place = any::<prop::sample::Index>;
    prop_oneof![
        4 => (place(), 0..8_u8).prop_map(|(place, bit)| Damage::Flip(place, bit)),
        2 => place().prop_map(Damage::Truncate),
        2 => (place(), place(), 1..40_usize).prop_map(|(from, to, length)| Damage::Splice(from, to, length)),
        2 => (place(), any::<bool>()).prop_map(|(place, fits)| Damage::Varint(place, fits)),
        1 => (1..12_u8).prop_map(Damage::Nest),
        1 => (1..12_u8).prop_map(Damage::Groups),
        2 => (place(), prop::collection::vec(any::<u8>(), 1..16)).prop_map(|(place, bytes)| Damage::Insert(place, bytes)),
        1 => Just(Damage::Twice),
    ]
}

impl Damage {
    pub(super) fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Flip(place, bit) => {
                if !bytes.is_empty() {
                    let index = place.index(bytes.len());
                    bytes[index] ^= 1 << bit;
                }
            }
            Self::Truncate(place) => bytes.truncate(place.index(bytes.len() + 1)),
            Self::Splice(from, to, length) => {
                let from = from.index(bytes.len() + 1);
                let part = bytes[from..bytes.len().min(from + length)].to_vec();
                insert(bytes, to.index(bytes.len() + 1), part);
            }
            Self::Varint(place, fits) => {
                let mut number = vec![0xff; 9];
                number.push(if *fits { 1 } else { 0xff });
                insert(bytes, place.index(bytes.len() + 1), number);
            }
            Self::Nest(field) => {
                for _ in 0..DEPTH {
                    let mut outer = vec![field << 3 | 2];
                    let mut length = bytes.len();
                    while length > 0x7f {
                        outer.push(u8::try_from(length & 0x7f).expect("seven bits fit") | 0x80);
                        length >>= 7;
                    }
                    outer.push(u8::try_from(length).expect("seven bits fit"));
                    outer.append(bytes);
                    *bytes = outer;
                }
            }
            Self::Groups(field) => bytes.extend([field << 3 | 3; DEPTH]),
            Self::Insert(place, inserted) => insert(bytes, place.index(bytes.len() + 1), inserted.clone()),
            Self::Twice => bytes.extend_from_within(..),
        }
    }
}

fn insert(bytes: &mut Vec<u8>, at: usize, inserted: Vec<u8>) {
    bytes.splice(at..at, inserted);
}
