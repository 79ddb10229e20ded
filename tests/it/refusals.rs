//! What is refused, with which status, code and message, and in which order the checks come.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{Answer, FeedClient, Form, Mode, TestFeed, channel, playlist};

const PLAYLISTS: &str = "/api/v1/playlists";
const CHANNELS: &str = "/api/v1/channels";
const JSON: (&str, &str) = ("content-type", "application/json");
const NOBODY: &str = "385f79b6-a45f-4c1c-8080-e93a192adccc";
const PLAYLIST_ID: &str = "Playlist ID must be a valid UUID or slug (alphanumeric with hyphens)";
const CHANNEL_ID: &str = "Channel ID must be a valid UUID or slug (alphanumeric with hyphens)";
const INVALID_JSON: &str = "Request body must be valid JSON";

/// Sends exactly this.
pub(crate) async fn send(
    client: &FeedClient,
    method: Method,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> Answer {
    let mut request = client.request(method.clone(), path).body(body.to_owned());
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let answer = Answer::read(format!("{method} {path} {headers:?} {body:.80}"), request).await;
    answer.unwrap_or_else(|error| panic!("{method} {path}: no answer: {error:?}"))
}

/// Checks an answer to the letter.
#[track_caller]
pub(crate) fn expect_error(answer: &Answer, status: u16, code: &str, message: &str) {
    let body = answer.clone().expect(status).json();
    assert_eq!(body, json!({ "error": code, "message": message }), "{answer:?}");
    assert_eq!(answer.header("content-type"), "application/json");
    assert_eq!(answer.header("access-control-allow-origin"), "*");
}

/// What the body of an update is called: PUT takes what POST takes.
fn data_of(method: &Method) -> &'static str {
    if *method == Method::PATCH {
        "update data"
    } else {
        "data"
    }
}

/// A feed, and the value of its `Authorization`.
pub(crate) async fn start() -> (TestFeed, FeedClient, String) {
    let feed = TestFeed::start(Form::OneProcess).await;
    let bearer = format!("Bearer {}", feed.secret());
    let client = feed.client();
    (feed, client, bearer)
}

#[tokio::test]
async fn credential_then_content_type_then_route() {
    let (feed, client, bearer) = start().await;
    let missing = "Authorization header is required for write operations";
    for method in [Method::POST, Method::PUT, Method::PATCH, Method::DELETE] {
        for path in [PLAYLISTS, "/api/v1/playlists/!", "/nowhere"] {
            let answer = send(&client, method.clone(), path, &[], "{").await;
            expect_error(&answer, 401, "unauthorized", missing);
            for wrong in ["Bearer wrong", "wrong", "Bearer", "Basic YTpi"] {
                let answer = send(&client, method.clone(), path, &[("authorization", wrong)], "{").await;
                expect_error(&answer, 401, "unauthorized", "Invalid credentials");
            }
        }
    }
    let operation = format!("/api/v1/operations/{NOBODY}");
    expect_error(&client.get(&operation).await, 401, "unauthorized", missing);

    for method in [Method::POST, Method::PUT, Method::PATCH] {
        for path in [PLAYLISTS, "/nowhere"] {
            for content_type in [
                None,
                Some("text/plain"),
                Some("application/jsonx"),
                Some("x; application/json"),
            ] {
                let mut headers = vec![("authorization", bearer.as_str())];
                headers.extend(content_type.map(|content_type| ("content-type", content_type)));
                let answer = send(&client, method.clone(), path, &headers, "{").await;
                expect_error(
                    &answer,
                    400,
                    "invalid_content_type",
                    "Content-Type must be application/json",
                );
            }
        }
    }
    for content_type in [
        "application/json",
        "APPLICATION/JSON",
        "application/json; charset=utf-8",
    ] {
        for scheme in ["Bearer ", "bearer ", ""] {
            let credential = format!("{scheme}{}", feed.secret());
            let headers = [("authorization", credential.as_str()), ("content-type", content_type)];
            let answer = send(&client, Method::POST, PLAYLISTS, &headers, "{").await;
            expect_error(&answer, 400, "invalid_json", INVALID_JSON);
        }
    }
    let answer = send(
        &client,
        Method::POST,
        "/nowhere",
        &[("authorization", &bearer), JSON],
        "{",
    )
    .await;
    answer.expect(404);
    feed.finish().await;
}

