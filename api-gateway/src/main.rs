//! The gateway as a process of its own.

use std::process::ExitCode;

use api_gateway::{Args, Gateway, serve};
use clap::Parser as _;
use feed_store::FeedStore;
use runtime::clock::Clock;

fn main() -> ExitCode {
    let args = Args::parse();
    match start(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("api-gateway: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[tokio::main]
async fn start(args: &Args) -> anyhow::Result<()> {
    runtime::telemetry::start(&args.telemetry)?;
    let listener = args.gateway.bind().await?;
    let bound = listener.local_addr()?;
    let settings = args.gateway.settings(bound)?;
    let store = FeedStore::new(args.storage.connect_lazy()?);
    let shutdown = runtime::signal::shutdown()?;
    println!("api-gateway ready on http://{bound}");
    serve(listener, Gateway::new(settings, store, Clock::system()), shutdown).await
}
