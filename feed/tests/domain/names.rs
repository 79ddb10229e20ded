use std::collections::{BTreeMap, BTreeSet};

use feed::id::{DocumentId, DocumentKey, IdError, ItemId, Kind, Reference, SLUG_LENGTH_MAX, Slug};
use feed::slug::{BASE_LENGTH_MAX, NUMBERS, base, draw, draw_free, number_of};
use proptest::prelude::*;
use rand::SeedableRng as _;
use rand::rngs::StdRng;

#[track_caller]
fn base_is(title: &str, expected: &str) {
    assert_eq!(base(title, Kind::Playlist), expected);
}

#[test]
fn bases_of_titles() {
    base_is("My Test!! Playlist", "my-test-playlist");
    base_is("--Hello   World--__--", "hello-world");
    base_is("☃☃☃", "playlist");
    base_is("", "playlist");
    base_is("-", "playlist");
    assert_eq!(base("", Kind::Channel), "channel");
    base_is("Café №5", "caf-5");
    base_is("ÀB", "b");
    // The Kelvin sign is a k in lower case.
    base_is("\u{212a}elvin", "kelvin");
    base_is(&"a".repeat(300), &"a".repeat(59));
    // A cut that would end in a hyphen does not.
    base_is(&format!("{} b", "a".repeat(58)), &"a".repeat(58));
    base_is(&format!("{} b", "a".repeat(57)), &format!("{}-b", "a".repeat(57)));
    base_is(&format!("{}{}", " ".repeat(500), "a"), "a");
}

#[test]
fn ten_thousand_slugs_of_one_base_differ() {
    let mut rng = StdRng::seed_from_u64(7);
    let base = base("Untitled", Kind::Playlist);
    let (mut slugs, mut numbers) = (BTreeSet::new(), BTreeSet::new());
    for position in 0..10_000 {
        let slug = draw_free(&base, &numbers, &mut rng);
        let number = number_of(&base, slug.as_str());
        assert_eq!(number.is_some(), position < 9000, "{slug}");
        numbers.extend(number);
        assert!(slugs.insert(slug.clone()), "{slug} came twice");
        assert!(is_feed_slug(slug.as_str()), "{slug}");
    }
    assert_eq!(numbers, NUMBERS.collect());
    let last = slugs
        .iter()
        .find(|slug| number_of(&base, slug.as_str()).is_none())
        .unwrap();
    assert_eq!(last.as_str().len(), "untitled-k3f9-1234".len(), "{last}");
}

#[test]
fn a_full_long_base_is_cut_for_its_tail() {
    let mut rng = StdRng::seed_from_u64(7);
    let full: BTreeSet<u16> = NUMBERS.collect();
    let slug = draw_free(&format!("{}-{}", "a".repeat(53), "b".repeat(5)), &full, &mut rng);
    assert!(
        slug.as_str().starts_with(&format!("{}-", "a".repeat(53))) && slug.as_str().len() == 63,
        "{slug}"
    );
    let slug = draw_free(&"a".repeat(BASE_LENGTH_MAX), &full, &mut rng);
    assert_eq!(slug.as_str().len(), SLUG_LENGTH_MAX, "{slug}");
}

#[test]
fn free_numbers_are_drawn_evenly() {
    let mut rng = StdRng::seed_from_u64(7);
    let taken: BTreeSet<u16> = NUMBERS
        .filter(|number| number % 3000 != 0)
        .chain([12, 60_000])
        .collect();
    let mut drawn = BTreeMap::<String, u32>::new();
    for _ in 0..3000 {
        *drawn.entry(draw_free("x", &taken, &mut rng).to_string()).or_default() += 1;
    }
    assert_eq!(drawn.keys().collect::<Vec<_>>(), ["x-3000", "x-6000", "x-9000"]);
    assert!(drawn.values().all(|count| (850..1150).contains(count)), "{drawn:?}");
}

#[test]
fn numbers_are_those_of_the_very_base() {
    assert_eq!(number_of("a", "a-1234"), Some(1234));
    assert_eq!(number_of("a", "a-0012"), Some(12));
    assert_eq!(number_of("a", "a-b-1234"), None);
    assert_eq!(number_of("a", "a-12345"), None);
    assert_eq!(number_of("a", "a-+123"), None);
    assert_eq!(number_of("ab", "a-1234"), None);
}

