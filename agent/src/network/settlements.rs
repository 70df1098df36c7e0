//! What requests came to, for a scheduler that lost the end of an answer: while they are
//! under way, and afterwards for the newest of them.
//!
//! Clients choose identifiers: one that is known here is taken for no other request, so what
//! is said of it is of that one.

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::purse::Earned;

/// Of one Channel.
#[derive(Debug, Default)]
pub(super) struct Settlements(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    under_way: HashSet<[u8; 16]>,
    settled: VecDeque<([u8; 16], Settled)>,
}

/// What a request came to.
#[derive(Clone, Debug)]
pub(super) struct Settled {
    pub(super) settlement: Vec<u8>,
    /// Where vouchers pay.
    pub(super) earned: Option<Arc<Earned>>,
}

/// What is known of a request.
#[derive(Clone, Debug)]
pub(super) enum Known {
    UnderWay,
    Settled(Settled),
}

/// A request that is being answered, until this is dropped.
#[derive(Debug)]
pub(super) struct UnderWay {
    settlements: Arc<Settlements>,
    id: [u8; 16],
}

impl Settlements {
    /// One is to be answered; none whose identifier is known.
    pub(super) fn begin(self: &Arc<Self>, id: [u8; 16]) -> Option<UnderWay> {
        let mut state = self.state();
        let is_new = state.find(&id).is_none() && state.under_way.insert(id);
        is_new.then(|| UnderWay {
            settlements: Arc::clone(self),
            id,
        })
    }

    /// What came of it, if it came.
    pub(super) fn of(&self, id: &[u8; 16]) -> Option<Known> {
        let state = self.state();
        if let Some(settled) = state.find(id) {
            return Some(Known::Settled(settled.clone()));
        }
        let is_under_way = state.under_way.contains(id);
        is_under_way.then_some(Known::UnderWay)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn find(&self, id: &[u8; 16]) -> Option<&Settled> {
        let mut settled = self.settled.iter().rev();
        settled.find_map(|(other, settled)| (other == id).then_some(settled))
    }
}

impl UnderWay {
    /// It came to this.
    pub(super) fn settle(&self, settled: Settled) {
        let mut state = self.settlements.state();
        state.settled.push_back((self.id, settled));
        if state.settled.len() > MAX_SETTLED {
            state.settled.pop_front();
        }
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.settlements.state().under_way.remove(&self.id);
    }
}

/// Settlements that a scheduler can ask for: of one that was killed all may be missing.
const MAX_SETTLED: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    const ID: [u8; 16] = [7; 16];

    fn settled() -> Settled {
        Settled {
            settlement: b"signed".to_vec(),
            earned: None,
        }
    }

    #[test]
    fn an_identifier_that_is_under_way_or_settled_is_taken_for_no_other_request() {
        let kept = Arc::<Settlements>::default();
        assert!(kept.of(&ID).is_none());
        let under_way = kept.begin(ID).unwrap();
        assert!(matches!(kept.of(&ID), Some(Known::UnderWay)));
        assert!(kept.begin(ID).is_none(), "it is under way");
        drop(under_way);
        assert!(kept.of(&ID).is_none(), "it was cut off");
        let under_way = kept.begin(ID).unwrap();
        under_way.settle(settled());
        for _ in 0..2 {
            let of =
                |known| matches!(known, Some(Known::Settled(it)) if it.settlement == b"signed");
            assert!(of(kept.of(&ID)));
            assert!(kept.begin(ID).is_none(), "it is settled");
        }
        drop(under_way);
        assert!(kept.begin(ID).is_none(), "and stays so");
    }

    #[test]
    fn the_oldest_are_forgotten() {
        let kept = Arc::<Settlements>::default();
        kept.begin(ID).unwrap().settle(settled());
        for number in 0..MAX_SETTLED {
            assert!(kept.of(&ID).is_some(), "{number}");
            let id = u128::try_from(number).unwrap().to_be_bytes();
            kept.begin(id).unwrap().settle(settled());
        }
        assert!(kept.of(&ID).is_none());
    }
}