#[tokio::test]
async fn ids_then_json_then_members_then_schema_then_existence() {
    let (feed, client, bearer) = start().await;
    let headers = [("authorization", bearer.as_str()), JSON];
    let collections = [
        (PLAYLISTS, "playlist", "Playlist not found", PLAYLIST_ID),
        (CHANNELS, "channel", "Channel not found", CHANNEL_ID),
        ("/api/v1/playlist-groups", "channel", "Channel not found", CHANNEL_ID),
    ];
    for (collection, kind, not_found, bad_id) in collections {
        for id in ["a_b", "a%2Fb", "%zz", "%ff", "a.b", "%20"] {
            let path = format!("{collection}/{id}");
            expect_error(&client.get(&path).await, 400, "invalid_id", bad_id);
            for method in [Method::PUT, Method::PATCH] {
                expect_error(
                    &send(&client, method, &path, &headers, "{").await,
                    400,
                    "invalid_id",
                    bad_id,
                );
            }
        }
        for id in [NOBODY, &NOBODY.to_uppercase(), "no-such-slug-1234", &"a".repeat(2_000)] {
            let path = format!("{collection}/{id}");
            expect_error(&client.get(&path).await, 404, "not_found", not_found);
            for method in [Method::PUT, Method::PATCH] {
                let answer = send(&client, method.clone(), &path, &headers, "{").await;
                expect_error(&answer, 400, "invalid_json", INVALID_JSON);
                let answer = send(&client, method.clone(), &path, &headers, "[]").await;
                let data = data_of(&method);
                let message = format!("Invalid {kind} {data}: : Expected object, received array");
                expect_error(&answer, 400, "validation_error", &message);
                let answer = send(&client, method, &path, &headers, r#"{"title":2}"#).await;
                let message = format!("Invalid {kind} {data}: ");
                assert!(answer.member("message").starts_with(&message), "{answer:?}");
                assert!(
                    answer
                        .member("message")
                        .contains("title: Expected string, received number"),
                    "{answer:?}"
                );
            }
            let answer = send(&client, Method::PATCH, &path, &headers, "null").await;
            expect_error(&answer, 400, "invalid_json", INVALID_JSON);
            let answer = send(
                &client,
                Method::PATCH,
                &path,
                &headers,
                r#"{"signature":1,"title":2,"id":null}"#,
            )
            .await;
            expect_error(
                &answer,
                400,
                "protected_fields",
                "Cannot update protected fields: id, signature. Protected fields are read-only.",
            );
            let answer = send(&client, Method::PATCH, &path, &headers, r#"{"title":2}"#).await;
            let message = format!("Invalid {kind} update data: title: Expected string, received number");
            expect_error(&answer, 400, "validation_error", &message);
            for mode in [Mode::Sync, Mode::Async] {
                let answer = client.patch(&path, &json!({}), mode).await;
                expect_error(&answer, 404, "not_found", not_found);
                let body = if kind == "playlist" {
                    playlist("x", 1)
                } else {
                    channel("x", &["https://elsewhere.example/playlists/x".to_owned()])
                };
                expect_error(&client.put(&path, &body, mode).await, 404, "not_found", not_found);
                let answer = client.delete(&path, mode).await;
                let message = if kind == "playlist" {
                    not_found.to_owned()
                } else {
                    format!("{not_found}: {id}")
                };
                expect_error(&answer, 404, "not_found", &message);
            }
        }
    }
    feed.finish().await;
}

#[tokio::test]
async fn bodies_that_are_no_json_of_ours_are_refused() {
    let (feed, client, bearer) = start().await;
    let headers = [("authorization", bearer.as_str()), JSON];
    for (collection, kind) in [(PLAYLISTS, "playlist"), (CHANNELS, "channel")] {
        for body in [
            "",
            "{",
            "{\"title\":\"x\"",
            "nonsense",
            "{\"a\":1e999}",
            "{\"a\":1,\"a\":2}",
            "\"\\ud800\"",
        ] {
            let answer = send(&client, Method::POST, collection, &headers, body).await;
            expect_error(&answer, 400, "invalid_json", INVALID_JSON);
        }
        let answer = send(&client, Method::POST, collection, &headers, "null").await;
        let message = format!("Invalid {kind} data: : Expected object, received null");
        expect_error(&answer, 400, "validation_error", &message);
    }
    feed.finish().await;
}

#[tokio::test]
async fn deletions_items_and_operations_have_messages_of_their_own() {
    let (feed, client, bearer) = start().await;
    let headers = [("authorization", bearer.as_str()), JSON];
    let answer = client.delete("/api/v1/playlists/a_b", Mode::Sync).await;
    expect_error(&answer, 400, "invalid_id", PLAYLIST_ID);
    for path in ["/api/v1/channels/a_b", "/api/v1/playlist-groups/%ff"] {
        let answer = client.delete(path, Mode::Sync).await;
        expect_error(
            &answer,
            400,
            "invalid_identifier",
            "Channel identifier must be a valid UUID or slug",
        );
    }
    for id in ["a-slug-1234", "a_b", "%ff"] {
        let answer = client.get(&format!("/api/v1/playlist-items/{id}")).await;
        expect_error(&answer, 400, "invalid_id", "Playlist item ID must be a valid UUID");
        let answer = send(&client, Method::GET, &format!("/api/v1/operations/{id}"), &headers, "").await;
        expect_error(&answer, 400, "invalid_id", "Operation ID must be a valid UUID");
    }
    let answer = client.get(&format!("/api/v1/playlist-items/{NOBODY}")).await;
    expect_error(&answer, 404, "not_found", "Playlist item not found");
    let answer = send(
        &client,
        Method::GET,
        &format!("/api/v1/operations/{NOBODY}"),
        &headers,
        "",
    )
    .await;
    expect_error(&answer, 404, "not_found", "Operation not found");
    feed.finish().await;
}

#[tokio::test]
async fn every_problem_of_a_body_is_named() {
    let (feed, client, _) = start().await;
    let check = async |method: Method, path: &str, body: Value, message: &str| {
        for mode in [Mode::Sync, Mode::Async] {
            let answer = client.try_write(method.clone(), path, Some(&body), mode, &[]).await;
            expect_error(&answer.expect("an answer"), 400, "validation_error", message);
        }
    };
    check(
        Method::POST,
        PLAYLISTS,
        json!({"dpVersion": "0.9.0", "title": "x".repeat(257), "items": [{"source": "no-scheme", "duration": 0.5, "license": "open"}]}),
        "Invalid playlist data: dpVersion: dpVersion 0.9.0 is below minimum required version 1.0.0; \
         title: String must contain at most 256 character(s); items.0.source: Invalid; \
         items.0.duration: Number must be greater than or equal to 1",
    )
    .await;
    check(
        Method::POST,
        PLAYLISTS,
        json!({"dpVersion": "1.0.0", "title": "x", "items": [{"source": "a:b", "duration": 1, "license": "x"}]}),
        "Invalid playlist data: items.0.license: Invalid enum value. Expected 'open' | 'token' | 'subscription', received 'x'",
    )
    .await;
    check(
        Method::POST,
        PLAYLISTS,
        json!({"dpVersion": "1.0.0", "title": "x", "items": []}),
        "Invalid playlist data: items.dynamicQueries: Playlist must have either items or dynamicQueries (or both)",
    )
    .await;
    check(
        Method::POST,
        CHANNELS,
        json!({"title": "x", "playlists": []}),
        "Invalid channel data: playlists: Array must contain at least 1 element(s)",
    )
    .await;
    check(
        Method::POST,
        CHANNELS,
        json!({"title": "x"}),
        "Invalid channel data: playlists: Required",
    )
    .await;
    check(
        Method::PUT,
        &format!("{CHANNELS}/{NOBODY}"),
        json!({"title": "x", "playlists": ["ftp://x/y"]}),
        "Invalid channel data: playlists.0: Invalid",
    )
    .await;
    let created = client
        .post(PLAYLISTS, &playlist("Named", 1), Mode::Sync)
        .await
        .expect(201);
    check(
        Method::PATCH,
        &format!("{PLAYLISTS}/{}", created.member("id")),
        json!({"items": []}),
        "Invalid playlist update data: items.dynamicQueries: \
         If items or dynamicQueries are provided, at least one must be non-empty",
    )
    .await;
    feed.finish().await;
}

#[tokio::test]
async fn references_that_are_not_ours_or_not_there_are_named() {
    let (feed, client, _) = start().await;
    let created = client
        .post(PLAYLISTS, &playlist("Referred to", 1), Mode::Sync)
        .await
        .expect(201);
    let own = feed.public_url(&format!("{PLAYLISTS}/{}", created.member("id")));
    let made = client
        .post(CHANNELS, &channel("Channel", std::slice::from_ref(&own)), Mode::Sync)
        .await
        .expect(201);
    let path = format!("{CHANNELS}/{}", made.member("id"));
    let foreign = |url: &str| (url.to_owned(), format!("not a playlist of this feed: {url}"));
    let unknown = |url: String| (url.clone(), format!("playlist not found: {url}"));
    for (url, message) in [
        foreign("https://elsewhere.example/api/v1/playlists/x-1234"),
        foreign("http://127.0.0.1:1/api/v1/playlists/x-1234"),
        foreign(&feed.public_url("/api/v1/channels/x-1234")),
        foreign(&format!("{own}/")),
        unknown(feed.public_url(&format!("{PLAYLISTS}/{NOBODY}"))),
        unknown(feed.public_url("/playlists/no-such-slug-1234")),
        unknown(feed.public_url("/playlists/with_underscore")),
    ] {
        let body = channel("Another", &[own.clone(), url.clone()]);
        for mode in [Mode::Sync, Mode::Async] {
            expect_error(
                &client.post(CHANNELS, &body, mode).await,
                422,
                "invalid_reference",
                &message,
            );
            expect_error(
                &client.put(&path, &body, mode).await,
                422,
                "invalid_reference",
                &message,
            );
            let change = json!({ "playlists": [url] });
            expect_error(
                &client.patch(&path, &change, mode).await,
                422,
                "invalid_reference",
                &message,
            );
        }
    }
    assert_eq!(client.get(&path).await.text, made.text, "nothing was written");
    assert_eq!(client.list(CHANNELS).await.len(), 1);
    feed.finish().await;
}

#[tokio::test]
async fn lists_refuse_bad_limits_filters_and_cursors() {
    let (feed, client, _) = start().await;
    for number in 0..3 {
        client
            .post(PLAYLISTS, &playlist(&format!("P {number}"), 1), Mode::Sync)
            .await
            .expect(201);
    }
    let lists = [PLAYLISTS, CHANNELS, "/api/v1/playlist-groups", "/api/v1/playlist-items"];
    for list in lists {
        for limit in [
            "0",
            "101",
            "-1",
            "2.9",
            "5abc",
            "0x10",
            "1e2",
            "%201",
            "99999999999999999999",
        ] {
            let answer = client.get(&format!("{list}?limit={limit}")).await;
            expect_error(&answer, 400, "invalid_limit", "Limit must be between 1 and 100");
        }
        for query in [
            "limit=1",
            "limit=100",
            "limit=",
            "limit=2&limit=0",
            "sort=sideways",
            "unknown=1",
            "cursor=",
        ] {
            client.get(&format!("{list}?{query}")).await.expect(200);
        }
        let bad_cursor = "Cursor does not continue this list with this sort and filter";
        for cursor in [
            "x",
            "playlist:created:asc:1795448620646:9817fb4b",
            "%ff",
            &"A".repeat(44),
        ] {
            let answer = client.get(&format!("{list}?cursor={cursor}")).await;
            expect_error(&answer, 400, "invalid_cursor", bad_cursor);
        }
    }
    for list in [PLAYLISTS, "/api/v1/playlist-items"] {
        for filter in [
            "channel=%25",
            "channel=a_b",
            "playlist-group=a.b",
            "channel=a%20b&playlist-group=x",
        ] {
            let answer = client.get(&format!("{list}?{filter}")).await;
            expect_error(
                &answer,
                400,
                "invalid_channel_id",
                "Channel ID must be a valid UUID or slug",
            );
        }
        let page = client.get(&format!("{list}?limit=2")).await.expect(200);
        let cursor = page.member("cursor");
        client.get(&format!("{list}?cursor={cursor}")).await.expect(200);
        let other = if list == PLAYLISTS {
            "/api/v1/playlist-items"
        } else {
            PLAYLISTS
        };
        for elsewhere in [
            format!("{list}?sort=desc&cursor={cursor}"),
            format!("{list}?channel={NOBODY}&cursor={cursor}"),
            format!("{other}?cursor={cursor}"),
            format!("{CHANNELS}?cursor={cursor}"),
        ] {
            let answer = client.get(&elsewhere).await;
            let message = "Cursor does not continue this list with this sort and filter";
            expect_error(&answer, 400, "invalid_cursor", message);
        }
    }
    feed.finish().await;
}
