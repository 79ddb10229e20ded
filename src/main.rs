//! `dp1-feed`: storage service, gateway and consumer in one process, and the commands around them.

mod first_start;
mod http;
mod publish;
mod queue;
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
    /// Publish a folder of playlist files, and one channel over them. Safe to repeat within 24 hours: later, what is
    /// unchanged is published a second time.
    Publish(publish::Args),
    /// Check the signatures of a document.
    Verify(verify::Args),
    /// Look into the queues of a storage service, redrive and purge their messages.
    Queue(queue::Args),
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
        Some(Command::Queue(args)) => queue::run(args).await,
        Some(Command::Keygen) => {
            let signer = Signer::generate(&mut rand::rng());
            println!("private {}", signer.to_pkcs8_hex());
            println!("public {}", signer.public_key().to_hex());
            println!("did {}", signer.did_key());
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use clap::{Command, CommandFactory as _};

    use super::Args;

    /// Variables of a command and its subcommands, as lines of `.env.sample`.
    fn lines(command: &Command, into: &mut BTreeSet<String>) {
        for argument in command.get_arguments() {
            let Some(variable) = argument.get_env().map(|variable| variable.to_string_lossy()) else {
                continue;
            };
            let defaults: Vec<_> = argument
                .get_default_values()
                .iter()
                .map(|value| value.to_string_lossy())
                .collect();
            into.insert(format!("{variable}={}", defaults.join(",")));
        }
        for subcommand in command.get_subcommands() {
            lines(subcommand, into);
        }
    }

    #[test]
    fn the_sample_settings_name_every_variable_with_its_default() {
        let mut expected = BTreeSet::new();
        for command in [
            Args::command(),
            storage_svc::Args::command(),
            api_gateway::Args::command(),
            consumer::Args::command(),
        ] {
            lines(&command, &mut expected);
        }
        assert!(expected.contains("PORT=8787"), "{expected:?}");

        let sample = include_str!("../.env.sample");
        let is_variable = |name: &str| {
            name.bytes()
                .all(|byte| byte.is_ascii_uppercase() || b"_0123456789".contains(&byte))
        };
        let named: BTreeSet<_> = sample
            .lines()
            .filter_map(|line| line.trim_start_matches("# ").split_once('='))
            .map(|(name, _)| name)
            .filter(|name| is_variable(name))
            .collect();
        for variable in &named {
            let is_read = expected.iter().any(|line| line.starts_with(&format!("{variable}=")));
            assert!(is_read, "nothing reads {variable} of .env.sample");
        }
        for line in &expected {
            let (variable, default) = line.split_once('=').expect("made above");
            assert!(named.contains(variable), ".env.sample does not name {variable}");
            let is_set = !default.is_empty();
            assert!(
                !is_set || sample.lines().any(|sampled| sampled == line),
                ".env.sample has no line {line}"
            );
        }
    }
}
