//! Tokens (JWT) as credentials: of a given key, and of those that an issuer publishes, with all that an issuer may do.

use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::Method;
use serde_json::json;

use crate::support::{
    Answer, FeedClient, Form, Issuer, Manner, TestFeed, TokenKey, eventually, key_set, playlist, seconds_from_now,
};

/// Longest time until a gateway has learned what there is to learn.
const LEARNED_MAX: Duration = Duration::from_secs(20);
/// Largest set of keys, in bytes.
const KEY_SET_BYTES_MAX: usize = 256 * 1024;
/// An operation that never was.
const NOBODYS: &str = "/api/v1/operations/00000000-0000-4000-8000-000000000000";
/// Longer than any test.
const NEVER_MS: &str = "3600000";

/// A POST with these headers.
async fn post(client: &FeedClient, headers: &[(&str, &str)]) -> Answer {
    let mut request = client
        .request(Method::POST, "/api/v1/playlists")
        .header("content-type", "application/json")
        .body(playlist("Signed for", 1).to_string());
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    Answer::read("POST with a token".to_owned(), request)
        .await
        .expect("an answer")
}

/// Whether a credential is let in: an operation that nobody knows is not found, but only by those who may look.
async fn is_let_in(client: &FeedClient, credential: &str) -> bool {
    let request = client.request(Method::GET, NOBODYS).bearer_auth(credential);
    let answer = Answer::read(NOBODYS.to_owned(), request).await.expect("an answer");
    match answer.status {
        404 => true,
        401 => false,
        _ => panic!("{answer:?}"),
    }
}

async fn until_let_in(client: &FeedClient, token: &str) {
    eventually(LEARNED_MAX, "the token is accepted", async || {
        if is_let_in(client, token).await {
            Ok(())
        } else {
            Err("401".to_owned())
        }
    })
    .await;
}

async fn until_refused(client: &FeedClient, token: &str) {
    eventually(LEARNED_MAX, "the token is refused", async || {
        if is_let_in(client, token).await {
            Err("let in".to_owned())
        } else {
            Ok(())
        }
    })
    .await;
}

/// A gateway that trusts an issuer: fresh, cool-down and stale in milliseconds.
async fn trusting(issuer: &Issuer, fresh: &str, cool_down: &str, stale: &str) -> TestFeed {
    let url = issuer.url();
    let variables = [
        ("JWT_JWKS_URL", url.as_str()),
        ("JWT_AUDIENCE", "feed"),
        ("JWT_JWKS_FRESH_MS", fresh),
        ("JWT_JWKS_COOLDOWN_MS", cool_down),
        ("JWT_JWKS_STALE_MS", stale),
    ];
    TestFeed::start_with(Form::OneProcess, &variables).await
}

