//! Who may decode images.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::error::RequestError;

/// One request at a time, so that the images of many are no more in
/// memory than those of one. A few may wait for it, and hold up nobody else.
#[derive(Debug, Default)]
pub(crate) struct Turns {
    turn: Mutex<()>,
    /// Requests that have the turn or wait for it.
    waiting: AtomicUsize,
}

/// For all engines.
pub(crate) static TURNS: Turns = Turns {
    turn: Mutex::new(()),
    waiting: AtomicUsize::new(0),
};

impl Turns {
    /// Waits for the turn, which lasts until what this gives is dropped.
    pub(crate) fn take(&self) -> Result<Turn<'_>, RequestError> {
        if self.waiting.fetch_add(1, Ordering::Relaxed) >= MAX_WAITING {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            return Err(RequestError::Busy {
                retry_after: RETRY_AFTER,
            });
        }
        Ok(Turn {
            turns: self,
            _turn: self.turn.lock().unwrap_or_else(PoisonError::into_inner),
        })
    }
}

/// The right to decode.
pub(crate) struct Turn<'a> {
    turns: &'a Turns,
    _turn: MutexGuard<'a, ()>,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.turns.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What these take is long enough to wait for.
const MAX_WAITING: usize = 8;

const RETRY_AFTER: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_wait_to_decode_and_others_are_sent_away() {
        let turns = Turns::default();
        let first = turns.take().unwrap();
        std::thread::scope(|scope| {
            let wait = || turns.take().map(drop);
            let waiting: Vec<_> = (1..MAX_WAITING).map(|_| scope.spawn(wait)).collect();
            while turns.waiting.load(Ordering::Relaxed) < MAX_WAITING {
                std::thread::yield_now();
            }
            let refused = turns.take();
            assert!(matches!(refused, Err(RequestError::Busy { .. })));
            drop(first);
            for waiting in waiting {
                waiting.join().unwrap().unwrap();
            }
        });
        drop(turns.take().unwrap());
    }
}
