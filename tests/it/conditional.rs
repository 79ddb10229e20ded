//! Entity tags, and requests that depend on them: reads of what the client has already, and writes that must not pass
//! over a version that it has not seen.

use futures_util::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::refusals::{expect_error, send};
use crate::support::{Answer, FeedClient, Form, Mode, Part, TestFeed, channel, playlist, rows};

const PLAYLISTS: &str = "/api/v1/playlists";
const CHANNELS: &str = "/api/v1/channels";
const ITEMS: &str = "/api/v1/playlist-items";
const NOBODY: &str = "385f79b6-a45f-4c1c-8080-e93a192adccc";
const NO_MATCH: &str = "If-Match does not name the version that was accepted last";
const NOT_NONE: &str = "If-None-Match names the version that was accepted last";
const NOT_TAGS: &str = "must be * or a list of entity tags, each in double quotes";

const TWO_GATEWAYS: Form = Form::Processes {
    gateways: 2,
    consumers: 1,
};
const NO_CONSUMER: Form = Form::Processes {
    gateways: 1,
    consumers: 0,
};

/// What names this text.
fn tag_of(text: &str) -> String {
    format!("\"{}\"", hex::encode(Sha256::digest(text)))
}

async fn write(
    client: &FeedClient,
    method: Method,
    path: &str,
    body: Option<&Value>,
    mode: Mode,
    condition: (&str, &str),
) -> Answer {
    let headers = [condition];
    let sent = client.try_write(method, path, body, mode, &headers);
    sent.await.expect("an answer")
}

async fn patch(client: &FeedClient, path: &str, body: &Value, mode: Mode, tag: &str) -> Answer {
    write(client, Method::PATCH, path, Some(body), mode, ("if-match", tag)).await
}

async fn read(client: &FeedClient, method: Method, path: &str, header: &str, value: &str) -> Answer {
    send(client, method, path, &[(header, value)], "").await
}

/// A playlist and a channel over it, as answered.
async fn make_both(feed: &TestFeed) -> (Answer, Answer) {
    let client = feed.client();
    let made = client.post(PLAYLISTS, &playlist("Conditional", 3), Mode::Sync).await;
    let url = feed.public_url(&format!("{PLAYLISTS}/{}", made.clone().expect(201).member("id")));
    let over = client.post(CHANNELS, &channel("Conditional", &[url]), Mode::Sync).await;
    (made, over.expect(201))
}

fn path_of(collection: &str, answer: &Answer) -> String {
    format!("{collection}/{}", answer.member("id"))
}

#[tokio::test]
async fn a_version_has_one_tag_through_every_gateway_queued_or_not_and_after_a_restart() {
    let mut feed = TestFeed::start(TWO_GATEWAYS).await;
    let clients = [feed.gateway_client(0), feed.gateway_client(1)];
    let (playlist_made, channel_made) = make_both(&feed).await;
    for mode in [Mode::Sync, Mode::Async] {
        for (collection, made) in [(PLAYLISTS, &playlist_made), (CHANNELS, &channel_made)] {
            let body = |title| match collection {
                PLAYLISTS => playlist(title, 3),
                _ => channel(title, &[feed.public_url(&path_of(PLAYLISTS, &playlist_made))]),
            };
            assert_eq!(made.header("etag"), tag_of(&made.text));
            assert_eq!(made.header("location"), path_of(collection, made));
            let created = clients[0]
                .post(collection, &body("Tagged"), mode)
                .await
                .expect(mode.status(201));
            let path = path_of(collection, &created);
            match mode {
                Mode::Sync => assert_eq!(created.header("location"), path),
                Mode::Async => assert!(created.header("location").starts_with("/api/v1/operations/")),
            }
            let replaced = clients[1]
                .put(&path, &body("Replaced"), mode)
                .await
                .expect(mode.status(200));
            let change = json!({ "summary": "Changed" });
            let patched = clients[0].patch(&path, &change, mode).await.expect(mode.status(200));
            let mut tags = vec![];
            for answer in [&created, &replaced, &patched] {
                assert_eq!(answer.header("etag"), tag_of(&answer.text));
                assert!(!tags.contains(&answer.header("etag")), "another version, another tag");
                tags.push(answer.header("etag"));
            }
            feed.drained().await;
            let slug = format!("{collection}/{}", patched.member("slug"));
            for client in &clients {
                for path in [&path, &slug] {
                    let got = client.get(path).await.expect(200);
                    assert_eq!(got.header("etag"), patched.header("etag"));
                    assert_eq!(got.header("cache-control"), "no-cache");
                    let head = send(client, Method::HEAD, path, &[], "").await.expect(200);
                    assert_eq!(head.header("etag"), patched.header("etag"));
                }
            }
            let deleted = clients[0].delete(&path, mode).await.expect(mode.status(204));
            assert!(!deleted.headers.contains_key("etag"), "{deleted:?}");
        }
    }
    feed.drained().await;

    let item = playlist_made.json()["items"][1]["id"].as_str().map(str::to_owned);
    let paths = [
        path_of(PLAYLISTS, &playlist_made),
        path_of(CHANNELS, &channel_made),
        format!("{ITEMS}/{}", item.expect("an item")),
        format!("{PLAYLISTS}?limit=1"),
        format!("{PLAYLISTS}?channel={}", channel_made.member("id")),
        format!("{PLAYLISTS}?channel=nobody"),
        format!("{CHANNELS}?sort=desc"),
        format!("{ITEMS}?limit=2"),
    ];
    let mut before = vec![];
    for path in &paths {
        let got = clients[0].get(path).await.expect(200);
        assert_eq!(got.header("etag"), tag_of(&got.text), "{path}");
        before.push(got.header("etag").to_owned());
    }
    for part in [Part::Consumer(0), Part::Gateway(0), Part::Storage] {
        feed.kill(part);
    }
    for part in [Part::Storage, Part::Gateway(0), Part::Consumer(0)] {
        feed.launch(part).await;
    }
    for (path, tag) in paths.iter().zip(&before) {
        for client in &clients {
            assert_eq!(client.get(path).await.expect(200).header("etag"), tag, "{path}");
        }
    }
    feed.finish().await;
}

