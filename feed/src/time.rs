//! Instants as milliseconds since 1970 and as the text documents carry. The clock itself is the caller's.

use jiff::Timestamp;
use jiff::fmt::temporal::DateTimePrinter;

const MILLISECONDS: DateTimePrinter = DateTimePrinter::new().precision(Some(3));
const SECONDS: DateTimePrinter = DateTimePrinter::new().precision(Some(0));

/// ISO 8601 in UTC with three fractional digits: `2025-06-03T17:01:00.000Z`. Instants outside the years -9999 to 9999
/// print as the nearest that can be written.
#[must_use]
pub fn to_text(ms: i64) -> String {
    MILLISECONDS.timestamp_to_string(&timestamp(ms))
}

/// ISO 8601 in UTC without a fraction, as DP-1 1.1 writes the `ts` of a signature: `2025-06-03T17:01:00Z`.
#[must_use]
pub fn to_text_seconds(ms: i64) -> String {
    SECONDS.timestamp_to_string(&timestamp(ms.div_euclid(1000).saturating_mul(1000)))
}

/// Milliseconds since 1970 (negative before) of a date, time and offset written as RFC 3339 has them; digits past the
/// millisecond are cut. `None` for anything else, a local time without an offset included.
#[must_use]
pub fn parse(text: &str) -> Option<i64> {
    let timestamp: Timestamp = text.parse().ok()?;
    i64::try_from(timestamp.as_nanosecond().div_euclid(1_000_000)).ok()
}

fn timestamp(ms: i64) -> Timestamp {
    // The bounds as whole seconds: a millisecond past them may not be representable.
    let bounded = ms.clamp(Timestamp::MIN.as_second() * 1000, Timestamp::MAX.as_second() * 1000);
    Timestamp::from_millisecond(bounded).expect("bounded to what can be represented")
}
