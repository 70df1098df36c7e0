//! Which place a request goes to: of two drawn at random the better one, so that nobody
//! gets more than two shares, whatever it promises, and schedulers that know the same old
//! offers do not all run to one place. A few take the first one drawn, so that who was slow
//! is tried again.
//!
//! A standing is a share: who has half of it is drawn half as often. The better one costs
//! less: what an answer takes there, times what it asks, times how full it is. Who is twice
//! as fast may ask for twice as much.

use std::time::Duration;

use attestation::register::Digest256;
use slab::Slab;

use crate::affinity;
use crate::dice::Dice;
use crate::directory::Model;
use crate::reputation;
use crate::seat::Seat;

/// What a client wants.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// Its name.
    pub model: &'a str,
    /// Nanotons for a million tokens.
    pub max_price: u64,
    /// A keyed hash of how the conversation begins.
    pub affinity: Option<Digest256>,
    /// Who was tried already.
    pub except: &'a [Digest256],
}

/// One of the open places, by its number.
pub(crate) fn choose(
    model: &Model,
    seats: &Slab<Seat>,
    wanted: &Wanted<'_>,
    now: Duration,
    random: u64,
) -> Option<usize> {
    let choice = Choice {
        model,
        seats,
        wanted,
        now,
    };
    let mut dice = Dice(random);
    let drawn = choice.draw(&mut dice, None)?;
    let known = wanted.affinity.and_then(|affinity| choice.known(&affinity));
    if known.is_none() && dice.is_one_in(EXPLORE) {
        return Some(drawn);
    }
    let other = choice.draw(&mut dice, Some(drawn)).unwrap_or(drawn);
    let cost = |id: &usize| choice.cost(*id);
    let better = [drawn, other].into_iter().min_by_key(cost)?;
    known
        .filter(|known| cost(known) <= cost(&better).saturating_mul(WORTH))
        .or(Some(better))
}

struct Choice<'a> {
    model: &'a Model,
    seats: &'a Slab<Seat>,
    wanted: &'a Wanted<'a>,
    now: Duration,
}

impl Choice<'_> {
    /// Any that has room, is allowed, and is not the other one; by standing, unless nobody
    /// else is there.
    fn draw(&self, dice: &mut Dice, other: Option<usize>) -> Option<usize> {
        let fits = |id: usize| Some(id) != other && self.is_new(id);
        let mut draw = || {
            let drawn = self.model.open.draw(self.wanted.max_price, dice, fits)?;
            let standing = self.seats.get(drawn)?.standing;
            let chance = dice.below(reputation::FULL.into());
            Some((drawn, chance < standing.into()))
        };
        let mut last = draw()?;
        for _ in 0..REDRAWS {
            if last.1 {
                break;
            }
            last = draw()?;
        }
        Some(last.0)
    }

    /// Where the conversation should be, if there is room and it may go there.
    fn known(&self, affinity: &Digest256) -> Option<usize> {
        let fits = |id: usize| {
            let seat = self.seats.get(id);
            seat.is_some_and(|seat| {
                let bound = affinity::bound(seat.slots, self.model.load, self.model.slots);
                seat.ask <= self.wanted.max_price
                    && seat.is_open(self.now)
                    && seat.load() < bound
                    && affinity::chance(affinity, seat.point) < seat.standing
                    && self.is_new(id)
            })
        };
        self.model.ring.next(affinity, self.wanted.max_price, fits)
    }

    fn is_new(&self, id: usize) -> bool {
        let is_new = |seat: &Seat| !self.wanted.except.contains(&seat.worker);
        self.wanted.except.is_empty() || self.seats.get(id).is_some_and(is_new)
    }

    fn cost(&self, id: usize) -> u128 {
        self.seats.get(id).map_or(u128::MAX, |seat| {
            let answer = seat.speed.answer(TYPICAL, &self.model.typical, self.now);
            let slots = u128::from(seat.slots.max(1));
            let used = slots.saturating_add(seat.load().into());
            let crowd = used.saturating_mul(1000).checked_div(slots);
            u128::from(answer.max(1))
                .saturating_mul(crowd.unwrap_or(1000))
                .saturating_mul(seat.ask.max(1).into())
        })
    }
}

/// One in so many takes what was drawn first.
const EXPLORE: u64 = 32;

/// How often it is drawn anew for a low standing.
const REDRAWS: usize = 4;

/// Being remembered is worth so many times the cost elsewhere.
const WORTH: u128 = 3;

/// Tokens of an answer, to weigh the first against the others.
const TYPICAL: u64 = 200;
