//! `dp1-feed`: storage service, gateway and consumer in one process, and the commands around them.

mod first_start;
mod http;
mod publish;
mod serve;
mod verify;

use std::process::ExitCode;

use clap::Parser as _;
use feed::sign::Signer;

/// A DP-1 feed on one SQLite file.
#[derive(Debug, clap::Parser)]
#[command(name = "dp1-feed", version, args_conflicts_with_subcommands = true)]
struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: serve::Args,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Serve the feed: storage, gateway and consumer in this process. The default.
    Serve(Box<serve::Args>),
    /// Publish a folder of playlist files, and one channel over them. Safe to repeat.
    Publish(publish::Args),
    /// Check the signatures of a document.
    Verify(verify::Args),
    /// Make a signing key and print it with its public forms.
    Keygen,
}

fn main() -> ExitCode {
    let args = Args::parse();
    match run(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("dp1-feed: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[tokio::main]
async fn run(args: Args) -> anyhow::Result<()> {
    match args.command {
        None => serve::run(args.serve).await,
        Some(Command::Serve(args)) => serve::run(*args).await,
        Some(Command::Publish(args)) => publish::run(args).await,
        Some(Command::Verify(args)) => verify::run(args).await,
        Some(Command::Keygen) => {
            let signer = Signer::generate(&mut rand::rng());
            println!("private {}", signer.to_pkcs8_hex());
            println!("public {}", signer.public_key().to_hex());
            println!("did {}", signer.did_key());
            Ok(())
        }
    }
}
