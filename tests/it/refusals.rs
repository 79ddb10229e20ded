//! What is refused, with which status, code and message, and in which order the checks come.

use std::io::{Read as _, Write as _};

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
const BODY_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Sends exactly this.
async fn send(client: &FeedClient, method: Method, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
    let mut request = client.request(method.clone(), path).body(body.to_owned());
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let answer = Answer::read(format!("{method} {path} {headers:?} {body:.80}"), request).await;
    answer.unwrap_or_else(|error| panic!("{method} {path}: no answer: {error:?}"))
}

#[track_caller]
fn expect_error(answer: &Answer, status: u16, code: &str, message: &str) {
    let body = answer.clone().expect(status).json();
    assert_eq!(body, json!({ "error": code, "message": message }), "{answer:?}");
    assert_eq!(answer.header("content-type"), "application/json");
    assert_eq!(answer.header("access-control-allow-origin"), "*");
}

/// A feed, and the value of its `Authorization`.
async fn start() -> (TestFeed, FeedClient, String) {
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
async fn unknown_routes_list_what_there_is() {
    let (feed, client, bearer) = start().await;
    let expected = [
        "GET /api/v1",
        "GET /api/v1/health",
        "GET /api/v1/playlists",
        "POST /api/v1/playlists",
        "GET /api/v1/playlists/:id",
        "PUT /api/v1/playlists/:id",
        "PATCH /api/v1/playlists/:id",
        "DELETE /api/v1/playlists/:id",
        "GET /api/v1/channels",
        "POST /api/v1/channels",
        "GET /api/v1/channels/:id",
        "PUT /api/v1/channels/:id",
        "PATCH /api/v1/channels/:id",
        "DELETE /api/v1/channels/:id",
        "GET /api/v1/playlist-items",
        "GET /api/v1/playlist-items/:id",
    ];
    let expected = json!({
        "error": "not_found",
        "message": "The requested resource was not found",
        "available_endpoints": expected,
    });
    for path in [
        "/",
        "/api",
        "/api/v1/",
        "/api/v1/playlists/",
        "/api/v1//playlists",
        "/API/v1/playlists",
        "/api/v1/playlists/a/b",
        "/queues/process-message",
    ] {
        let answer = client.get(path).await.expect(404);
        assert_eq!(answer.json(), expected, "{path}");
        assert!(!answer.headers.contains_key("allow"), "{path}");
    }
    let headers = [("authorization", bearer.as_str()), JSON];
    for (method, path, allowed) in [
        (Method::PUT, PLAYLISTS, "GET,HEAD,POST"),
        (Method::DELETE, "/api/v1", "GET,HEAD"),
        (Method::POST, "/api/v1/playlists/x", "GET,HEAD,PUT,PATCH,DELETE"),
        (Method::TRACE, "/api/v1/channels", "GET,HEAD,POST"),
        (Method::POST, "/api/v1/playlist-items", "GET,HEAD"),
    ] {
        let answer = send(&client, method, path, &headers, "{}").await.expect(404);
        assert_eq!(answer.json(), expected, "{path}");
        assert_eq!(answer.header("allow"), allowed, "{path}");
    }
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
                let answer = send(&client, method, &path, &headers, "[]").await;
                let message = format!("Invalid {kind} update data: : Expected object, received array");
                expect_error(&answer, 400, "validation_error", &message);
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
        "Invalid channel update data: playlists.0: Invalid",
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
            let patch = json!({ "playlists": [url] });
            expect_error(
                &client.patch(&path, &patch, mode).await,
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

/// Pads a playlist with an override to exactly this many bytes.
fn padded(bytes: usize) -> String {
    let body = |padding: usize| {
        let item = json!({
            "source": "a:b", "duration": 1, "license": "open", "override": {"padding": "x".repeat(padding)},
        });
        json!({"dpVersion": "1.1.0", "title": "Large", "items": [item]}).to_string()
    };
    let text = body(bytes - body(0).len());
    assert_eq!(text.len(), bytes);
    text
}

/// A POST whose length only its end tells: so many chunks of a mebibyte of white space.
fn post_chunks(origin: &str, bearer: &str, chunks: usize) -> String {
    let address = origin.strip_prefix("http://").expect("an origin is a URL");
    let mut stream = std::net::TcpStream::connect(address).expect("the feed listens");
    write!(
        stream,
        "POST {PLAYLISTS} HTTP/1.1\r\nhost: {address}\r\nauthorization: {bearer}\r\nconnection: close\r\n\
         content-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
    )
    .expect("the head is taken");
    let chunk = [b"100000\r\n".as_slice(), &vec![b' '; 0x0010_0000], b"\r\n"].concat();
    for _ in 0..chunks {
        stream
            .write_all(&chunk)
            .expect("a body is read to its end, so that its sender gets to read the answer");
    }
    stream.write_all(b"0\r\n\r\n").expect("the end is taken");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    answer
}

#[tokio::test]
async fn bodies_and_documents_are_bounded() {
    let (feed, client, bearer) = start().await;
    let headers = [("authorization", bearer.as_str()), JSON];
    let too_large = format!("Request body must not be larger than {BODY_BYTES_MAX} bytes");

    // At the limit the body is read and judged; the document it makes is larger than one may be.
    let answer = send(&client, Method::POST, PLAYLISTS, &headers, &padded(BODY_BYTES_MAX)).await;
    let message = answer.member("message");
    assert!(message.starts_with("Signed document would have"), "{message}");
    assert_eq!(answer.expect(413).member("error"), "payload_too_large");
    let answer = send(&client, Method::POST, PLAYLISTS, &headers, &padded(BODY_BYTES_MAX + 1)).await;
    expect_error(&answer, 413, "payload_too_large", &too_large);

    // Nobody said how long this one is.
    let (origin, credential) = (client.origin().to_owned(), bearer.clone());
    let answer = tokio::task::spawn_blocking(move || post_chunks(&origin, &credential, 9)).await;
    let answer = answer.expect("the sender does not panic");
    assert!(
        answer.starts_with("HTTP/1.1 413 ") && answer.contains(&too_large),
        "{answer}"
    );

    // What the feed adds leaves room for a document of almost 8 MiB, and all of it is served.
    let large = send(
        &client,
        Method::POST,
        PLAYLISTS,
        &headers,
        &padded(BODY_BYTES_MAX - 2_000),
    )
    .await
    .expect(201);
    assert!((BODY_BYTES_MAX - 2_000..=BODY_BYTES_MAX).contains(&large.text.len()));
    let path = format!("{PLAYLISTS}/{}", large.member("id"));
    assert!(client.get(&path).await.text == large.text);
    let answer = client
        .patch(&path, &json!({"summary": "x".repeat(4_096)}), Mode::Sync)
        .await
        .expect(413);
    assert_eq!(answer.member("error"), "payload_too_large");
    feed.finish().await;
}

#[tokio::test]
async fn answers_carry_what_browsers_and_logs_need() {
    let (feed, client, _) = start().await;
    let get = client.get("/api/v1").await.expect(200);
    let again = client.get("/api/v1").await.expect(200);
    assert_ne!(get.header("x-request-id"), again.header("x-request-id"));
    assert!(get.header("x-response-time").ends_with("ms"));
    assert_eq!(get.header("content-type"), "application/json");
    for path in ["/api/v1", "/nowhere", PLAYLISTS] {
        for method in [Method::GET, Method::OPTIONS] {
            let answer = send(&client, method.clone(), path, &[("x-request-id", "mine")], "").await;
            assert_eq!(answer.header("access-control-allow-origin"), "*");
            let methods = "GET, POST, PUT, PATCH, DELETE, OPTIONS";
            assert_eq!(answer.header("access-control-allow-methods"), methods);
            let allowed = "Authorization, Content-Type, Prefer, Idempotency-Key";
            assert_eq!(answer.header("access-control-allow-headers"), allowed);
            assert_ne!(answer.header("x-request-id"), "mine");
            if method == Method::OPTIONS {
                assert_eq!(answer.header("access-control-max-age"), "86400");
                assert_eq!(answer.expect(204).text, "");
            }
        }
    }
    let created = client
        .post(PLAYLISTS, &playlist("Headed", 1), Mode::Sync)
        .await
        .expect(201)
        .json();
    for path in [
        "/api/v1".to_owned(),
        "/api/v1/health".to_owned(),
        "/health".to_owned(),
        "/ready".to_owned(),
        PLAYLISTS.to_owned(),
        format!("{PLAYLISTS}/{}", created["id"].as_str().expect("an id")),
        "/api/v1/playlist-items".to_owned(),
        format!(
            "/api/v1/playlist-items/{}",
            created["items"][0]["id"].as_str().expect("an id")
        ),
    ] {
        let head = send(&client, Method::HEAD, &path, &[], "").await.expect(200);
        assert_eq!(head.text, "", "{path}");
        assert_eq!(head.header("content-type"), "application/json");
    }
    send(&client, Method::HEAD, "/nowhere", &[], "").await.expect(404);

    assert_eq!(
        get.text,
        concat!(
            r#"{"name":"DP-1 Feed Operator API","version":"1.0.0","#,
            r#""description":"REST interface for creating, updating, and retrieving DP-1 playlists and channels","#,
            r#""specification":"DP-1 v1.1.0","openapi":"3.1.0","deployment":"self-hosted","runtime":"rust","#,
            r#""storage":"sqlite","endpoints":{"playlists":"/api/v1/playlists","channels":"/api/v1/channels","#,
            r#""playlistItems":"/api/v1/playlist-items","health":"/api/v1/health"},"#,
            r#""documentation":"https://github.com/display-protocol/dp1/blob/main/docs/spec.md"}"#
        )
    );
    let health = client.get("/api/v1/health").await.expect(200).json();
    let timestamp = &health["timestamp"];
    assert_eq!(
        health,
        json!({"status": "healthy", "timestamp": timestamp, "version": "1.0.0", "environment": "sqlite", "runtime": "rust"})
    );
    feed.finish().await;
}

#[tokio::test]
async fn storage_that_is_away_is_a_503_that_says_when_to_try_again() {
    use crate::support::Part;

    let mut feed = TestFeed::start(Form::Processes {
        gateways: 1,
        consumers: 0,
    })
    .await;
    let client = feed.client();
    let created = client
        .post(PLAYLISTS, &playlist("Kept", 1), Mode::Sync)
        .await
        .expect(201);
    let path = format!("{PLAYLISTS}/{}", created.member("id"));
    feed.kill(Part::Storage);
    let check = |answer: &Answer, code: &str, message: &str| {
        expect_error(answer, 503, code, message);
        assert_eq!(answer.header("retry-after"), "1");
    };
    check(
        &client.get(PLAYLISTS).await,
        "storage_error",
        "Failed to retrieve playlists",
    );
    check(&client.get(&path).await, "storage_error", "Failed to retrieve playlist");
    check(
        &client.get(CHANNELS).await,
        "storage_error",
        "Failed to retrieve channels",
    );
    check(
        &client.get("/api/v1/channels/x-1234").await,
        "storage_error",
        "Failed to retrieve channel",
    );
    check(
        &client.get("/api/v1/playlist-items").await,
        "storage_error",
        "Failed to retrieve playlist items",
    );
    let item = client.get(&format!("/api/v1/playlist-items/{NOBODY}")).await;
    check(&item, "storage_error", "Failed to retrieve playlist item");
    let body = playlist("New", 1);
    for (mode, code, save, delete) in [
        (
            Mode::Sync,
            "storage_error",
            "Failed to save playlist",
            "Failed to delete playlist",
        ),
        (
            Mode::Async,
            "queue_error",
            "Failed to queue playlist for processing",
            "Failed to queue playlist for deletion",
        ),
    ] {
        check(&client.post(PLAYLISTS, &body, mode).await, code, save);
        check(&client.put(&path, &body, mode).await, code, save);
        check(&client.patch(&path, &json!({"summary": "x"}), mode).await, code, save);
        check(&client.delete(&path, mode).await, code, delete);
    }
    let health = client.get("/api/v1/health").await.expect(503);
    assert_eq!(health.member("status"), "unhealthy");
    client.get("/ready").await.expect(503);
    client.get("/health").await.expect(200);

    feed.launch(Part::Storage).await;
    client.readable(&path).await;
    client.get("/ready").await.expect(200);
    assert_eq!(client.list(PLAYLISTS).await.len(), 1, "nothing was written meanwhile");
    feed.finish().await;
}
