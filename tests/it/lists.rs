//! Lists: pages, cursors, order and filters.

use serde_json::Value;

use crate::support::{Answer, FeedClient, Form, Mode, TestFeed, channel, playlist};

const PLAYLISTS: &str = "/api/v1/playlists";
const CHANNELS: &str = "/api/v1/channels";
const ITEMS: &str = "/api/v1/playlist-items";
const MEBIBYTE: usize = 1024 * 1024;

async fn create(client: &FeedClient, title: &str) -> Answer {
    client
        .post(PLAYLISTS, &playlist(title, 3), Mode::Sync)
        .await
        .expect(201)
}

/// What orders a row of a list.
fn order(row: &Value) -> (String, String) {
    let text = |member: &str| row[member].as_str().expect("a text").to_owned();
    (text("created"), text("id"))
}

fn reversed(rows: &[Value]) -> Vec<Value> {
    rows.iter().rev().cloned().collect()
}

/// Reads a list in pages of every given length, in both directions, and checks each page.
async fn check_list(client: &FeedClient, list: &str, separator: char, expected: &[Value], limits: &[usize]) {
    for (sort, expected) in [("asc", expected.to_vec()), ("DESC", reversed(expected))] {
        for limit in limits {
            let path = format!("{list}{separator}sort={sort}&limit={limit}");
            let (mut read, mut cursor) = (Vec::new(), None::<String>);
            loop {
                let cursor_part = cursor.as_ref().map(|cursor| format!("&cursor={cursor}"));
                let page = client
                    .get(&format!("{path}{}", cursor_part.unwrap_or_default()))
                    .await
                    .expect(200)
                    .json();
                let rows = page["items"].as_array().expect("items");
                read.extend(rows.iter().cloned());
                let is_last = read.len() == expected.len();
                assert_eq!(page["hasMore"], !is_last, "{path} after {} rows", read.len());
                assert_eq!(page.get("cursor").is_some(), !is_last);
                if is_last {
                    break;
                }
                assert_eq!(rows.len(), *limit, "only the last page is short");
                cursor = page["cursor"].as_str().map(str::to_owned);
            }
            assert!(read == expected, "{path}: other rows or another order");
        }
    }
}

