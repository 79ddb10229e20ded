//! Logs to standard error, as text for people or JSON for programs.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;

/// How a service logs.
#[derive(Clone, Debug, clap::Args)]
#[group(skip)]
pub struct Args {
    /// Which logs: a level, or targets with levels as in `info,storage_svc=debug`.
    #[arg(long, env = "LOG_LEVEL", default_value = "info")]
    pub log_level: String,
    /// Form of the logs.
    #[arg(long, env = "LOG_FORMAT", value_enum, default_value_t = Format::Text)]
    pub log_format: Format,
}

/// Form of the logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// Lines for people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Starts logging for the whole process. Fails if the filter does not parse or logging was started before.
pub fn start(args: &Args) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(&args.log_level)
        .map_err(|error| anyhow::anyhow!("LOG_LEVEL {:?} is not a log filter: {error}", args.log_level))?;
    let logs = tracing_subscriber::fmt()
        .with_env_filter(filter)
        // Colours are for people: a file or a collector gets plain text.
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    let started = match args.log_format {
        Format::Text => logs.try_init(),
        Format::Json => logs.json().flatten_event(true).try_init(),
    };
    started.map_err(|error| anyhow::anyhow!("logging cannot start: {error}"))
}
