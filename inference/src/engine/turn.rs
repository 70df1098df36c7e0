//! The right to compute. Models of one process take turns, in the order in which they
//! ask: side by side they would only take the processors from each other.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Waits for the processors; they are free again when the turn is dropped.
pub(crate) fn turn() -> Turn<'static> {
    static LINE: Line = Line::new();
    LINE.turn()
}

/// Whoever waits, by number. A mutex alone would be taken again and again by whoever
/// has just let go of it.
#[derive(Debug)]
struct Line {
    numbers: Mutex<Numbers>,
    bell: Condvar,
}

#[derive(Debug)]
struct Numbers {
    /// That of the next to ask.
    next: u64,
    /// Whose turn it is.
    served: u64,
}

/// Has the processors.
#[must_use]
pub(crate) struct Turn<'a>(&'a Line);

impl Line {
    const fn new() -> Self {
        Self {
            numbers: Mutex::new(Numbers { next: 0, served: 0 }),
            bell: Condvar::new(),
        }
    }

    fn turn(&self) -> Turn<'_> {
        let mut numbers = self.lock();
        let own = numbers.next;
        numbers.next = own.wrapping_add(1);
        while numbers.served != own {
            let waited = self.bell.wait(numbers);
            numbers = waited.unwrap_or_else(PoisonError::into_inner);
        }
        Turn(self)
    }

    fn lock(&self) -> MutexGuard<'_, Numbers> {
        self.numbers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut numbers = self.0.lock();
        numbers.served = numbers.served.wrapping_add(1);
        drop(numbers);
        self.0.bell.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::thread;

    use super::*;

    impl Line {
        fn waiting(&self) -> u64 {
            let numbers = self.lock();
            numbers.next.wrapping_sub(numbers.served)
        }
    }

    #[test]
    fn whoever_lets_go_is_behind_whoever_waits() {
        let line = Line::new();
        let others = AtomicUsize::new(0);
        thread::scope(|scope| {
            let mut own = line.turn();
            for round in 1..=100 {
                scope.spawn(|| {
                    let _turn = line.turn();
                    others.fetch_add(1, Ordering::Relaxed);
                });
                // One has the turn, one waits.
                while line.waiting() < 2 {
                    thread::yield_now();
                }
                drop(own);
                own = line.turn();
                assert_eq!(others.load(Ordering::Relaxed), round);
            }
        });
    }
}
