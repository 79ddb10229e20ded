//! The binary itself: it says when it is ready, outlives a storage service that is away, and ends when it is told to.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Command, Stdio};

#[test]
fn ready_then_sigterm_then_exit_0() {
    let mut consumer = Command::new(env!("CARGO_BIN_EXE_consumer"))
        // Nothing listens on this port: a consumer may start before storage does.
        .env("STORAGE_URL", "http://127.0.0.1:1")
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("the consumer starts");
    let mut lines = BufReader::new(consumer.stdout.take().expect("piped")).lines();
    let ready = lines.next().expect("a line").expect("text");
    assert_eq!(ready, "consumer ready for http://127.0.0.1:1");

    let terminated = Command::new("kill").arg(consumer.id().to_string()).status();
    assert!(terminated.expect("kill runs").success());
    assert_eq!(consumer.wait().expect("it ends").code(), Some(0));
}

#[test]
fn it_says_how_it_is_on_a_port() {
    let mut consumer = Command::new(env!("CARGO_BIN_EXE_consumer"))
        .env("STORAGE_URL", "http://127.0.0.1:1")
        .env("METRICS_LISTEN", "127.0.0.1:0")
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("the consumer starts");
    let mut lines = BufReader::new(consumer.stdout.take().expect("piped")).lines();
    let mut line = || lines.next().expect("a line").expect("text");
    let told = line();
    let address = told
        .strip_prefix("metrics on http://")
        .and_then(|rest| rest.strip_suffix("/metrics"))
        .unwrap_or_else(|| panic!("{told}"))
        .to_owned();
    assert_eq!(line(), "consumer ready for http://127.0.0.1:1");

    let ask = |path: &str| {
        let mut stream = TcpStream::connect(&address).expect("it listens");
        let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n");
        stream.write_all(request.as_bytes()).expect("it is sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("text");
        answer
    };
    let (health, ready, metrics) = (ask("/health"), ask("/ready"), ask("/metrics"));
    assert!(
        health.starts_with("HTTP/1.1 200") && health.ends_with("alive\n"),
        "{health}"
    );
    assert!(
        ready.starts_with("HTTP/1.1 503") && ready.contains("not ready: the stream of messages is "),
        "{ready}"
    );
    for outcome in [
        "applied",
        "superseded",
        "failed",
        "put_back",
        "handed_back",
        "lease_lost",
        "unsettled",
    ] {
        let figure = format!("\nconsumer_messages_total{{outcome=\"{outcome}\"}} 0\n");
        assert!(metrics.contains(&figure), "{metrics}");
    }
    for figure in ["enqueued", "failed", "superseded"].map(|outcome| format!("swept_total{{outcome=\"{outcome}\"}}")) {
        assert!(metrics.contains(&format!("\nconsumer_{figure} 0\n")), "{metrics}");
    }
    for outcome in ["done", "gave_up", "failed"] {
        let figure = format!("\nconsumer_sweeps_total{{outcome=\"{outcome}\"}} ");
        assert!(metrics.contains(&figure), "{metrics}");
    }
    assert!(metrics.contains("\nconsumer_stream_open 0\n"), "{metrics}");
    // Nobody can be asked for it.
    assert!(!metrics.contains("oldest_ready"), "{metrics}");
    assert!(metrics.ends_with("# EOF\n"), "{metrics}");
    consumer.kill().expect("it runs");
    consumer.wait().expect("it ends");
}

#[test]
fn an_address_that_is_no_url_is_one_clear_sentence() {
    let mut consumer = Command::new(env!("CARGO_BIN_EXE_consumer"))
        .env("STORAGE_URL", "not a url")
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the consumer starts");
    let mut said = String::new();
    let mut stderr = consumer.stderr.take().expect("piped");
    stderr.read_to_string(&mut said).expect("text");
    assert_eq!(consumer.wait().expect("it ends").code(), Some(1));
    assert!(
        said.starts_with("consumer: storage address \"not a url\" is not a URL"),
        "{said}"
    );
    assert_eq!(said.lines().count(), 1, "{said}");
}
