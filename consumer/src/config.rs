//! What an operator can set.

use std::num::NonZeroU32;
use std::time::Duration;

use feed_store::StorageArgs;
use proto::limits::{LEASE_MAX, LEASE_MIN, RECEIVE_MESSAGES_MAX};

use crate::worker::Settings;

/// Settings of the consumer process.
#[derive(Clone, Debug, clap::Parser)]
#[command(name = "consumer", version, about = "Applies queued writes of a DP-1 feed")]
pub struct Args {
    /// Where the storage service is.
    #[command(flatten)]
    pub storage: StorageArgs,
    /// How it works.
    #[command(flatten)]
    pub consumer: ConsumerArgs,
    /// How it logs.
    #[command(flatten)]
    pub telemetry: runtime::telemetry::Args,
}

/// Settings of the work itself, the same in a process of its own and beside the others.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct ConsumerArgs {
    /// Messages worked on at once, 1 to 100.
    #[arg(long, env = "CONSUMER_CONCURRENCY", default_value = "8", value_parser = parse_concurrency)]
    pub consumer_concurrency: NonZeroU32,
    /// How long a message is leased, in milliseconds, 100 to 43,200,000. It is extended while it is worked on; another
    /// consumer takes over this long after a crash.
    #[arg(long, env = "CONSUMER_LEASE_MS", default_value = "30000", value_parser = parse_lease)]
    pub consumer_lease_ms: Duration,
}

impl From<ConsumerArgs> for Settings {
    fn from(args: ConsumerArgs) -> Self {
        Self {
            concurrency: args.consumer_concurrency,
            lease: args.consumer_lease_ms,
        }
    }
}

fn parse_concurrency(text: &str) -> Result<NonZeroU32, String> {
    let concurrency: NonZeroU32 = text.parse().map_err(|_| "not a number above zero".to_owned())?;
    if concurrency.get() as usize > RECEIVE_MESSAGES_MAX {
        return Err(format!("at most {RECEIVE_MESSAGES_MAX}"));
    }
    Ok(concurrency)
}

fn parse_lease(text: &str) -> Result<Duration, String> {
    let lease = text
        .parse()
        .map(Duration::from_millis)
        .map_err(|_| "not a number of milliseconds".to_owned())?;
    if !(LEASE_MIN..=LEASE_MAX).contains(&lease) {
        return Err(format!("from {} to {}", LEASE_MIN.as_millis(), LEASE_MAX.as_millis()));
    }
    Ok(lease)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_hold_at_the_limit_and_past_it() {
        assert!(parse_concurrency("0").is_err());
        assert_eq!(parse_concurrency("1").map(NonZeroU32::get), Ok(1));
        assert_eq!(parse_concurrency("100").map(NonZeroU32::get), Ok(100));
        assert!(parse_concurrency("101").is_err());
        assert!(parse_lease("99").is_err());
        assert_eq!(parse_lease("100"), Ok(LEASE_MIN));
        assert_eq!(parse_lease("43200000"), Ok(LEASE_MAX));
        assert!(parse_lease("43200001").is_err());
    }
}
