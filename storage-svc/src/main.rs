//! The storage service as a process of its own.

use std::process::ExitCode;

use clap::Parser as _;
use runtime::clock::Clock;
use storage_svc::{Args, Store, bind, serve};

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
    let store = Store::open(&args.store, Clock::system())?;
    println!("storage-svc ready on {}", listener.address());
    let served = serve(listener, store.clone(), shutdown).await;
    store.close().await;
    served
}
