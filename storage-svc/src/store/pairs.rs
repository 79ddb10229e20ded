//! How metadata and attributes lie in a column: each text with its length before it, or nothing at all.

use crate::error::StoreError;
use crate::model::Pairs;

/// None for no pairs. The limits on pairs keep every length within two bytes.
pub(super) fn encode(pairs: &Pairs) -> Option<Vec<u8>> {
    if pairs.is_empty() {
        return None;
    }
    let mut column = Vec::new();
    for text in pairs.iter().flat_map(|(name, value)| [name, value]) {
        let length = u16::try_from(text.len()).expect("pairs are checked to be about a kilobyte");
        column.extend(length.to_be_bytes());
        column.extend(text.as_bytes());
    }
    Some(column)
}

/// The pairs of a column.
pub(super) fn decode(column: Option<&[u8]>) -> Result<Pairs, StoreError> {
    let mut rest = column.unwrap_or_default();
    let mut pairs = Pairs::new();
    while !rest.is_empty() {
        let name = take_text(&mut rest)?;
        pairs.insert(name, take_text(&mut rest)?);
    }
    Ok(pairs)
}

fn take_text(rest: &mut &[u8]) -> Result<String, StoreError> {
    let damaged = || StoreError::Damaged("pairs that do not read");
    let (length, behind) = rest.split_first_chunk().ok_or_else(damaged)?;
    let length = usize::from(u16::from_be_bytes(*length));
    let (text, behind) = behind.split_at_checked(length).ok_or_else(damaged)?;
    *rest = behind;
    String::from_utf8(text.to_vec()).map_err(|_| damaged())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn pairs_are_read_as_they_were_written(pairs in prop::collection::btree_map(".{0,20}", ".{0,20}", 0..8)) {
            prop_assert_eq!(decode(encode(&pairs).as_deref()).ok(), Some(pairs));
        }

        #[test]
        fn no_column_makes_it_panic(column in prop::collection::vec(any::<u8>(), 0..40)) {
            let _ = decode(Some(&column));
        }
    }
}
