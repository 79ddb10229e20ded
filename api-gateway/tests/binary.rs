//! The binary itself: what it prints, how it ends, and what it says when it cannot start.

use std::io::{BufRead as _, BufReader, Read as _};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

const KEY: &str = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60";
/// Longest time until it is ready, or has ended.
const DEADLINE: Duration = Duration::from_secs(20);

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

#[test]
fn it_says_when_it_is_ready_and_ends_well_on_sigterm() {
    let mut running = Running(gateway(&[]).spawn().expect("it starts"));
    let mut stdout = BufReader::new(running.0.stdout.take().expect("stdout is piped"));
    let mut ready = String::new();
    stdout.read_line(&mut ready).expect("it prints text");
    let port = ready.trim_end().strip_prefix("api-gateway ready on http://127.0.0.1:");
    let port: u16 = port
        .and_then(|port| port.parse().ok())
        .expect("the ready line names the port");
    assert_ne!(port, 0);

    // An idle connection does not hold up the end.
    let _idle = TcpStream::connect(("127.0.0.1", port)).expect("it listens");
    let sent = Command::new("sh")
        .args(["-c", "kill -TERM \"$0\"", &running.0.id().to_string()])
        .status();
    assert!(sent.is_ok_and(|status| status.success()));
    assert!(running.wait().success());
    let mut rest = String::new();
    stdout.read_to_string(&mut rest).expect("it prints text");
    assert_eq!(rest, "", "one line and no more");
}

#[test]
fn what_stops_it_is_one_sentence() {
    check_refused(&[("API_SECRET", "")], "API_SECRET is not set");
    check_refused(&[("API_SECRET", "a,b,c")], "API_SECRET cannot be used");
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
        "ED25519_PRIVATE_KEY",
        "PUBLIC_URL",
        "SELF_HOSTED_DOMAINS",
    ] {
        assert!(help.contains(&format!("[env: {variable}")), "{variable}: {help}");
    }
    assert!(!help.contains(KEY) && !help.contains("=secret"), "{help}");
}