#[track_caller]
fn refers_to(segment: &str, expected: Result<&str, IdError>) {
    let named = segment.parse::<Reference>().map(|reference| match reference {
        Reference::Id(id) => format!("id {id}"),
        Reference::Slug(slug) => format!("slug {slug}"),
    });
    assert_eq!(named.as_deref().map_err(|error| *error), expected);
}

#[test]
fn path_segments() {
    refers_to(
        "385F79B6-A45F-4C1C-8080-E93A192ADCCC",
        Ok("id 385f79b6-a45f-4c1c-8080-e93a192adccc"),
    );
    refers_to(
        "00000000-0000-0000-0000-000000000000",
        Ok("id 00000000-0000-0000-0000-000000000000"),
    );
    refers_to(
        "ffffffff-ffff-ffff-ffff-ffffffffffff",
        Ok("id ffffffff-ffff-ffff-ffff-ffffffffffff"),
    );
    refers_to(
        "385f79b6a45f4c1c8080e93a192adccc",
        Ok("slug 385f79b6a45f4c1c8080e93a192adccc"),
    );
    refers_to(
        "385f79b6-a45f-4c1c-8080e93a192ad-ccc",
        Ok("slug 385f79b6-a45f-4c1c-8080e93a192ad-ccc"),
    );
    refers_to("{385f79b6-a45f-4c1c-8080-e93a192adc}", Err(IdError::Slug));
    refers_to("My-Slug-1234", Ok("slug My-Slug-1234"));
    refers_to("-", Ok("slug -"));
    refers_to("", Err(IdError::Slug));
    refers_to("a_b", Err(IdError::Slug));
    refers_to("a/b", Err(IdError::Slug));
    refers_to("a\n", Err(IdError::Slug));
    refers_to("%zz", Err(IdError::Slug));
    refers_to("é", Err(IdError::Slug));
}

#[test]
fn items_go_by_id_only() {
    assert_eq!("some-slug".parse::<ItemId>(), Err(IdError::Uuid));
    assert_eq!(
        "urn:uuid:385f79b6-a45f-4c1c-8080-e93a192adccc".parse::<ItemId>(),
        Err(IdError::Uuid)
    );
    let mut rng = StdRng::seed_from_u64(7);
    let id = ItemId::random(&mut rng);
    assert_eq!(id.uuid().get_version_num(), 4);
    assert_ne!(id, ItemId::random(&mut rng));
}

#[test]
fn kinds_and_keys_print() {
    for kind in [Kind::Playlist, Kind::Channel] {
        assert_eq!(kind.to_string().parse(), Ok(kind));
    }
    assert_eq!("Playlist".parse::<Kind>(), Err(IdError::Kind));
    let id = "385f79b6-a45f-4c1c-8080-e93a192adccc".parse().unwrap();
    let key = DocumentKey {
        kind: Kind::Channel,
        id,
    };
    assert_eq!(key.to_string(), "channel/385f79b6-a45f-4c1c-8080-e93a192adccc");
}

/// `^[a-zA-Z0-9-]+-\d{4}$`, at most 64 long, and no stray hyphens.
fn is_feed_slug(slug: &str) -> bool {
    let Some((base, number)) = slug.rsplit_once('-') else {
        return false;
    };
    slug.len() <= SLUG_LENGTH_MAX
        && slug.parse::<Slug>().is_ok()
        && !base.is_empty()
        && !base.starts_with('-')
        && !base.contains("--")
        && !base.ends_with('-')
        && number.len() == 4
        && number.bytes().all(|byte| byte.is_ascii_digit())
}

proptest! {
    #[test]
    fn every_title_gives_a_slug(title in any::<String>(), ascii in "[ -~]{0,90}", seed in any::<u64>()) {
        let mut rng = StdRng::seed_from_u64(seed);
        let full: BTreeSet<u16> = NUMBERS.collect();
        for title in [title, ascii] {
            let base = base(&title, Kind::Channel);
            prop_assert!(base.len() <= BASE_LENGTH_MAX);
            for slug in [draw(&base, &mut rng), draw_free(&base, &full, &mut rng)] {
                prop_assert!(is_feed_slug(slug.as_str()), "{}", slug);
            }
        }
    }

    #[test]
    fn ids_order_as_their_text(one in any::<[u8; 16]>(), other in any::<[u8; 16]>()) {
        let (one, other) = (DocumentId::new(uuid::Uuid::from_bytes(one)), DocumentId::new(uuid::Uuid::from_bytes(other)));
        prop_assert_eq!(one.cmp(&other), one.to_string().cmp(&other.to_string()));
        prop_assert_eq!(one.to_string().to_uppercase().parse(), Ok(one));
    }
}