#[tokio::test]
async fn tokens_of_a_given_key_write_beside_the_secret() {
    let key = TokenKey::generate("a");
    let pem = STANDARD.encode(key.pem());
    let variables = [
        ("JWT_PUBLIC_KEY", pem.as_str()),
        ("JWT_ISSUER", "the-issuer"),
        ("JWT_AUDIENCE", "feed"),
        ("JWT_REQUIRE_EXP", "true"),
    ];
    let feed = TestFeed::start_with(Form::THREE_PROCESSES, &variables).await;
    let client = feed.client();
    let token = key.token(&json!({}));
    for credential in [token.as_str(), feed.secret()] {
        for value in [
            format!("Bearer {credential}"),
            format!("bEARER {credential}"),
            credential.to_owned(),
        ] {
            post(&client, &[("authorization", &value)]).await.expect(201);
        }
    }
    // A queued write, and the look at its operation.
    let bearer = format!("Bearer {token}");
    let queued = [("authorization", bearer.as_str()), ("prefer", "respond-async")];
    let accepted = post(&client, &queued).await.expect(202);
    let by_token = FeedClient::new(&feed.url(), &token);
    assert_eq!(by_token.operation_end(&accepted).await, "applied");

    let nobody = client.request(Method::DELETE, "/nowhere");
    let nobody = Answer::read("DELETE".to_owned(), nobody)
        .await
        .expect("an answer")
        .expect(401);
    assert_eq!(nobody.header("www-authenticate"), r#"Bearer realm="dp1-feed""#);
    assert_eq!(
        nobody.member("message"),
        "Authorization header is required for write operations"
    );
    for wrong in [
        key.token(&json!({ "exp": seconds_from_now(-60) })),
        key.token(&json!({ "nbf": seconds_from_now(60) })),
        key.token(&json!({ "iss": "another" })),
        key.token(&json!({ "aud": "another" })),
        key.token(&json!({ "exp": null })),
        TokenKey::generate("a").token(&json!({})),
        format!("{token}x"),
        "wrong".to_owned(),
    ] {
        for method in [Method::POST, Method::PUT, Method::PATCH, Method::DELETE] {
            let request = client.request(method, "/nowhere").bearer_auth(&wrong);
            let answer = Answer::read(wrong.clone(), request)
                .await
                .expect("an answer")
                .expect(401);
            assert_eq!(answer.member("error"), "unauthorized");
            assert_eq!(answer.member("message"), "Invalid credentials");
            let challenge = answer.header("www-authenticate");
            assert_eq!(challenge, r#"Bearer realm="dp1-feed", error="invalid_token""#);
        }
    }
    feed.finish().await;
}

#[tokio::test]
async fn an_idempotency_key_belongs_to_the_subject_of_a_token() {
    let key = TokenKey::generate("a");
    let pem = key.pem();
    let feed = TestFeed::start_with(Form::OneProcess, &[("JWT_PUBLIC_KEY", &pem)]).await;
    let client = feed.client();
    let send = async |credential: String| {
        let bearer = format!("Bearer {credential}");
        let answer = post(&client, &[("authorization", &bearer), ("idempotency-key", "one")]).await;
        answer.expect(201).member("id")
    };
    let first = send(key.token(&json!({}))).await;
    // A token of a later day is the same caller's.
    assert_eq!(send(key.token(&json!({ "exp": seconds_from_now(900) }))).await, first);
    let other = send(key.token(&json!({ "sub": "another" }))).await;
    let secret = send(feed.secret().to_owned()).await;
    assert!(first != other && first != secret && other != secret);
    feed.finish().await;
}

#[tokio::test]
async fn q30_an_issuer_is_asked_once_whatever_tokens_come() {
    let (known, unknown) = (TokenKey::generate("known"), TokenKey::generate("unknown"));
    let issuer = Issuer::start(&[&known]).await;
    let feed = trusting(&issuer, NEVER_MS, NEVER_MS, "0").await;
    let client = feed.client();
    assert_eq!(issuer.asked(), 0, "nothing is asked before it is needed");
    // All at once, before anything is known: those who have to wait do not ask again.
    let all = (0..32).map(|number| {
        let key = if number % 2 == 0 { &known } else { &unknown };
        let (client, token) = (client.clone(), key.token(&json!({ "jti": number.to_string() })));
        tokio::spawn(async move { is_let_in(&client, &token).await })
    });
    let all: Vec<_> = all.collect();
    for (number, asked) in all.into_iter().enumerate() {
        assert_eq!(asked.await.expect("it does not panic"), number % 2 == 0, "{number}");
    }
    for _ in 0..8 {
        assert!(is_let_in(&client, &known.token(&json!({}))).await);
        assert!(!is_let_in(&client, &unknown.token(&json!({}))).await);
        assert!(!is_let_in(&client, "not.a.token").await);
    }
    assert_eq!(issuer.asked(), 1);
    feed.finish().await;
}

#[tokio::test]
async fn a_new_key_is_learned_from_its_first_token_and_an_old_one_forgotten() {
    let (old, new) = (TokenKey::generate("old"), TokenKey::generate("new"));
    let issuer = Issuer::start(&[&old]).await;
    let cool_down = Duration::from_secs(1);
    let feed = trusting(&issuer, NEVER_MS, "1000", NEVER_MS).await;
    let client = feed.client();
    let (old_token, new_token) = (old.token(&json!({})), new.token(&json!({})));
    let begun = Instant::now();
    assert!(is_let_in(&client, &old_token).await);
    issuer.publish(&[&old, &new]);
    until_let_in(&client, &new_token).await;
    // Asked when it was fetched first and once for each cool-down that has passed since, however many tokens came.
    let asked = issuer.asked();
    let allowed = 1 + usize::try_from(begun.elapsed().as_millis() / cool_down.as_millis()).expect("few");
    assert!(
        begun.elapsed() >= cool_down && (2..=allowed).contains(&asked),
        "{asked} of {allowed}"
    );
    assert!(is_let_in(&client, &old_token).await, "both are valid");
    // The old one is gone as soon as the set is fetched anew, here for a key that nobody knows.
    issuer.publish(&[&new]);
    let unknown = TokenKey::generate("unknown").token(&json!({}));
    eventually(LEARNED_MAX, "the old key is forgotten", async || {
        assert!(!is_let_in(&client, &unknown).await);
        if is_let_in(&client, &old_token).await {
            Err("let in".to_owned())
        } else {
            Ok(())
        }
    })
    .await;
    assert!(is_let_in(&client, &new_token).await);
    feed.finish().await;
}

#[tokio::test]
async fn keys_that_are_published_no_more_expire_by_themselves() {
    let (old, new) = (TokenKey::generate("old"), TokenKey::generate("new"));
    let issuer = Issuer::start(&[&old]).await;
    let feed = trusting(&issuer, "500", "100", NEVER_MS).await;
    let client = feed.client();
    let token = old.token(&json!({}));
    assert!(is_let_in(&client, &token).await);
    // The issuer is there: what it does not publish is not kept as it would be if it were away.
    issuer.publish(&[&new]);
    until_refused(&client, &token).await;
    feed.finish().await;
}

#[tokio::test]
async fn keys_of_an_issuer_that_is_away_are_used_for_a_bounded_time() {
    let key = TokenKey::generate("a");
    let issuer = Issuer::start(&[&key]).await;
    let feed = trusting(&issuer, "300", "100", "2000").await;
    let client = feed.client();
    let bound = Duration::from_millis(300 + 2000);
    let token = key.token(&json!({}));
    let begun = Instant::now();
    assert!(is_let_in(&client, &token).await);
    let fetched = Instant::now();
    issuer.answer(Manner::Away);
    let mut let_in_at = fetched;
    loop {
        let asked_at = Instant::now();
        if !is_let_in(&client, &token).await {
            break;
        }
        let_in_at = asked_at;
        assert!(begun.elapsed() < LEARNED_MAX, "it is still accepted");
    }
    assert!(begun.elapsed() >= bound, "refused after {:?}", begun.elapsed());
    assert!(let_in_at < fetched + bound, "accepted after {:?}", let_in_at - fetched);
    assert!(issuer.asked() >= 3, "it was asked again: {}", issuer.asked());
    // Whoever has the secret does not depend on it, and when it is back nobody needs to do anything.
    assert!(is_let_in(&client, feed.secret()).await);
    issuer.publish(&[&key]);
    until_let_in(&client, &token).await;
    feed.finish().await;
}

#[tokio::test]
async fn an_issuer_that_hangs_is_waited_for_once() {
    // Far from what the gateway waits for an issuer, and from what it takes without.
    let slow = Duration::from_secs(2);
    let key = TokenKey::generate("a");
    let issuer = Issuer::start(&[&key]).await;
    let feed = trusting(&issuer, "200", "100", NEVER_MS).await;
    let client = feed.client();
    let token = key.token(&json!({}));
    assert!(is_let_in(&client, &token).await);
    issuer.answer(Manner::Late(Duration::from_mins(5), String::new()));
    let mut waited = 0;
    let begun = Instant::now();
    // It is asked again and again, the next time while the last request goes on; the keys are good all the time.
    while issuer.asked() < 3 || begun.elapsed() < Duration::from_secs(7) {
        let asked_at = Instant::now();
        assert!(is_let_in(&client, &token).await);
        waited += usize::from(asked_at.elapsed() > slow);
        assert!(begun.elapsed() < LEARNED_MAX, "it is not asked again");
    }
    assert_eq!(waited, 1);
    feed.finish().await;
}

#[tokio::test]
async fn a_fetch_ends_well_though_whoever_began_it_has_left() {
    let key = TokenKey::generate("a");
    let issuer = Issuer::start(&[]).await;
    issuer.answer(Manner::Late(Duration::from_secs(1), key_set(&[&key])));
    let feed = trusting(&issuer, NEVER_MS, NEVER_MS, "0").await;
    let client = feed.client();
    let token = key.token(&json!({}));
    let hasty = client
        .request(Method::DELETE, "/nowhere")
        .bearer_auth(&token)
        .timeout(Duration::from_millis(300));
    assert!(hasty.send().await.is_err_and(|error| error.is_timeout()));
    // It is not asked a second time, so this is the answer to the first.
    until_let_in(&client, &token).await;
    assert_eq!(issuer.asked(), 1);
    feed.finish().await;
}

#[tokio::test]
async fn what_an_issuer_may_answer_is_bounded() {
    let key = TokenKey::generate("a");
    let issuer = Issuer::start(&[]).await;
    let feed = trusting(&issuer, "100", "100", "0").await;
    let client = feed.client();
    let token = key.token(&json!({}));
    let set = key_set(&[&key]);
    let padded = |bytes: usize| format!("{set}{}", " ".repeat(bytes - set.len()));
    for manner in [
        Manner::Status("500 Internal Server Error"),
        Manner::Status("204 No Content"),
        Manner::Status("302 Found"),
        Manner::Text("<html>".to_owned()),
        Manner::Text(key_set(&[&key; 65])),
        Manner::Text(padded(KEY_SET_BYTES_MAX + 1)),
        Manner::Endless,
        Manner::Redirects(4, set.clone()),
        Manner::Redirects(usize::MAX, set.clone()),
        Manner::Late(Duration::from_mins(5), set.clone()),
        Manner::Away,
    ] {
        issuer.answer(manner.clone());
        let (begun, before) = (Instant::now(), issuer.asked());
        while issuer.asked() == before {
            assert!(!is_let_in(&client, &token).await, "{manner:?}");
            assert!(begun.elapsed() < LEARNED_MAX, "it is not asked again: {manner:?}");
        }
    }
    for manner in [
        Manner::Text(padded(KEY_SET_BYTES_MAX)),
        Manner::Redirects(3, set.clone()),
        Manner::Late(Duration::from_millis(500), set.clone()),
    ] {
        issuer.answer(manner);
        until_let_in(&client, &token).await;
        issuer.answer(Manner::Away);
        until_refused(&client, &token).await;
    }
    feed.finish().await;
}
