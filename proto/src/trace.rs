//! The caller's trace, as W3C Trace Context writes it: carried from a request to the calls that are made for it.

use std::fmt;
use std::str::FromStr;

/// Name of the header, in HTTP and in gRPC metadata.
pub const TRACEPARENT: &str = "traceparent";

/// Length of `00-<trace id>-<parent id>-<flags>`.
const LENGTH: usize = 55;

/// A trace that a caller takes part in. It is handed on as it came: the services keep no spans that others could hang
/// theirs on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceParent(String);

/// Text that is no `traceparent`; whoever meets it goes on without.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no traceparent")]
pub struct NotATraceParent;

impl TraceParent {
    /// The id that all of a trace has in common: 32 hexadecimal digits.
    #[must_use]
    pub fn trace_id(&self) -> &str {
        &self.0[3..35]
    }
}

impl fmt::Display for TraceParent {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl FromStr for TraceParent {
    type Err = NotATraceParent;

    /// Takes version 00, and of later ones what version 00 has.
    fn from_str(text: &str) -> Result<Self, NotATraceParent> {
        let known = text.get(..LENGTH).ok_or(NotATraceParent)?;
        let parts: Vec<&str> = known.split('-').collect();
        let [version, trace, parent, flags] = parts[..] else {
            return Err(NotATraceParent);
        };
        let is_hex = |part: &str, length: usize| {
            let digits = b"0123456789abcdef";
            part.len() == length && part.bytes().all(|byte| digits.contains(&byte))
        };
        let is_null = |part: &str| part.bytes().all(|byte| byte == b'0');
        let is_good = is_hex(version, 2) && is_hex(trace, 32) && is_hex(parent, 16) && is_hex(flags, 2);
        let rest = &text[LENGTH..];
        let ends_well = rest.is_empty() || (version != "00" && rest.starts_with('-'));
        if !is_good || !ends_well || version == "ff" || is_null(trace) || is_null(parent) {
            return Err(NotATraceParent);
        }
        Ok(Self(format!("00-{trace}-{parent}-{flags}")))
    }
}

tokio::task_local! {
    static CURRENT: TraceParent;
}

/// Does `work` as a part of this trace: the calls that it makes carry it. What it spawns does not.
pub async fn within<T>(trace: Option<TraceParent>, work: impl Future<Output = T>) -> T {
    match trace {
        Some(trace) => CURRENT.scope(trace, work).await,
        None => work.await,
    }
}

/// The trace that this is a part of.
#[must_use]
pub fn current() -> Option<TraceParent> {
    CURRENT.try_with(Clone::clone).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn what_is_well_formed_is_read() {
        let trace: TraceParent = GOOD.parse().expect("it is the specification's own");
        assert_eq!(trace.trace_id(), "0af7651916cd43dd8448eb211c80319c");
        assert_eq!(trace.to_string(), GOOD);
        let later = format!("cc{}-what-the-future-will-be-like", &GOOD[2..]);
        assert_eq!(later.parse(), Ok(trace));
    }

    #[test]
    fn what_is_not_is_ignored() {
        let zeros = |part: &str| GOOD.replace(part, &"0".repeat(part.len()));
        for text in [
            String::new(),
            GOOD[1..].to_owned(),
            format!("{GOOD}-"),
            format!("{GOOD}0"),
            format!("cc{}0", &GOOD[2..]),
            format!("ff{}", &GOOD[2..]),
            GOOD.to_uppercase(),
            GOOD.replace('-', "_"),
            GOOD.replace("0af", "0aß"),
            zeros("0af7651916cd43dd8448eb211c80319c"),
            zeros("b7ad6b7169203331"),
            "-".repeat(LENGTH),
        ] {
            assert_eq!(text.parse::<TraceParent>(), Err(NotATraceParent), "{text:?}");
        }
    }

    #[tokio::test]
    async fn the_trace_is_there_within_and_nowhere_else() {
        let trace: TraceParent = GOOD.parse().expect("it is good");
        assert_eq!(current(), None);
        within(Some(trace.clone()), async { assert_eq!(current(), Some(trace)) }).await;
        within(None, async { assert_eq!(current(), None) }).await;
    }
}