#[tokio::test]
async fn an_answer_that_is_sent_again_or_was_waited_for_names_the_same_version() {
    let feed = TestFeed::start(Form::OneProcess).await;
    let client = feed.client();
    let body = playlist("Again", 2);
    let post = async |prefer: &str, key: &str| {
        let headers = [("prefer", prefer), ("idempotency-key", key)];
        let sent = client.try_write(Method::POST, PLAYLISTS, Some(&body), Mode::Sync, &headers);
        sent.await.expect("an answer")
    };
    for (prefer, key, status) in [
        ("respond-nothing", "sync", 201),
        ("respond-async", "queued", 202),
        ("respond-async, wait=25", "waited", 201),
    ] {
        let first = post(prefer, key).await.expect(status);
        let again = post(prefer, key).await.expect(status);
        assert_eq!(again.header("idempotent-replayed"), "true");
        assert_eq!(first.header("etag"), tag_of(&first.text));
        for name in ["etag", "location"] {
            assert_eq!(again.header(name), first.header(name), "{prefer}");
        }
        if status == 201 {
            assert_eq!(first.header("location"), path_of(PLAYLISTS, &first));
        }
    }
    feed.finish().await;
}

#[tokio::test]
async fn what_a_client_has_is_not_sent_again() {
    let feed = TestFeed::start(Form::OneProcess).await;
    let client = feed.client();
    let (playlist_made, channel_made) = make_both(&feed).await;
    let item = playlist_made.json()["items"][0]["id"].as_str().map(str::to_owned);
    let channel_path = path_of(CHANNELS, &channel_made);
    for path in [
        path_of(PLAYLISTS, &playlist_made),
        format!("{PLAYLISTS}/{}", playlist_made.member("slug")),
        channel_path.replace("channels", "playlist-groups"),
        channel_path.clone(),
        format!("{ITEMS}/{}", item.expect("an item")),
        PLAYLISTS.to_owned(),
        format!("{ITEMS}?channel={}", channel_made.member("slug")),
        CHANNELS.to_owned(),
    ] {
        let whole = client.get(&path).await.expect(200);
        let tag = whole.header("etag");
        for method in [Method::GET, Method::HEAD] {
            for known in [
                tag.to_owned(),
                format!("W/{tag}"),
                format!("\"a,b\",, W/\"c\" , {tag}"),
                "*".to_owned(),
            ] {
                let answer = read(&client, method.clone(), &path, "if-none-match", &known).await;
                assert_eq!(answer.status, 304, "{path} {known}");
                assert_eq!(answer.text, "");
                assert_eq!(answer.header("etag"), tag);
                assert_eq!(answer.header("cache-control"), "no-cache");
                assert_eq!(answer.header("access-control-allow-origin"), "*");
                assert!(!answer.headers.contains_key("content-type"), "{answer:?}");
            }
            // What is not a list of tags is as good as nothing, as it was before there were tags.
            let bare = tag.trim_matches('"').to_owned();
            for other in ["\"a\"".to_owned(), format!("\"{tag}"), bare, String::new()] {
                let answer = read(&client, method.clone(), &path, "if-none-match", &other).await;
                let answer = answer.expect(200);
                assert_eq!(answer.header("etag"), tag);
                assert_eq!(answer.text.is_empty(), method == Method::HEAD);
            }
        }
        for (must_have, status) in [
            (tag.to_owned(), 200),
            ("*".to_owned(), 200),
            (format!("W/{tag}"), 412),
            ("\"a\"".to_owned(), 412),
        ] {
            let answer = read(&client, Method::GET, &path, "if-match", &must_have).await;
            let answer = answer.expect(status);
            if status == 412 {
                assert_eq!(answer.member("error"), "precondition_failed");
            }
        }
    }
    let nobody = format!("{PLAYLISTS}/{NOBODY}");
    let answer = read(&client, Method::GET, &nobody, "if-none-match", "*").await;
    assert_eq!(answer.expect(404).header("cache-control"), "no-store");

    // A change of any document on a page is one of the page.
    let page = client.get(PLAYLISTS).await;
    let path = path_of(PLAYLISTS, &playlist_made);
    let change = json!({ "summary": "Changed" });
    client.patch(&path, &change, Mode::Sync).await.expect(200);
    for (path, old) in [(PLAYLISTS, &page), (&path, &playlist_made)] {
        let tag = old.header("etag");
        let answer = read(&client, Method::GET, path, "if-none-match", tag).await;
        assert_ne!(answer.expect(200).header("etag"), tag);
    }
    feed.finish().await;
}

