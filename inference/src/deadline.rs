//! When an answer must be complete.

use std::time::{Duration, Instant};

use crate::error::EngineError;

/// A moment, and how long it was away.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadline {
    limit: Duration,
    /// `None` if it lies beyond what the clock can count.
    end: Option<Instant>,
}

impl Deadline {
    /// From now on.
    pub(crate) fn after(limit: Duration) -> Self {
        Self {
            limit,
            end: Instant::now().checked_add(limit),
        }
    }

    /// Whether there is time left.
    pub(crate) fn check(self, now: Instant) -> Result<(), EngineError> {
        match self.end {
            Some(end) if now >= end => Err(EngineError::Deadline { limit: self.limit }),
            _ => Ok(()),
        }
    }
}
