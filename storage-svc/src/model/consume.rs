//! A stream of deliveries, as its client opens it.

use super::name::QueueName;

/// Asks for messages as they become ready, never more at a time than the window holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Consume {
    /// Where from.
    pub queue: QueueName,
    /// Most messages that are out at a time.
    pub messages_max: usize,
    /// Most bytes of bodies that are out at a time; one message always fits.
    pub bytes_max: usize,
    /// None: the queue's setting.
    pub lease_ms: Option<i64>,
}
