//! Whether messages can come, and why not.

use std::sync::{Mutex, PoisonError};

/// How the stream of messages is.
#[derive(Debug)]
pub(crate) struct State(Mutex<Result<(), NotReady>>);

/// Why a consumer gets no messages now.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotReady {
    /// It has just been started.
    #[error("the stream of messages is not open yet")]
    NotOpenYet,
    /// It is opened again and again until it stands.
    #[error("the stream of messages is broken: {0}")]
    Interrupted(String),
    /// The storage service was told to stop.
    #[error("storage is stopping")]
    StorageStopping,
    /// The consumer was told to stop.
    #[error("stopping")]
    Stopping,
    /// The storage service does not answer, or not in time.
    #[error("storage does not answer: {0}")]
    NoAnswer(String),
}

impl Default for State {
    fn default() -> Self {
        Self(Mutex::new(Err(NotReady::NotOpenYet)))
    }
}

impl State {
    pub(crate) fn set(&self, state: Result<(), NotReady>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = state;
    }

    pub(crate) fn get(&self) -> Result<(), NotReady> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
