//! The binary itself: what it prints, how it ends, and what it says when it cannot start.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

const KEY: &str = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60";
/// Longest time until it is ready, or has ended.
const DEADLINE: Duration = Duration::from_secs(20);
/// How long it waits for requests in flight; only those may take it.
const DRAIN_MAX: Duration = Duration::from_secs(10);

fn gateway(changes: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_api-gateway"));
    command
        .env_clear()
        .env("PORT", "0")
        .env("API_SECRET", "secret")
        .env("ED25519_PRIVATE_KEY", KEY)
        .env("STORAGE_URL", "http://127.0.0.1:1")
        .envs(changes.iter().copied())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// A running process, killed if a test fails.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself; both are then without effect.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Running {
    fn terminate(&self) {
        let sent = Command::new("sh")
            .args(["-c", "kill -TERM \"$0\"", &self.0.id().to_string()])
            .status();
        assert!(sent.is_ok_and(|status| status.success()));
    }

    fn wait(&mut self) -> ExitStatus {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.0.try_wait().expect("a child can be asked") {
                return status;
            }
            assert!(begun.elapsed() < DEADLINE, "it still runs");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

#[track_caller]
fn check_refused(changes: &[(&str, &str)], expected: &str) {
    let mut running = Running(gateway(changes).spawn().expect("it starts"));
    let status = running.wait();
    let mut stderr = String::new();
    let pipe = running.0.stderr.as_mut().expect("stderr is piped");
    pipe.read_to_string(&mut stderr).expect("it prints text");
    assert!(!status.success(), "{stderr}");
    assert!(
        stderr.starts_with("api-gateway: ") && stderr.contains(expected),
        "{stderr}"
    );
    assert_eq!(stderr.trim_end().lines().count(), 1, "one sentence: {stderr}");
    assert!(!stderr.contains(&KEY[2..]), "the key is not repeated");
}

/// Starts it and reads the port from its ready line.
fn ready() -> (Running, BufReader<ChildStdout>, u16) {
    let mut running = Running(gateway(&[]).spawn().expect("it starts"));
    let mut stdout = BufReader::new(running.0.stdout.take().expect("stdout is piped"));
    let mut ready = String::new();
    stdout.read_line(&mut ready).expect("it prints text");
    let port = ready.trim_end().strip_prefix("api-gateway ready on http://127.0.0.1:");
    let port = port.and_then(|port| port.parse().ok());
    (running, stdout, port.expect("the ready line names the port"))
}

fn connect(port: u16, request: &str) -> TcpStream {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("it listens");
    stream.set_read_timeout(Some(DEADLINE)).expect("a deadline above zero");
    stream.write_all(request.as_bytes()).expect("a request is taken");
    stream
}

/// Reads up to the end of a head.
fn head(stream: &mut TcpStream) -> String {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).expect("an answer");
        head.push(byte[0]);
    }
    String::from_utf8(head).expect("a head is text")
}

#[test]
fn it_says_when_it_is_ready_and_ends_well_on_sigterm() {
    let (mut running, mut stdout, port) = ready();
    assert_ne!(port, 0);
    // Neither a connection that never asked for anything nor one that could ask again holds up the end.
    let _silent = connect(port, "");
    let mut idle = connect(port, "GET /health HTTP/1.1\r\nhost: x\r\n\r\n");
    assert!(head(&mut idle).starts_with("HTTP/1.1 200 "));
    let begun = Instant::now();
    running.terminate();
    assert!(running.wait().success());
    assert!(begun.elapsed() < DRAIN_MAX, "it waited for connections that do nothing");
    let mut rest = String::new();
    stdout.read_to_string(&mut rest).expect("it prints text");
    assert_eq!(rest, "", "one line and no more");
}

