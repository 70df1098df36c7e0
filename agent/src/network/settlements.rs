//! What requests came to, for a scheduler that lost the end of an answer: while they are
//! under way, and afterwards for the newest of them.

use std::collections::{HashSet, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Of one Channel.
#[derive(Debug, Default)]
pub(super) struct Settlements(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    under_way: HashSet<[u8; 16]>,
    settled: VecDeque<Settled>,
}

#[derive(Debug)]
struct Settled {
    id: [u8; 16],
    settlement: Vec<u8>,
    /// What was earned by it and is not counted yet.
    unpaid: u64,
}

/// What is known of a request.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Known {
    UnderWay,
    Settled {
        settlement: Vec<u8>,
        /// To be counted now, and then no more.
        unpaid: u64,
    },
}

impl Settlements {
    /// One is being answered.
    pub(super) fn begin(&self, id: [u8; 16]) {
        self.state().under_way.insert(id);
    }

    /// It came to this, by which so much was earned.
    pub(super) fn note(&self, id: [u8; 16], settlement: &[u8], earned: u64) {
        let mut state = self.state();
        state.settled.push_back(Settled {
            id,
            settlement: settlement.to_vec(),
            unpaid: earned,
        });
        if state.settled.len() > MAX_SETTLED {
            state.settled.pop_front();
        }
    }

    /// Its answer was taken to its end: what is to be counted now.
    pub(super) fn taken(&self, id: &[u8; 16]) -> u64 {
        match self.state().find(id) {
            Some(settled) => std::mem::take(&mut settled.unpaid),
            None => 0,
        }
    }

    /// Nobody answers it any more.
    pub(super) fn end(&self, id: &[u8; 16]) {
        self.state().under_way.remove(id);
    }

    /// Whoever asks has it.
    pub(super) fn of(&self, id: &[u8; 16]) -> Option<Known> {
        let mut state = self.state();
        if let Some(settled) = state.find(id) {
            return Some(Known::Settled {
                settlement: settled.settlement.clone(),
                unpaid: std::mem::take(&mut settled.unpaid),
            });
        }
        let is_under_way = state.under_way.contains(id);
        is_under_way.then_some(Known::UnderWay)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn find(&mut self, id: &[u8; 16]) -> Option<&mut Settled> {
        let mut settled = self.settled.iter_mut().rev();
        settled.find(|settled| settled.id == *id)
    }
}

/// Settlements that a scheduler can ask for: of one that was killed all may be missing.
const MAX_SETTLED: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    const ID: [u8; 16] = [7; 16];

    fn settled(unpaid: u64) -> Option<Known> {
        let settlement = b"signed".to_vec();
        Some(Known::Settled { settlement, unpaid })
    }

    #[test]
    fn what_is_earned_is_counted_once_whoever_hears_of_it_first() {
        let kept = Settlements::default();
        assert_eq!(kept.of(&ID), None);
        kept.begin(ID);
        assert_eq!(kept.of(&ID), Some(Known::UnderWay));
        kept.note(ID, b"signed", 5);
        kept.end(&ID);
        assert_eq!(kept.of(&ID), settled(5), "its end was lost");
        assert_eq!((kept.of(&ID), kept.taken(&ID)), (settled(0), 0));
        let kept = Settlements::default();
        kept.note(ID, b"signed", 5);
        assert_eq!((kept.taken(&ID), kept.of(&ID)), (5, settled(0)));
    }

    #[test]
    fn the_oldest_are_forgotten_and_what_was_cut_off_is_nothing() {
        let kept = Settlements::default();
        kept.begin(ID);
        kept.end(&ID);
        assert_eq!(kept.of(&ID), None);
        kept.note(ID, b"signed", 5);
        for number in 0..MAX_SETTLED {
            assert!(kept.of(&ID).is_some(), "{number}");
            kept.note([0; 16], b"", 0);
        }
        assert_eq!(kept.of(&ID), None);
    }
}
