//! One model: who offers it, and how many answers that makes.

use std::sync::Arc;

use crate::affinity::Ring;
use crate::candidates::Candidates;
use crate::decay::Speed;
use crate::seat::Seat;

/// A model and who serves it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Offered<'a> {
    /// As offered.
    pub name: &'a str,
    /// As the first of them said.
    pub root: Option<&'a str>,
    /// Who offers it.
    pub workers: usize,
    /// Of them, who takes more.
    pub open: usize,
    /// The least that any of those asks.
    pub least: Option<u64>,
    /// Answers that could be begun.
    pub free: u64,
}

#[derive(Debug)]
pub(crate) struct Model {
    pub(super) name: Arc<str>,
    pub(super) root: Option<String>,
    pub(super) seats: usize,
    pub(crate) open: Candidates,
    pub(crate) ring: Ring,
    pub(crate) typical: Speed,
    pub(crate) slots: u64,
    pub(crate) load: u64,
}

impl Model {
    pub(super) fn new(name: Arc<str>, root: Option<String>) -> Self {
        Self {
            name,
            root,
            seats: 0,
            open: Candidates::default(),
            ring: Ring::default(),
            typical: Speed::default(),
            slots: 0,
            load: 0,
        }
    }

    pub(super) fn enter(&mut self, seat: &Seat) {
        self.slots = self.slots.saturating_add(seat.slots.into());
        self.load = self.load.saturating_add(seat.load().into());
    }

    pub(super) fn leave(&mut self, seat: &Seat) {
        self.slots = self.slots.saturating_sub(seat.slots.into());
        self.load = self.load.saturating_sub(seat.load().into());
    }
}
