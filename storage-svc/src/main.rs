//! The storage service as a process of its own.

use std::process::ExitCode;

use clap::Parser as _;
use runtime::clock::Clock;
use storage_svc::{Args, Store, bind, serve};
use tokio::task::JoinSet;

fn main() -> ExitCode {
    let args = Args::parse();
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("storage-svc: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[tokio::main]
async fn run(args: &Args) -> anyhow::Result<()> {
    runtime::telemetry::start(&args.telemetry)?;
    let shutdown = runtime::signal::shutdown()?;
    let listener = bind(&args.storage_listen, &args.listen).await?;
    let metrics_listener = args.metrics.bind().await?;
    let store = Store::open(&args.store, Clock::system())?;
    let mut beside = JoinSet::new();
    if let Some(listener) = metrics_listener {
        let asked = store.clone();
        let figures = move || {
            let store = asked.clone();
            async move { store.figures().await }
        };
        let asked = store.clone();
        let ready = move || {
            let store = asked.clone();
            async move { store.ready().await.map_err(|why| why.to_string()) }
        };
        beside.spawn(runtime::metrics::serve(listener, figures, ready, shutdown.clone()));
    }
    println!("storage-svc ready on {}", listener.address());
    let served = serve(listener, store.clone(), shutdown).await;
    // Not longer than the store: whoever asks later is told nothing wrong.
    beside.shutdown().await;
    store.close().await;
    served
}
