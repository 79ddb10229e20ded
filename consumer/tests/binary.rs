//! The binary itself: it says when it is ready, outlives a storage service that is away, and ends when it is told to.

use std::io::{BufRead as _, BufReader, Read as _};
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
