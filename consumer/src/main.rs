//! The consumer as a process of its own.

use std::process::ExitCode;

use clap::Parser as _;
use consumer::{Args, Consumer};
use feed_store::FeedStore;
use runtime::clock::Clock;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

fn main() -> ExitCode {
    let args = Args::parse();
    match start(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("consumer: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[tokio::main]
async fn start(args: &Args) -> anyhow::Result<()> {
    runtime::telemetry::start(&args.telemetry)?;
    let client = args.storage.connect_lazy()?;
    let shutdown = runtime::signal::shutdown()?;
    let metrics_listener = args.metrics.bind().await?;
    let consumer = Consumer::new(FeedStore::new(client), args.consumer.into(), Clock::system());
    let mut beside = JoinSet::new();
    if let Some(listener) = metrics_listener {
        let asked = consumer.clone();
        let figures = move || {
            let consumer = asked.clone();
            async move { consumer.figures().await }
        };
        let asked = consumer.clone();
        let ready = move || {
            let consumer = asked.clone();
            async move { consumer.ready().await.map_err(|why| why.to_string()) }
        };
        // Until the end of the drain: it tells how that goes.
        beside.spawn(runtime::metrics::serve(
            listener,
            figures,
            ready,
            CancellationToken::new(),
        ));
    }
    println!("consumer ready for {}", args.storage.storage_url);
    consumer.run(shutdown).await;
    beside.shutdown().await;
    Ok(())
}
