//! The consumer as a process of its own.

use std::process::ExitCode;

use clap::Parser as _;
use consumer::{Args, run};
use feed_store::FeedStore;
use runtime::clock::Clock;

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
    println!("consumer ready for {}", args.storage.storage_url);
    run(FeedStore::new(client), args.consumer.into(), Clock::system(), shutdown).await;
    Ok(())
}