#[tokio::test]
async fn of_sixteen_changes_of_one_version_one_happens() {
    let feed = TestFeed::start(TWO_GATEWAYS).await;
    let clients = [feed.gateway_client(0), feed.gateway_client(1)];
    let (playlist_made, channel_made) = make_both(&feed).await;
    for (collection, made) in [(CHANNELS, &channel_made), (PLAYLISTS, &playlist_made)] {
        let path = path_of(collection, made);
        let mut tag = made.header("etag").to_owned();
        for (round, modes) in [
            [Mode::Sync, Mode::Sync],
            [Mode::Async, Mode::Async],
            [Mode::Sync, Mode::Async],
        ]
        .into_iter()
        .enumerate()
        {
            let changes: Vec<_> = (0..16)
                .map(|number| json!({ "summary": format!("{round} {number}") }))
                .collect();
            let answers = join_all(changes.iter().enumerate().map(|(number, change)| {
                let client = &clients[number % 2];
                patch(client, &path, change, modes[number / 2 % 2], &tag)
            }))
            .await;
            let (done, refused): (Vec<_>, Vec<_>) = answers.iter().partition(|answer| answer.status < 300);
            assert_eq!(done.len(), 1, "{answers:?}");
            for answer in refused {
                expect_error(answer, 412, "precondition_failed", NO_MATCH);
            }
            feed.drained().await;
            let now = clients[1].get(&path).await.expect(200);
            assert_eq!(now.text, done[0].text);
            done[0].header("etag").clone_into(&mut tag);
        }
        // So it is with deletions.
        let answers = join_all((0..8).map(|number| {
            let client = &clients[number % 2];
            write(client, Method::DELETE, &path, None, Mode::Sync, ("if-match", &tag))
        }))
        .await;
        let mut statuses: Vec<_> = answers.iter().map(|answer| answer.status).collect();
        statuses.sort_unstable();
        assert_eq!(statuses, [204, 404, 404, 404, 404, 404, 404, 404]);
    }
    feed.finish().await;
}

#[tokio::test]
async fn a_condition_is_judged_on_the_version_that_was_accepted_last() {
    let mut feed = TestFeed::start(NO_CONSUMER).await;
    let client = feed.client();
    let (playlist_made, channel_made) = make_both(&feed).await;
    for (collection, made) in [(CHANNELS, &channel_made), (PLAYLISTS, &playlist_made)] {
        let path = path_of(collection, made);
        let old = made.header("etag");
        let queued = patch(&client, &path, &json!({ "title": "Queued" }), Mode::Async, old).await;
        let queued = queued.expect(202);
        let change = json!({ "summary": "Changed" });
        for mode in [Mode::Sync, Mode::Async] {
            let refused = patch(&client, &path, &change, mode, old).await;
            expect_error(&refused, 412, "precondition_failed", NO_MATCH);
        }
        let shown = client.get(&path).await.expect(200);
        assert_eq!(shown.header("etag"), old, "reads show what is applied");

        let mut tag = queued.header("etag").to_owned();
        for mode in [Mode::Async, Mode::Sync, Mode::Async] {
            let change = json!({ "summary": format!("After {tag}") });
            let patched = patch(&client, &path, &change, mode, &tag)
                .await
                .expect(mode.status(200));
            assert_eq!(patched.member("title"), "Queued");
            patched.header("etag").clone_into(&mut tag);
        }
        let refused = write(&client, Method::DELETE, &path, None, Mode::Async, ("if-match", old)).await;
        expect_error(&refused, 412, "precondition_failed", NO_MATCH);
        let deleted = write(&client, Method::DELETE, &path, None, Mode::Async, ("if-match", &tag)).await;
        deleted.expect(202);
        for known in ["*", tag.as_str()] {
            patch(&client, &path, &change, Mode::Sync, known).await.expect(404);
        }
    }
    feed.launch(Part::Consumer(0)).await;
    feed.finish().await;
}

