//! Several clients commit and read the same few keys, while the service is killed with SIGKILL and started anew again
//! and again. Afterwards their answers are to fit one order of events: nothing that was acknowledged is lost, nothing is
//! half there, nothing happened twice.
//!
//! `LINEARIZABLE_ROUNDS` says how often the service is killed.

mod bad_histories;
mod client;
mod history;
#[path = "../process/mod.rs"]
mod process;

use std::net::TcpListener;
use std::path::Path;
use std::time::{Duration, Instant};

use proto::v1;
use proto::v1::kv_service_client::KvServiceClient;
use rusqlite::Connection;
use tokio::process::Command;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};

use self::client::{COUNTERS, Client, NAMESPACE, see};
use self::history::{History, State, check};
use self::process::{Service, spawn, within};

const CLIENTS: usize = 8;
const ROUNDS: usize = 20;
/// Longest life of a service, from its ready line.
const LIFE_MAX: Duration = Duration::from_millis(300);
/// Longest time that one which is killed before its ready line is given.
const START_MAX: Duration = Duration::from_millis(40);

fn rounds() -> usize {
    std::env::var_os("LINEARIZABLE_ROUNDS").map_or(ROUNDS, |rounds| {
        let rounds = rounds.to_str().and_then(|rounds| rounds.parse().ok());
        rounds.expect("LINEARIZABLE_ROUNDS is a number")
    })
}

/// An address that stays free while nobody listens there: not one of those that the system gives to clients, or one that
/// looks for the service could be given it, and would find itself.
fn address() -> String {
    let mut tries = std::iter::repeat_with(|| rand::random_range(20_000..30_000_u16)).take(100);
    let port = tries.find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok());
    format!("127.0.0.1:{}", port.expect("one of a hundred ports is free"))
}

fn start(address: &str, path: &Path) -> tokio::process::Child {
    spawn(Command::new(env!("CARGO_BIN_EXE_storage-svc")), address, path)
}

fn random(most: Duration) -> Duration {
    rand::random_range(Duration::ZERO..most)
}

/// Everything, page by page, when nobody writes any more.
async fn read_all(channel: Channel) -> State {
    let mut kv = KvServiceClient::new(channel);
    let mut state = State::default();
    let mut request = v1::ScanRequest {
        selector: Some(v1::Selector {
            namespace: NAMESPACE.to_owned(),
            keys: None,
        }),
        page_size: 1_000,
        ..Default::default()
    };
    loop {
        let page = within(kv.scan(request.clone())).await.expect("it reads").into_inner();
        let entries = page.rows.iter().flat_map(|row| &row.entry);
        state
            .entries
            .extend(entries.map(|entry| (entry.key.clone(), see(entry))));
        state.revision = page.store_revision;
        if page.next_page_token.is_empty() {
            return state;
        }
        request.page_token = page.next_page_token;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn all_answers_fit_one_order_though_the_service_is_killed_again_and_again() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let path = folder.path().join("store.db");
    let address = address();
    let channel = Endpoint::from_shared(format!("http://{address}"))
        .expect("it is an address")
        .connect_lazy();
    let start_time = Instant::now();
    let stop = CancellationToken::new();
    let mut clients = JoinSet::new();
    for number in 0..CLIENTS {
        // A connection each.
        let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("it is an address");
        clients.spawn(Client::new(number, endpoint.connect_lazy(), start_time).run(stop.clone()));
    }
    for round in 0..rounds() {
        let mut child = start(&address, &path);
        // Now and then it is killed before it serves: in the middle of what it does to the log of the one before.
        if round % 5 == 4 {
            tokio::time::sleep(random(START_MAX)).await;
            within(child.kill()).await.expect("it is killed");
        } else {
            let service = Service::ready(child).await;
            tokio::time::sleep(random(LIFE_MAX)).await;
            service.kill().await;
        }
    }
    let service = Service::ready(start(&address, &path)).await;
    assert_eq!(service.address, address, "the clients find it again");
    stop.cancel();
    let mut history = History::default();
    while let Some(done) = within(clients.join_next()).await {
        let done = done.expect("the client did not panic");
        history.commits.extend(done.commits);
        history.reads.extend(done.reads);
    }
    let last = read_all(channel).await;
    assert_eq!(service.terminate().await.code(), Some(0));

    let figures = check(&history, &last).unwrap_or_else(|fault| panic!("{fault}"));
    println!("{figures:?}");
    assert!(
        figures.commits > 0 && figures.reads > 0 && figures.conflicts > 0,
        "{figures:?}"
    );
    assert!(figures.lost_answers > 0 && figures.replayed > 0, "{figures:?}");
    for counter in COUNTERS {
        let counted = history
            .commits
            .iter()
            .filter(|commit| commit.writes.contains_key(counter) && last.entries.contains_key(&commit.id))
            .count();
        let count = last.entries.get(counter).map_or("0", |seen| &seen.value);
        assert_eq!(count, counted.to_string(), "{counter} rose by one with each commit");
    }
    let file = Connection::open(&path).expect("it opens");
    let ok: String = file
        .query_row("pragma integrity_check", (), |row| row.get(0))
        .expect("it checks");
    assert_eq!(ok, "ok");
}
