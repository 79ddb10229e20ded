//! Many documents of one title: every slug is one document's own.

use std::collections::BTreeSet;

use futures_util::StreamExt as _;

use crate::support::{Form, Mode, TestFeed, playlist};

/// More than the 9,000 numbers that one title has.
const CREATES: usize = 10_000;
const IN_FLIGHT: usize = 32;

#[tokio::test]
async fn ten_thousand_creates_of_one_title_have_ten_thousand_slugs() {
    let feed = TestFeed::start(Form::OneProcess).await;
    let client = feed.client();
    let body = playlist("Untitled", 1);
    let created: Vec<(String, String)> = futures_util::stream::iter(0..CREATES)
        .map(|number| {
            let mode = if number.is_multiple_of(2) {
                Mode::Sync
            } else {
                Mode::Async
            };
            let (client, body) = (&client, &body);
            async move {
                let answer = client
                    .post("/api/v1/playlists", body, mode)
                    .await
                    .expect(mode.status(201));
                (answer.member("slug"), answer.member("id"))
            }
        })
        .buffer_unordered(IN_FLIGHT)
        .collect()
        .await;

    let slugs: BTreeSet<_> = created.iter().map(|(slug, _)| slug).collect();
    assert_eq!(slugs.len(), CREATES);
    for slug in slugs {
        assert!(is_slug(slug), "{slug}");
    }

    feed.drained().await;
    let listed = client.list("/api/v1/playlists").await;
    let names = |row: &serde_json::Value| (row["slug"].to_string(), row["id"].to_string());
    let listed: BTreeSet<_> = listed.iter().map(names).collect();
    let expected: BTreeSet<_> = created
        .iter()
        .map(|(slug, id)| (format!("{slug:?}"), format!("{id:?}")))
        .collect();
    assert!(listed == expected, "{} listed", listed.len());
    for (slug, id) in created.iter().step_by(CREATES / 50) {
        assert_eq!(
            client
                .get(&format!("/api/v1/playlists/{slug}"))
                .await
                .expect(200)
                .member("id"),
            *id
        );
    }
    feed.finish().await;
}

/// `^[a-zA-Z0-9-]+-\d{4}$`, at most 64 long.
fn is_slug(slug: &str) -> bool {
    let Some((base, number)) = slug.rsplit_once('-') else {
        return false;
    };
    slug.len() <= 64
        && !base.is_empty()
        && base.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        && number.len() == 4
        && number.bytes().all(|byte| byte.is_ascii_digit())
}

#[test]
fn a_slug_is_told_from_what_is_none() {
    for slug in ["a-1234", "a-b-C-0000", "-x-1234"] {
        assert!(is_slug(slug), "{slug}");
    }
    for other in [
        "",
        "a",
        "-1234",
        "a-123",
        "a-12345",
        "a_b-1234",
        "a-12e4",
        &format!("{}-1234", "a".repeat(60)),
    ] {
        assert!(!is_slug(other), "{other}");
    }
}