#[tokio::test]
async fn a_condition_comes_after_existence_and_before_references() {
    let feed = TestFeed::start(Form::OneProcess).await;
    let client = feed.client();
    let (playlist_made, channel_made) = make_both(&feed).await;
    let (path, tag) = (path_of(PLAYLISTS, &playlist_made), playlist_made.header("etag"));
    let body = playlist("Put", 1);
    let nobody = format!("{PLAYLISTS}/{NOBODY}");
    let other = ("if-match", "\"other\"");
    for mode in [Mode::Sync, Mode::Async] {
        let put = async |path: &str, body: &Value, condition: (&str, &str)| {
            write(&client, Method::PUT, path, Some(body), mode, condition).await
        };
        for condition in [other, ("if-match", "*"), ("if-none-match", "*")] {
            expect_error(
                &put(&nobody, &body, condition).await,
                404,
                "not_found",
                "Playlist not found",
            );
        }
        put(&path, &json!({}), other).await.expect(400);
        let channel_path = path_of(CHANNELS, &channel_made);
        let dangling = channel("Dangling", &[feed.public_url(&nobody)]);
        expect_error(
            &put(&channel_path, &dangling, other).await,
            412,
            "precondition_failed",
            NO_MATCH,
        );
        put(&channel_path, &dangling, ("if-match", "*")).await.expect(422);

        for known in ["*".to_owned(), tag.to_owned(), format!("W/{tag}")] {
            let refused = put(&path, &body, ("if-none-match", &known)).await;
            expect_error(&refused, 412, "precondition_failed", NOT_NONE);
        }
        for (name, shown) in [("if-match", "If-Match"), ("if-none-match", "If-None-Match")] {
            let bare = tag.trim_matches('"').to_owned();
            for bad in [String::new(), bare, format!("*, {tag}"), format!("{tag} {tag}")] {
                let refused = put(&nobody, &json!({}), (name, &bad)).await;
                let message = format!("{shown} {NOT_TAGS}");
                expect_error(&refused, 400, "invalid_precondition", &message);
            }
        }
        // What is made by a POST is new whatever there is.
        for condition in [other, ("if-none-match", "*"), ("if-match", "unquoted")] {
            let made = write(&client, Method::POST, PLAYLISTS, Some(&body), mode, condition).await;
            made.expect(mode.status(201));
        }
    }
    let answer = send(&client, Method::PUT, &path, &[("if-match", "\"other\"")], "{}").await;
    assert_eq!(answer.expect(401).header("cache-control"), "no-store");

    // One of several, either form of the text, whichever there is: each will do.
    for condition in [
        ("if-match", "*".to_owned()),
        ("if-match", format!("\"a\", {tag}")),
        ("if-match", format!("\"{}-br\"", tag.trim_matches('"'))),
        ("if-none-match", "\"a\"".to_owned()),
    ] {
        let condition = (condition.0, condition.1.as_str());
        // Changes nothing: the version stays the same, and its tag.
        let patched = write(&client, Method::PATCH, &path, Some(&json!({})), Mode::Sync, condition).await;
        assert_eq!(patched.expect(200).header("etag"), tag);
    }
    feed.finish().await;
}

#[tokio::test]
async fn a_condition_that_fails_leaves_nothing_behind() {
    let feed = TestFeed::start(NO_CONSUMER).await;
    let client = feed.client();
    let (playlist_made, channel_made) = make_both(&feed).await;
    let storage = feed.storage();
    let stored = async || {
        let mut all = vec![];
        for namespace in ["playlists", "channels", "playlist_items", "pending", "operations"] {
            all.push(rows(&storage, namespace).await);
        }
        let info = storage.server_info().await.expect("storage answers");
        (all, info.store_revision)
    };
    let before = stored().await;
    let url = feed.public_url(&path_of(PLAYLISTS, &playlist_made));
    for (collection, made, body) in [
        (PLAYLISTS, &playlist_made, playlist("Other", 2)),
        (CHANNELS, &channel_made, channel("Other", &[url.clone(), url.clone()])),
    ] {
        let path = path_of(collection, made);
        for mode in [Mode::Sync, Mode::Async] {
            for (method, body) in [
                (Method::PUT, Some(&body)),
                (Method::PATCH, Some(&body)),
                (Method::DELETE, None),
            ] {
                for condition in [("if-match", "\"other\""), ("if-none-match", made.header("etag"))] {
                    write(&client, method.clone(), &path, body, mode, condition)
                        .await
                        .expect(412);
                }
            }
        }
    }
    assert!(stored().await == before, "nothing is written, and nothing queued");
    feed.finish().await;
}
