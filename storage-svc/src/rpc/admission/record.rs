//! What is remembered of a call while it lasts, and told when it ends: to the log, and to whoever collects figures.

use std::sync::Arc;
use std::time::Instant;

use proto::trace::TraceParent;
use tokio::sync::OwnedSemaphorePermit;
use tonic::Code;
use tracing::Span;
use tracing::field::Empty;

use super::methods::Method;
use crate::error::code_name;
use crate::metrics::Metrics;

/// A call under way. Dropped before it has ended, it was given up by its caller.
#[derive(Debug)]
pub(super) struct Record {
    method: Arc<Method>,
    metrics: Metrics,
    span: Span,
    began: Instant,
    code: Option<Code>,
    place: Option<OwnedSemaphorePermit>,
}

impl Record {
    /// Of a call that begins now, and whose caller says that it is a part of `traced`.
    pub(super) fn new(method: Arc<Method>, metrics: Metrics, traced: Option<&TraceParent>) -> Self {
        metrics.call_began(&method.name);
        let span = tracing::debug_span!("call", rpc.method = method.name, trace.id = Empty);
        if let Some(traced) = traced {
            span.record("trace.id", traced.trace_id());
        }
        Self {
            method,
            metrics,
            span,
            began: Instant::now(),
            code: None,
            place: None,
        }
    }

    /// What is logged of the call belongs to this.
    pub(super) fn span(&self) -> Span {
        self.span.clone()
    }

    /// It has a place from now on.
    pub(super) fn placed(&mut self, place: OwnedSemaphorePermit) {
        self.place = Some(place);
    }

    /// It ended so.
    pub(super) fn ended(&mut self, code: Code) {
        self.code.get_or_insert(code);
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let code = self.code.unwrap_or(Code::Cancelled);
        self.metrics.call_ended(&self.method.name, code, self.began);
        let _entered = self.span.enter();
        tracing::debug!(
            rpc.code = code_name(code),
            elapsed_ms = self.began.elapsed().as_secs_f64() * 1_000.0,
            "call ended"
        );
    }
}
