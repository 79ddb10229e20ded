//! What an operator can set.

use std::num::NonZeroU32;
use std::ops::RangeInclusive;
use std::time::Duration;

use feed_store::StorageArgs;
use proto::limits::{LEASE_MAX, LEASE_MIN, WINDOW_MESSAGES_MAX};

use crate::worker::Settings;

/// Most messages worked on at once.
const CONCURRENCY_MAX: u32 = 100;
const _: () = assert!(
    CONCURRENCY_MAX as usize <= WINDOW_MESSAGES_MAX,
    "one stream delivers them all"
);
/// Shortest time limit of a message.
const MESSAGE_TIME_MAX_MIN: Duration = Duration::from_millis(100);
/// Longest time limit of a message.
const MESSAGE_TIME_MAX_MAX: Duration = Duration::from_hours(1);

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
    /// Where it tells how it is.
    #[command(flatten)]
    pub metrics: runtime::metrics::Args,
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
    /// How long a message may be worked on, in milliseconds, 100 to 3,600,000. One that takes longer is put back, its
    /// attempt counted.
    #[arg(long, env = "CONSUMER_MESSAGE_TIME_MAX_MS", default_value = "60000", value_parser = parse_message_time_max)]
    pub consumer_message_time_max_ms: Duration,
}

impl From<ConsumerArgs> for Settings {
    fn from(args: ConsumerArgs) -> Self {
        Self {
            concurrency: args.consumer_concurrency,
            lease: args.consumer_lease_ms,
            message_time_max: args.consumer_message_time_max_ms,
        }
    }
}

fn parse_concurrency(text: &str) -> Result<NonZeroU32, String> {
    let concurrency: NonZeroU32 = text.parse().map_err(|_| "not a number above zero".to_owned())?;
    if concurrency.get() > CONCURRENCY_MAX {
        return Err(format!("at most {CONCURRENCY_MAX}"));
    }
    Ok(concurrency)
}

fn parse_lease(text: &str) -> Result<Duration, String> {
    parse_ms(text, LEASE_MIN..=LEASE_MAX)
}

fn parse_message_time_max(text: &str) -> Result<Duration, String> {
    parse_ms(text, MESSAGE_TIME_MAX_MIN..=MESSAGE_TIME_MAX_MAX)
}

fn parse_ms(text: &str, range: RangeInclusive<Duration>) -> Result<Duration, String> {
    let time = text
        .parse()
        .map(Duration::from_millis)
        .map_err(|_| "not a number of milliseconds".to_owned())?;
    if !range.contains(&time) {
        return Err(format!(
            "from {} to {}",
            range.start().as_millis(),
            range.end().as_millis()
        ));
    }
    Ok(time)
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
        assert!(parse_message_time_max("99").is_err());
        assert_eq!(parse_message_time_max("100"), Ok(MESSAGE_TIME_MAX_MIN));
        assert_eq!(parse_message_time_max("3600000"), Ok(MESSAGE_TIME_MAX_MAX));
        assert!(parse_message_time_max("3600001").is_err());
    }
}
