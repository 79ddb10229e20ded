//! Which numbers of a slug's base are known to be taken, so that concurrent creates of one title do not draw the same.
//!
//! A hint, never the truth: the commit checks that the slug is free, and whoever loses there learns from storage what is
//! taken. Numbers that were released since only come back when a base seems full.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use feed::id::{Kind, Slug};
use feed::slug::{self, NUMBERS};
use feed_store::{FeedStore, FeedStoreError};
use rand::Rng;

/// Bases that are remembered; the one used longest ago is forgotten.
const BASES_MAX: usize = 256;
/// Draws from a base that seems full before storage is asked again whether it still is.
const FULL_DRAWS_MAX: u32 = 256;

/// What is known of the bases that were drawn from last.
#[derive(Clone, Debug, Default)]
pub(crate) struct SlugDesk(Arc<Mutex<Desk>>);

#[derive(Debug, Default)]
struct Desk {
    bases: HashMap<(Kind, String), Base>,
    uses: u64,
}

#[derive(Debug, Default)]
struct Base {
    /// Taken in storage, or drawn and not committed yet.
    taken: BTreeSet<u16>,
    last_use: u64,
    /// Draws since all numbers were found taken.
    full_draws: Option<u32>,
}

/// A slug that nobody else in this gateway draws meanwhile.
#[derive(Debug)]
pub(crate) struct Draw {
    desk: SlugDesk,
    kind: Kind,
    base: String,
    /// The slug.
    pub(crate) slug: Slug,
    is_settled: bool,
}

impl SlugDesk {
    /// Draws a slug for a new document of this title.
    pub(crate) async fn draw(&self, kind: Kind, title: &str, store: &FeedStore) -> Result<Draw, FeedStoreError> {
        let base = slug::base(title, kind);
        if self.seems_full(kind, &base) {
            self.learn(kind, &base, store).await?;
        }
        Ok(self.draw_from(kind, base, &mut rand::rng()))
    }

    /// Draws again after somebody else was found to have the slug.
    pub(crate) async fn draw_again(&self, mut lost: Draw, store: &FeedStore) -> Result<Draw, FeedStoreError> {
        lost.is_settled = true;
        self.learn(lost.kind, &lost.base, store).await?;
        Ok(self.draw_from(lost.kind, lost.base.clone(), &mut rand::rng()))
    }

    fn draw_from(&self, kind: Kind, base: String, rng: &mut dyn Rng) -> Draw {
        let slug = self.with(kind, &base, |known| {
            let slug = slug::draw_free(&base, &known.taken, rng);
            known.taken.extend(slug::number_of(&base, slug.as_str()));
            slug
        });
        Draw {
            desk: self.clone(),
            kind,
            base,
            slug,
            is_settled: false,
        }
    }

    /// Whether all numbers are taken as far as is known, and that was not looked up lately.
    fn seems_full(&self, kind: Kind, base: &str) -> bool {
        self.with(kind, base, |known| {
            if !known.is_full() {
                return false;
            }
            let draws = known.full_draws.map_or(0, |draws| (draws + 1) % FULL_DRAWS_MAX);
            known.full_draws = Some(draws);
            draws == 0
        })
    }

    /// Reads which numbers are taken. Those drawn meanwhile stay so.
    async fn learn(&self, kind: Kind, base: &str, store: &FeedStore) -> Result<(), FeedStoreError> {
        let was_full = self.with(kind, base, |known| known.is_full());
        let stored = store.taken_numbers(kind, base).await?;
        self.with(kind, base, |known| {
            if was_full {
                // What only memory holds was released since, or is being committed: then the commit decides.
                known.taken = stored;
            } else {
                known.taken.extend(stored);
            }
        });
        Ok(())
    }

    fn with<T>(&self, kind: Kind, base: &str, act: impl FnOnce(&mut Base) -> T) -> T {
        let mut desk = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        desk.uses += 1;
        let now = desk.uses;
        let key = (kind, base.to_owned());
        if desk.bases.len() == BASES_MAX && !desk.bases.contains_key(&key) {
            let oldest = desk.bases.iter().min_by_key(|(_, known)| known.last_use);
            let oldest = oldest.map(|(key, _)| key.clone()).expect("the desk is full");
            desk.bases.remove(&oldest);
        }
        let known = desk.bases.entry(key).or_default();
        known.last_use = now;
        act(known)
    }
}

impl Base {
    fn is_full(&self) -> bool {
        self.taken.range(NUMBERS).count() == NUMBERS.len()
    }
}

impl Draw {
    /// The slug is a document's now.
    pub(crate) fn settle(mut self) {
        self.is_settled = true;
    }
}

impl Drop for Draw {
    fn drop(&mut self) {
        if !self.is_settled
            && let Some(number) = slug::number_of(&self.base, self.slug.as_str())
        {
            self.desk
                .with(self.kind, &self.base, |known| known.taken.remove(&number));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_drawn_is_drawn_once_until_it_is_given_back() {
        let desk = SlugDesk::default();
        let draw = || desk.draw_from(Kind::Playlist, "a".to_owned(), &mut rand::rng());
        let mut draws: Vec<_> = NUMBERS.map(|_| draw()).collect();
        let slugs: BTreeSet<_> = draws.iter().map(|draw| draw.slug.clone()).collect();
        assert_eq!(slugs.len(), NUMBERS.len());
        assert!(slugs.iter().all(|slug| slug.as_str().len() == "a-1234".len()));
        let tail = draw();
        assert_eq!(tail.slug.as_str().len(), "a-wxyz-1234".len());
        let given_back = draws.pop().expect("a draw").slug.clone();
        assert_eq!(draw().slug, given_back);
        draws.into_iter().for_each(Draw::settle);
    }

    #[test]
    fn few_bases_are_remembered() {
        let desk = SlugDesk::default();
        for number in 0..=BASES_MAX {
            desk.draw_from(Kind::Channel, format!("base-{number}"), &mut rand::rng())
                .settle();
        }
        let desk = desk.0.lock().expect("no panic");
        assert_eq!(desk.bases.len(), BASES_MAX);
        assert!(!desk.bases.contains_key(&(Kind::Channel, "base-0".to_owned())));
    }
}
