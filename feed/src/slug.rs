//! Drawing slugs: a readable base from a title, and a number that makes it one document's own.
//!
//! Which slugs are taken is the caller's knowledge; this module only draws.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

use rand::{Rng, RngExt as _};

use crate::id::{Kind, SLUG_LENGTH_MAX, Slug};

/// The longest base: with a hyphen and four digits it fills [`SLUG_LENGTH_MAX`].
pub const BASE_LENGTH_MAX: usize = SLUG_LENGTH_MAX - 1 - NUMBER_DIGITS;

/// The numbers that end a slug: always four digits.
pub const NUMBERS: RangeInclusive<u16> = 1000..=9999;

const NUMBER_DIGITS: usize = 4;

/// Random characters that join a base whose numbers are all taken.
const TAIL_LENGTH: usize = 4;

const TAIL_ALPHABET: &[u8; 36] = b"abcdefghijklmnopqrstuvwxyz0123456789";

/// The readable part of a slug: the title in lower case, every run of anything but a-z and 0-9 one hyphen, none at either
/// end, at most [`BASE_LENGTH_MAX`] long. A title that leaves nothing gives the kind's name.
#[must_use]
pub fn base(title: &str, kind: Kind) -> String {
    let mut base = String::with_capacity(BASE_LENGTH_MAX);
    for character in title.chars().flat_map(char::to_lowercase) {
        if base.len() == BASE_LENGTH_MAX {
            break;
        }
        if character.is_ascii_lowercase() || character.is_ascii_digit() {
            base.push(character);
        } else if !base.is_empty() && !base.ends_with('-') {
            base.push('-');
        }
    }
    // Cutting may leave a hyphen at the end, as may a title that ends in one.
    base.truncate(base.trim_end_matches('-').len());
    if base.is_empty() {
        kind.as_str().to_owned()
    } else {
        base
    }
}

/// A slug of this base with any number. It may be taken: the caller checks, and asks [`draw_free`] if it was.
#[must_use]
pub fn draw(base: &str, rng: &mut dyn Rng) -> Slug {
    numbered(base, rng.random_range(NUMBERS))
}

/// A slug of this base with a number drawn evenly from those not in `taken`; numbers outside [`NUMBERS`] do not matter.
/// When none is left, four random characters join the base, which makes one of 15 billion slugs nobody has listed: the
/// caller checks it as it does the result of [`draw`].
#[must_use]
pub fn draw_free(base: &str, taken: &BTreeSet<u16>, rng: &mut dyn Rng) -> Slug {
    let free = NUMBERS.len() - taken.range(NUMBERS).count();
    if free == 0 {
        return with_tail(base, rng);
    }
    // The number at this place among the free ones: every taken one at or below it moves it up.
    let mut number = *NUMBERS.start() + rng.random_range(0..u16::try_from(free).expect("at most 9000"));
    for taken in taken.range(NUMBERS) {
        if *taken > number {
            break;
        }
        number += 1;
    }
    numbered(base, number)
}

/// The number of a slug of this base, if it is one: what [`draw_free`]'s `taken` is made of.
#[must_use]
pub fn number_of(base: &str, slug: &str) -> Option<u16> {
    let digits = slug.strip_prefix(base)?.strip_prefix('-')?;
    let is_number = digits.len() == NUMBER_DIGITS && digits.bytes().all(|byte| byte.is_ascii_digit());
    if is_number { digits.parse().ok() } else { None }
}

/// The slug of this base and number. A base longer than [`BASE_LENGTH_MAX`] is cut.
#[must_use]
pub fn numbered(base: &str, number: u16) -> Slug {
    let base = cut(base, BASE_LENGTH_MAX);
    format!("{base}-{number}")
        .parse()
        .expect("a base is letters, digits and hyphens")
}

fn with_tail(base: &str, rng: &mut dyn Rng) -> Slug {
    let base = cut(base, BASE_LENGTH_MAX - 1 - TAIL_LENGTH);
    let tail: String = (0..TAIL_LENGTH)
        .map(|_| char::from(TAIL_ALPHABET[rng.random_range(0..TAIL_ALPHABET.len())]))
        .collect();
    numbered(&format!("{base}-{tail}"), rng.random_range(NUMBERS))
}

/// At most `length_max` bytes of a base, not ending in a hyphen.
fn cut(base: &str, length_max: usize) -> &str {
    base[..base.len().min(length_max)].trim_end_matches('-')
}
