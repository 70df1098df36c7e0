//! The open places of one model by what they ask, so that neither a price limit nor the
//! number of places makes a draw dearer.
//!
//! Asks fall into at most 248 brackets. Each bracket is a heap, the least ask on top: a
//! limit cuts through one bracket only, whose top tells whether anything in it is left.

use std::collections::BTreeMap;

use contracts::price::bracket;
use slab::Slab;

use crate::dice::Dice;
use crate::seat::Seat;

/// Open places of one model.
#[derive(Debug, Default)]
pub(crate) struct Candidates {
    brackets: BTreeMap<u8, Heap>,
}

impl Candidates {
    pub(crate) fn insert(&mut self, id: usize, seats: &mut Slab<Seat>) {
        if let Some(seat) = seats.get(id) {
            let heap = self.brackets.entry(bracket(seat.ask)).or_default();
            heap.push(Entry { ask: seat.ask, id }, seats);
        }
    }

    /// What was inserted at this ask.
    pub(crate) fn remove(&mut self, id: usize, ask: u64, seats: &mut Slab<Seat>) {
        let bracket = bracket(ask);
        let position = seats.get_mut(id).and_then(|seat| seat.position.take());
        if let (Some(position), Some(heap)) = (position, self.brackets.get_mut(&bracket)) {
            heap.remove(position, seats);
            if heap.0.is_empty() {
                self.brackets.remove(&bracket);
            }
        }
    }

    /// The least that any asks.
    pub(crate) fn least(&self) -> Option<u64> {
        let (_, heap) = self.brackets.first_key_value()?;
        Some(heap.0.first()?.ask)
    }

    pub(crate) fn len(&self) -> usize {
        self.brackets.values().map(|heap| heap.0.len()).sum()
    }

    /// One at random that asks for at most `max` and fits; each as likely as any other. If
    /// there is one, it is found: in as many steps more as there are that do not fit.
    pub(crate) fn draw(
        &self,
        max: u64,
        dice: &mut Dice,
        fits: impl Fn(usize) -> bool,
    ) -> Option<usize> {
        let heaps = || {
            let heaps = self
                .brackets
                .range(..=bracket(max))
                .map(|(_, heap)| &heap.0);
            heaps.filter(move |heap| heap.first().is_some_and(|least| least.ask <= max))
        };
        let count = heaps().map(Vec::len).sum();
        for _ in 0..DRAWS {
            let mut at = dice.below(count);
            for heap in heaps() {
                match at.checked_sub(heap.len()) {
                    Some(rest) => at = rest,
                    None => {
                        let drawn = heap.get(at).filter(|drawn| drawn.ask <= max);
                        if let Some(drawn) = drawn.filter(|drawn| fits(drawn.id)) {
                            return Some(drawn.id);
                        }
                        break;
                    }
                }
            }
        }
        heaps().find_map(|heap| search(heap, 0, max, &fits))
    }
}

/// Any that fits, from one position down.
fn search(heap: &[Entry], at: usize, max: u64, fits: &impl Fn(usize) -> bool) -> Option<usize> {
    let entry = heap.get(at).filter(|entry| entry.ask <= max)?;
    if fits(entry.id) {
        return Some(entry.id);
    }
    children(at).find_map(|child| search(heap, child, max, fits))
}

/// After so many that were beyond the limit or did not fit, it is searched.
const DRAWS: usize = 8;

#[derive(Clone, Copy, Debug)]
struct Entry {
    ask: u64,
    id: usize,
}

/// Each place knows its position.
#[derive(Debug, Default)]
struct Heap(Vec<Entry>);

impl Heap {
    fn push(&mut self, entry: Entry, seats: &mut Slab<Seat>) {
        let at = self.0.len();
        self.0.push(entry);
        self.note(at, seats);
        self.rise(at, seats);
    }

    fn remove(&mut self, at: usize, seats: &mut Slab<Seat>) {
        if at < self.0.len() {
            self.0.swap_remove(at);
            self.note(at, seats);
            self.rise(at, seats);
            self.sink(at, seats);
        }
    }

    fn rise(&mut self, mut at: usize, seats: &mut Slab<Seat>) {
        while let Some(below) = at.checked_sub(1) {
            let parent = below / 2;
            if !self.order(parent, at, seats) {
                break;
            }
            at = parent;
        }
    }

    fn sink(&mut self, mut at: usize, seats: &mut Slab<Seat>) {
        let ask = |heap: &Self, at: usize| heap.0.get(at).map_or(u64::MAX, |entry| entry.ask);
        while let Some(child) = children(at).min_by_key(|child| ask(self, *child)) {
            if !self.order(at, child, seats) {
                break;
            }
            at = child;
        }
    }

    /// Swaps two if the lower one asks for less: whether it did.
    fn order(&mut self, upper: usize, lower: usize, seats: &mut Slab<Seat>) -> bool {
        let (Some(above), Some(below)) = (self.0.get(upper), self.0.get(lower)) else {
            return false;
        };
        if above.ask <= below.ask {
            return false;
        }
        self.0.swap(upper, lower);
        self.note(upper, seats);
        self.note(lower, seats);
        true
    }

    fn note(&self, at: usize, seats: &mut Slab<Seat>) {
        if let Some(seat) = self.0.get(at).and_then(|entry| seats.get_mut(entry.id)) {
            seat.position = Some(at);
        }
    }
}

fn children(at: usize) -> impl Iterator<Item = usize> {
    let left = at.saturating_mul(2).saturating_add(1);
    [left, left.saturating_add(1)].into_iter()
}