#[test]
fn a_request_in_flight_is_answered_before_the_end() {
    let (mut running, _stdout, port) = ready();
    let mut request = connect(
        port,
        "POST /api/v1/playlists HTTP/1.1\r\nhost: x\r\nauthorization: Bearer secret\r\n\
         content-type: application/json\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n",
    );
    // It is asked for its body: the request is at work.
    assert_eq!(head(&mut request), "HTTP/1.1 100 Continue\r\n\r\n");
    running.terminate();
    let begun = Instant::now();
    while TcpStream::connect(("127.0.0.1", port)).is_ok() {
        assert!(begun.elapsed() < DEADLINE, "it still accepts");
        std::thread::sleep(Duration::from_millis(5));
    }
    request.write_all(b"{}").expect("the body is still taken");
    let mut answer = String::new();
    request
        .read_to_string(&mut answer)
        .expect("an answer, and then the end");
    assert!(
        answer.starts_with("HTTP/1.1 400 ") && answer.contains("title: Required"),
        "{answer}"
    );
    assert!(running.wait().success());
}

/// Sends all of a body before it reads, as most clients do, and gets to read the answer; then asks again.
#[track_caller]
fn check_answered_after_the_body(port: u16, request: &str, headers: &str, bytes: usize, status: u16) {
    let request = format!("{request} HTTP/1.1\r\nhost: x\r\n{headers}");
    let mut stream = connect(port, &format!("{request}content-length: {bytes}\r\n\r\n"));
    stream
        .write_all(&vec![b' '; bytes])
        .expect("a body is taken to its end");
    let answered = head(&mut stream);
    assert!(
        answered.starts_with(&format!("HTTP/1.1 {status} ")),
        "{request}{answered}"
    );
    let length = answered.lines().find_map(|line| line.strip_prefix("content-length: "));
    let length = length.map_or(0, |length| length.parse().expect("a number"));
    stream.read_exact(&mut vec![0; length]).expect("a whole answer");

    stream
        .write_all(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
        .expect("it is still open");
    assert!(head(&mut stream).starts_with("HTTP/1.1 200 "), "{request}");

    let mut stream = connect(
        port,
        &format!("{request}transfer-encoding: chunked\r\n\r\n{bytes:x}\r\n"),
    );
    stream
        .write_all(&vec![b' '; bytes])
        .expect("a body is taken to its end");
    stream.write_all(b"\r\n0\r\n\r\n").expect("and its end");
    let answered = head(&mut stream);
    assert!(
        answered.starts_with(&format!("HTTP/1.1 {status} ")),
        "{request}{answered}"
    );
}

#[test]
fn whoever_sends_a_body_gets_to_read_the_answer() {
    const PLAYLISTS: &str = "POST /api/v1/playlists";
    const LARGE: usize = 2_600_000;
    const ANYBODY_MAX: usize = 8 * 1024 * 1024;
    const KNOWN: &str = "authorization: Bearer secret\r\n";
    const WRONG: &str = "authorization: Bearer wrong\r\ncontent-type: application/json\r\n";
    let (_running, _stdout, port) = ready();
    let known_json = format!("{KNOWN}content-type: application/json\r\n");
    check_answered_after_the_body(port, PLAYLISTS, "", LARGE, 401);
    check_answered_after_the_body(port, PLAYLISTS, WRONG, LARGE, 401);
    check_answered_after_the_body(port, PLAYLISTS, WRONG, ANYBODY_MAX, 401);
    check_answered_after_the_body(port, PLAYLISTS, KNOWN, LARGE, 400);
    check_answered_after_the_body(port, "POST /nowhere", &known_json, LARGE, 404);
    check_answered_after_the_body(port, "PUT /api/v1/playlists", &known_json, LARGE, 404);
    check_answered_after_the_body(port, "PUT /api/v1/playlists/a_b", &known_json, LARGE, 400);
    check_answered_after_the_body(port, "PATCH /api/v1/channels/a_b", &known_json, LARGE, 400);
    check_answered_after_the_body(port, "DELETE /api/v1/channels/a_b", KNOWN, LARGE, 400);
    check_answered_after_the_body(port, "GET /nowhere", "", LARGE, 404);
    check_answered_after_the_body(port, "OPTIONS /nowhere", "", 1, 204);
    let no_key = format!("{known_json}idempotency-key: a b\r\n");
    check_answered_after_the_body(port, PLAYLISTS, &no_key, LARGE, 400);
    check_answered_after_the_body(port, PLAYLISTS, &known_json, ANYBODY_MAX + 1, 413);
    check_answered_after_the_body(port, PLAYLISTS, &known_json, 3 * ANYBODY_MAX, 413);
}

#[test]
fn bodies_that_would_not_be_read_anyway_are_not_waited_for() {
    let (_running, _stdout, port) = ready();
    let known = "authorization: Bearer secret\r\ncontent-type: application/json\r\n";
    for (headers, bytes, status) in [
        ("", 8 * 1024 * 1024 + 1, 401),
        ("expect: 100-continue\r\n", 10, 401),
        (known, 64 * 1024 * 1024 + 1, 413),
        (&format!("{known}expect: 100-continue\r\n"), 8 * 1024 * 1024 + 1, 413),
    ] {
        let request = format!("POST /api/v1/playlists HTTP/1.1\r\nhost: x\r\n{headers}content-length: {bytes}\r\n\r\n");
        let mut stream = connect(port, &request);
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer, and then the end");
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{request}{answer}");
    }
}

#[test]
fn heads_are_bounded() {
    let (_running, _stdout, port) = ready();
    let status = |headers: &str| {
        let request = format!("GET /health HTTP/1.1\r\nconnection: close\r\n{headers}\r\n");
        head(&mut connect(port, &request))[..12].to_owned()
    };
    let many = |count: usize| "x: y\r\n".repeat(count - 1);
    assert_eq!(status(&many(100)), "HTTP/1.1 200");
    assert_eq!(status(&many(101)), "HTTP/1.1 431");
    let long = |bytes: usize| format!("x: {}\r\n", "y".repeat(bytes));
    assert_eq!(status(&long(60 * 1024)), "HTTP/1.1 200");
    assert_eq!(status(&long(65 * 1024)), "HTTP/1.1 431");
}

#[test]
fn what_stops_it_is_one_sentence() {
    check_refused(&[("API_SECRET", "")], "API_SECRET is not set");
    check_refused(&[("API_SECRET", "a,b,c")], "API_SECRET cannot be used");
    check_refused(&[("JWT_PUBLIC_KEY", "secret")], "JWT_PUBLIC_KEY cannot be used");
    check_refused(&[("JWT_JWKS_URL", "issuer.test")], "JWT_JWKS_URL cannot be used");
    check_refused(&[("ED25519_PRIVATE_KEY", "")], "ED25519_PRIVATE_KEY is not set");
    check_refused(
        &[("ED25519_PRIVATE_KEY", &KEY[2..])],
        "ED25519_PRIVATE_KEY is not a signing key",
    );
    check_refused(&[("PUBLIC_URL", "feed.example.com")], "PUBLIC_URL");
    check_refused(&[("STORAGE_URL", "not a URL")], "\"not a URL\" is not a URL");
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = taken.local_addr().expect("a bound address").port().to_string();
    check_refused(&[("PORT", &port)], &format!("cannot listen on 127.0.0.1:{port}"));
}

#[test]
fn settings_are_explained_and_secrets_are_not_shown() {
    let printed = gateway(&[]).arg("--help").output().expect("it starts");
    let help = String::from_utf8(printed.stdout).expect("it prints text");
    assert!(printed.status.success());
    for variable in [
        "HOST",
        "PORT",
        "API_SECRET",
        "JWT_PUBLIC_KEY",
        "JWT_JWKS_URL",
        "JWT_ISSUER",
        "JWT_AUDIENCE",
        "JWT_REQUIRE_EXP",
        "ED25519_PRIVATE_KEY",
        "PUBLIC_URL",
        "SELF_HOSTED_DOMAINS",
    ] {
        assert!(help.contains(&format!("[env: {variable}")), "{variable}: {help}");
    }
    assert!(!help.contains(KEY) && !help.contains("=secret"), "{help}");
}
