//! A service under strace, with a load, through two lives: the first one killed, the second one told to stop. What it
//! did to its files, and at which place in that record each of its promises was given.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::Path;
use std::time::Duration;

use tokio::process::Command;

use crate::answers;
use crate::disk::Disk;
use crate::load::{self, Deed};
use crate::process::{Service, spawn, within};
use crate::trace::{self, CALLS, Event, Place};

/// Calls that each client of the load makes in each life.
const CALLS_EACH: usize = 60;
/// The store, below a folder that is there: the service makes the one between.
pub(crate) const STORE: &str = "data/store.db";

/// What was recorded.
pub(crate) struct Recording {
    pub(crate) disk: Disk,
    /// What was promised, and where.
    pub(crate) promises: Vec<(Place, Deed)>,
}

impl Recording {
    /// Of a service with this STORAGE_SYNC.
    pub(crate) async fn make(sync: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder can be made");
        let outputs = tempfile::tempdir().expect("a folder can be made");
        // As the tracer calls it.
        let root = folder.path().canonicalize().expect("it is there");
        let mut events: Vec<Event> = Vec::new();
        let mut promises = Vec::new();
        let mut lines = 0;
        for life in 0..2 {
            let output = outputs.path().join(life.to_string());
            let child = spawn(command(sync, &output).await, "127.0.0.1:0", &root.join(STORE));
            let process = child.id().expect("it runs");
            let service = Service::ready(child).await;
            let works = load::run(&service.address, life, CALLS_EACH).await;
            if life == 0 {
                service.kill().await;
            } else {
                assert_eq!(service.terminate().await.code(), Some(0));
            }
            let text = within(whole(&output, process)).await;
            let mut of_life = trace::read(&text, &root).unwrap_or_else(|fault| panic!("{fault}"));
            for event in &mut of_life {
                event.began += lines;
                event.ended = event.ended.map(|ended| ended + lines);
            }
            lines += text.lines().count();
            let mut sent = answers::sent(&of_life);
            for work in works {
                let sent = sent.remove(&work.port).unwrap_or_default();
                assert_eq!(sent.len(), work.done.len(), "all that was answered was recorded");
                for (sent, done) in sent.into_iter().zip(work.done) {
                    assert_eq!(sent.message, done.answer, "what was recorded is what was answered");
                    promises.push((sent.at, done.deed));
                }
            }
            events.extend(of_life);
        }
        let disk = Disk::new(&root, &events).unwrap_or_else(|fault| panic!("{fault}"));
        Self { disk, promises }
    }
}

/// The binary behind a tracer that is its grandchild: what is started, killed and waited for is the binary itself.
async fn command(sync: &str, output: &Path) -> Command {
    let mut command = Command::new("strace");
    let tried = Command::new("strace").args(["-o", "/dev/null", "true"]).status().await;
    assert!(
        tried.is_ok_and(|tried| tried.success()),
        "POWER_CUT is set, and strace, which records what the service does to its files, is not installed (Debian: \
         apt-get install strace) or may not trace here"
    );
    command
        .args(["-D", "-f", "--seccomp-bpf", "-yy", "-xx", "-s", "1000000000"])
        .args(["-e", CALLS, "-o"])
        .arg(output)
        .arg(env!("CARGO_BIN_EXE_storage-svc"))
        .env("STORAGE_SYNC", sync);
    command
}

/// The record, once it says that the process has ended: of its threads, the first one is the last to be gone.
async fn whole(output: &Path, process: u32) -> String {
    let process = process.to_string();
    while !ends_with(output, &process).expect("the tracer writes it") {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    std::fs::read_to_string(output).expect("it can be read")
}

fn ends_with(output: &Path, process: &str) -> io::Result<bool> {
    const TAIL: u64 = 256;
    let mut file = File::open(output)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL)))?;
    let mut tail = String::new();
    file.read_to_string(&mut tail)?;
    let mut words = tail.lines().next_back().unwrap_or_default().split_whitespace();
    Ok(tail.ends_with('\n') && words.next() == Some(process) && words.next() == Some("+++"))
}