#[tokio::test]
async fn every_list_pages_through_the_same_rows_in_either_direction() {
    let feed = TestFeed::start(Form::OneProcess).await;
    let client = feed.client();
    let (mut playlists, mut channels, mut members) = (Vec::new(), Vec::new(), Vec::new());
    for number in 0..12 {
        let made = create(&client, &format!("Playlist {number}")).await;
        let url = feed.public_url(&format!("{PLAYLISTS}/{}", made.member("id")));
        if number % 2 == 0 {
            members.push((made.json(), url.clone()));
        }
        playlists.push(made.json());
        let made = client
            .post(CHANNELS, &channel(&format!("Channel {number}"), &[url]), Mode::Sync)
            .await
            .expect(201);
        channels.push(made.json());
    }
    playlists.sort_by_key(order);
    channels.sort_by_key(order);
    let items = |playlists: &[Value]| {
        let items = playlists
            .iter()
            .flat_map(|playlist| playlist["items"].as_array().expect("items").clone());
        let mut items: Vec<_> = items.collect();
        items.sort_by_key(order);
        items
    };
    check_list(&client, PLAYLISTS, '?', &playlists, &[1, 2, 4, 5, 12, 13, 100]).await;
    check_list(&client, CHANNELS, '?', &channels, &[3, 12]).await;
    check_list(&client, "/api/v1/playlist-groups", '?', &channels, &[5]).await;
    check_list(&client, ITEMS, '?', &items(&playlists), &[1, 7, 36, 37]).await;

    // A channel lists its playlists by their time, not in the order of its URLs.
    let urls: Vec<_> = members.iter().rev().map(|(_, url)| url.clone()).collect();
    let over = client
        .post(CHANNELS, &channel("Members", &urls), Mode::Sync)
        .await
        .expect(201);
    let mut members: Vec<_> = members.into_iter().map(|(playlist, _)| playlist).collect();
    members.sort_by_key(order);
    for name in [over.member("id"), over.member("id").to_uppercase(), over.member("slug")] {
        for filter in ["channel", "playlist-group"] {
            let list = |list: &str| format!("{list}?{filter}={name}");
            check_list(&client, &list(PLAYLISTS), '&', &members, &[1, 6, 100]).await;
            check_list(&client, &list(ITEMS), '&', &items(&members), &[1, 4, 18, 100]).await;
        }
    }
    // The first of two filters counts, and an empty one does not.
    let both = format!("{PLAYLISTS}?playlist-group=nobody-1234&channel={}", over.member("slug"));
    assert_eq!(client.list(&both).await, members);
    let one = format!("{PLAYLISTS}?channel=&playlist-group={}", over.member("slug"));
    assert_eq!(client.list(&one).await, members);
    assert_eq!(
        client.list(&format!("{CHANNELS}?channel=nobody-1234")).await.len(),
        13,
        "channels have no filter"
    );
    for nobody in ["nobody-1234", "385f79b6-a45f-4c1c-8080-e93a192adccc"] {
        for list in [PLAYLISTS, ITEMS] {
            let empty = client.get(&format!("{list}?channel={nobody}")).await.expect(200);
            assert_eq!(empty.text, r#"{"items":[],"hasMore":false}"#);
        }
    }
    feed.finish().await;
}

#[tokio::test]
async fn a_page_holds_100_rows_when_none_are_asked_for() {
    let feed = TestFeed::start(Form::OneProcess).await;
    let client = feed.client();
    client
        .post(PLAYLISTS, &playlist("Many", 101), Mode::Sync)
        .await
        .expect(201);
    let page = client.get(ITEMS).await.expect(200).json();
    assert_eq!(page["items"].as_array().map(Vec::len), Some(100));
    assert_eq!(page["hasMore"], true);
    feed.finish().await;
}

#[tokio::test]
async fn a_cursor_goes_on_behind_its_row_whatever_became_of_it() {
    let feed = TestFeed::start(Form::OneProcess).await;
    let client = feed.client();
    let mut playlists = Vec::new();
    for number in 0..4 {
        playlists.push(create(&client, &format!("Playlist {number}")).await.json());
    }
    playlists.sort_by_key(order);
    for sort in ["asc", "desc"] {
        let page = client
            .get(&format!("{PLAYLISTS}?limit=2&sort={sort}"))
            .await
            .expect(200);
        let last = page.json()["items"][1]["id"].as_str().expect("an id").to_owned();
        client
            .delete(&format!("{PLAYLISTS}/{last}"), Mode::Sync)
            .await
            .expect(204);
        playlists.retain(|playlist| playlist["id"] != last.as_str());
        let rest = client
            .get(&format!("{PLAYLISTS}?sort={sort}&cursor={}", page.member("cursor")))
            .await
            .expect(200);
        let expected = if sort == "asc" {
            playlists[1..].to_vec()
        } else {
            reversed(&playlists[..playlists.len() - 1])
        };
        assert_eq!(rest.json()["items"], Value::Array(expected));
    }

    // A channel that goes away between two pages ends its list.
    let urls: Vec<_> = playlists
        .iter()
        .map(|playlist| feed.public_url(&format!("{PLAYLISTS}/{}", playlist["id"].as_str().expect("an id"))))
        .collect();
    let over = client
        .post(CHANNELS, &channel("Short-lived", &urls), Mode::Sync)
        .await
        .expect(201);
    let path = format!("{PLAYLISTS}?limit=1&channel={}", over.member("slug"));
    let cursor = client.get(&path).await.expect(200).member("cursor");
    client
        .delete(&format!("{CHANNELS}/{}", over.member("id")), Mode::Sync)
        .await
        .expect(204);
    let rest = client.get(&format!("{path}&cursor={cursor}")).await.expect(200);
    assert_eq!(rest.text, r#"{"items":[],"hasMore":false}"#);
    client.get(&format!("{path}&cursor=garbage")).await.expect(400);
    feed.finish().await;
}

#[tokio::test]
async fn a_page_ends_at_8_mebibytes() {
    let feed = TestFeed::start(Form::OneProcess).await;
    let client = feed.client();
    let large = |bytes: usize| {
        let mut body = playlist("Large", 1);
        body["items"][0]["override"] = serde_json::json!({ "padding": "x".repeat(bytes) });
        body
    };
    let mut expected = Vec::new();
    for mebibytes in [3, 3, 7, 3] {
        let made = client
            .post(PLAYLISTS, &large(mebibytes * MEBIBYTE), Mode::Sync)
            .await
            .expect(201);
        expected.push(made.json()["items"][0].clone());
    }
    for list in [PLAYLISTS, ITEMS] {
        for (sort, lengths) in [("asc", [2, 1, 1].as_slice()), ("desc", &[1, 1, 2])] {
            let (mut cursor, mut read) = (String::new(), Vec::new());
            for (index, length) in lengths.iter().enumerate() {
                let page = client
                    .get(&format!("{list}?sort={sort}&cursor={cursor}"))
                    .await
                    .expect(200);
                assert!(page.text.len() < 8 * MEBIBYTE + 1024);
                let page = page.json();
                let rows = page["items"].as_array().expect("items");
                assert_eq!(rows.len(), *length, "page {index} of {list} {sort}");
                read.extend(rows.iter().map(|row| {
                    if list == ITEMS {
                        row.clone()
                    } else {
                        row["items"][0].clone()
                    }
                }));
                assert_eq!(page["hasMore"], index + 1 < lengths.len());
                page["cursor"].as_str().unwrap_or_default().clone_into(&mut cursor);
            }
            if sort == "desc" {
                read.reverse();
            }
            assert!(read == expected, "{list} {sort}");
        }
    }
    feed.finish().await;
}
