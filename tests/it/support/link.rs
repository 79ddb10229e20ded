//! A connection that can be cut: stands between two processes and passes on what they say.

use std::net::SocketAddr;

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Where one process is reached by others, until it is dropped.
#[derive(Debug)]
pub(crate) struct Link {
    address: SocketAddr,
    /// How often it was cut.
    cuts: watch::Sender<u64>,
    task: JoinHandle<()>,
}

impl Link {
    /// Leads to whoever listens at `url` (`http://host:port`) when somebody connects; to nobody if nobody does.
    pub(crate) async fn to(url: &str) -> Self {
        let target = url.strip_prefix("http://").expect("an address is a URL").to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("a bound address");
        let (cuts, seen) = watch::channel(0);
        let task = tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let mut cut = seen.clone();
                cut.mark_unchanged();
                let target = target.clone();
                tokio::spawn(async move {
                    tokio::select! {
                        () = pass(near, &target) => {}
                        _ = cut.changed() => {}
                    }
                });
            }
        });
        Self { address, cuts, task }
    }

    /// `http://host:port` of this end.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Ends all connections, with whatever is on its way; new ones can be made.
    pub(crate) fn cut(&self) {
        self.cuts.send_modify(|cuts| *cuts += 1);
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        // The connections learn of it by the end of `cuts`.
        self.task.abort();
    }
}

async fn pass(mut near: TcpStream, target: &str) {
    if let Ok(mut far) = TcpStream::connect(target).await {
        // However it ends, both ends learn of it by the end of their connections.
        let _ = copy_bidirectional(&mut near, &mut far).await;
    }
}
