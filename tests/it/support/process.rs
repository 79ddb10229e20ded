//! Child processes: the built binaries, listened to line by line, and ended by nobody's id but their own.

use std::io::{BufRead as _, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Lines of a failed test's processes that are shown.
const TAIL_LINES: usize = 40;
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// What to start, and how.
#[derive(Clone, Debug)]
pub(crate) struct Launch {
    /// Name of the binary.
    pub(crate) binary: &'static str,
    /// Arguments.
    pub(crate) arguments: Vec<String>,
    /// The whole environment.
    pub(crate) variables: Vec<(String, String)>,
    /// Working directory.
    pub(crate) folder: PathBuf,
}

impl Launch {
    /// The binary without arguments or variables, in this folder.
    pub(crate) fn new(binary: &'static str, folder: &Path) -> Self {
        Self {
            binary,
            arguments: Vec::new(),
            variables: Vec::new(),
            folder: folder.to_owned(),
        }
    }

    /// With an argument more.
    pub(crate) fn argument(mut self, argument: impl Into<String>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// With a variable, instead of an earlier one of its name.
    pub(crate) fn variable(mut self, name: &str, value: impl Into<String>) -> Self {
        self.variables.retain(|(earlier, _)| earlier != name);
        self.variables.push((name.to_owned(), value.into()));
        self
    }
}

/// How a process ended, and what it printed.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: Vec<String>,
    pub(crate) stderr: Vec<String>,
}

/// A running process; killed when dropped, and then heard if the test is failing.
#[derive(Debug)]
pub(crate) struct Process {
    name: &'static str,
    child: Child,
    stdout: Lines,
    stderr: Lines,
}

impl Process {
    /// Starts it. Its environment is what the launch says and nothing of this process's.
    pub(crate) fn start(launch: &Launch) -> Self {
        let mut command = Command::new(binary(launch.binary));
        command
            .args(&launch.arguments)
            .env_clear()
            .envs(launch.variables.iter().map(|(name, value)| (name, value)))
            .current_dir(&launch.folder)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command
            .spawn()
            .unwrap_or_else(|error| panic!("{} does not start: {error}", launch.binary));
        let stdout = Lines::of(child.stdout.take().expect("stdout is piped"));
        let stderr = Lines::of(child.stderr.take().expect("stderr is piped"));
        Self {
            name: launch.binary,
            child,
            stdout,
            stderr,
        }
    }

    /// Waits for a line on stdout that starts so, and answers what follows. An end before that is the error.
    pub(crate) async fn ready(&mut self, prefix: &str, deadline: Duration) -> Result<String, Ended> {
        let start = Instant::now();
        loop {
            let running = self.is_running();
            if let Some(rest) = self.stdout.find(prefix) {
                return Ok(rest);
            }
            if !running {
                return Err(self.ended(Duration::ZERO).await);
            }
            assert!(
                start.elapsed() < deadline,
                "{} does not print {prefix:?} within {deadline:?}",
                self.name
            );
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    /// Whether it has not ended yet.
    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("a child can be asked").is_none()
    }

    /// What it has printed to stdout so far.
    pub(crate) fn stdout(&self) -> Vec<String> {
        self.stdout.all()
    }

    /// `kill -9`; gone when this returns. Answers what it had printed to stderr.
    pub(crate) fn kill(mut self) -> Vec<String> {
        self.end();
        self.stderr.read_to_end()
    }

    /// SIGTERM.
    pub(crate) fn terminate(&self) {
        self.signal("TERM");
    }

    /// SIGSTOP: it stays as it is, with all that it holds, until it is thawed or killed.
    pub(crate) fn freeze(&self) {
        self.signal("STOP");
    }

    /// SIGCONT.
    pub(crate) fn thaw(&self) {
        self.signal("CONT");
    }

    fn signal(&self, name: &str) {
        let sent = Command::new("sh")
            .args(["-c", "kill -\"$0\" \"$1\"", name, &self.child.id().to_string()])
            .status();
        assert!(
            sent.is_ok_and(|status| status.success()),
            "{} cannot be signalled",
            self.name
        );
    }

    /// Waits for its end.
    pub(crate) async fn ended(&mut self, deadline: Duration) -> Ended {
        let start = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("a child can be asked") {
                break status;
            }
            assert!(
                start.elapsed() < deadline,
                "{} still runs after {deadline:?}",
                self.name
            );
            tokio::time::sleep(POLL_INTERVAL).await;
        };
        Ended {
            status,
            stdout: self.stdout.read_to_end(),
            stderr: self.stderr.read_to_end(),
        }
    }

    fn end(&mut self) {
        // It may have ended by itself; both calls are then without effect.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
        if std::thread::panicking() {
            let lines = self.stderr.read_to_end();
            let tail = &lines[lines.len().saturating_sub(TAIL_LINES)..];
            eprintln!(
                "--- stderr of {} ({}):\n{}",
                self.name,
                self.child.id(),
                tail.join("\n")
            );
        }
    }
}

/// Runs a program to its end.
pub(crate) async fn run(launch: &Launch, deadline: Duration) -> Ended {
    Process::start(launch).ended(deadline).await
}

/// A binary of this workspace. Cargo names the root package's; the others are built beside it.
fn binary(name: &str) -> PathBuf {
    let own = Path::new(env!("CARGO_BIN_EXE_dp1-feed"));
    let path = own.with_file_name(name);
    assert!(
        path.exists(),
        "{} is not built: run `cargo test` without -p, or `cargo build` first",
        path.display()
    );
    path
}

/// Lines of a pipe, read by a thread until it closes.
#[derive(Debug)]
struct Lines {
    read: Arc<Mutex<Vec<String>>>,
    reader: Option<JoinHandle<()>>,
}

impl Lines {
    fn of(pipe: impl Read + Send + 'static) -> Self {
        let read = Arc::new(Mutex::new(Vec::new()));
        let lines = Arc::clone(&read);
        let reader = std::thread::spawn(move || {
            for line in BufReader::new(pipe).split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line).into_owned();
                lines.lock().expect("nobody panics with the lock").push(line);
            }
        });
        Self {
            read,
            reader: Some(reader),
        }
    }

    fn all(&self) -> Vec<String> {
        self.read.lock().expect("nobody panics with the lock").clone()
    }

    fn find(&self, prefix: &str) -> Option<String> {
        let lines = self.read.lock().expect("nobody panics with the lock");
        lines
            .iter()
            .find_map(|line| line.strip_prefix(prefix))
            .map(str::to_owned)
    }

    /// All there ever were; the process must have ended.
    fn read_to_end(&mut self) -> Vec<String> {
        if let Some(reader) = self.reader.take() {
            reader.join().expect("the reader does not panic");
        }
        self.all()
    }
}
