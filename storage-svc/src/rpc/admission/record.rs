//! What is remembered of a call while it lasts, and told when it ends.

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::OwnedSemaphorePermit;
use tonic::Code;

use super::methods::Method;

/// A call under way. Dropped before it has ended, it was given up by its caller.
#[derive(Debug)]
pub(super) struct Record {
    method: Arc<Method>,
    began: Instant,
    code: Option<Code>,
    _place: Option<OwnedSemaphorePermit>,
}

impl Record {
    pub(super) fn new(method: Arc<Method>) -> Self {
        Self {
            method,
            began: Instant::now(),
            code: None,
            _place: None,
        }
    }

    /// It has a place from now on.
    pub(super) fn placed(&mut self, place: OwnedSemaphorePermit) {
        self._place = Some(place);
    }

    /// It ended so.
    pub(super) fn ended(&mut self, code: Code) {
        self.code.get_or_insert(code);
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let code = self.code.unwrap_or(Code::Cancelled);
        tracing::debug!(
            method = self.method.name,
            ?code,
            elapsed_ms = self.began.elapsed().as_millis(),
            "call ended"
        );
    }
}
