//! The service as a process of its own: how a test starts it and how it ends. Knows nothing of what is asked of it.

use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

/// Nothing here takes long; what does not end is a fault.
pub(crate) async fn within<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), work)
        .await
        .expect("it ends in time")
}

/// Starts the binary, by a command that leads to it, over the store at `path`.
pub(crate) fn spawn(mut command: Command, listen: &str, path: &Path) -> Child {
    command
        .args(["--storage-listen", listen, "--log-level", "off", "--sqlite-db-path"])
        .arg(path)
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("the binary starts")
}

/// A binary that serves.
pub(crate) struct Service {
    pub(crate) child: Child,
    pub(crate) address: String,
}

impl Service {
    /// Waits until it says that it serves.
    pub(crate) async fn ready(mut child: Child) -> Self {
        let mut lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
        let line = within(lines.next_line())
            .await
            .expect("it can be read")
            .expect("there is a line");
        let address = line
            .strip_prefix("storage-svc ready on ")
            .expect("it is the ready line")
            .to_owned();
        Self { child, address }
    }

    pub(crate) fn pid(&self) -> String {
        self.child.id().expect("it runs").to_string()
    }

    pub(crate) async fn terminate(mut self) -> ExitStatus {
        let killed = Command::new("kill").args(["-TERM", &self.pid()]).status().await;
        assert!(killed.expect("there is a kill").success());
        within(self.child.wait()).await.expect("it ends")
    }

    pub(crate) async fn kill(mut self) {
        within(self.child.kill()).await.expect("it is killed");
    }
}
