//! Which place a request goes to: of two drawn at random the better one, so that nobody
//! gets more than two shares, whatever it promises, and schedulers that know the same old
//! offers do not all run to one place. A few take the first one drawn, so that who is new
//! or was slow is tried.
//!
//! The better one costs less: what an answer takes there, times what it asks, times how
//! full it is, by its standing. Who is twice as fast may ask for twice as much.

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
    is_allowed: impl Fn(&Seat) -> bool,
    now: Duration,
    random: u64,
) -> Option<usize> {
    let mut dice = Dice(random);
    let fits = |id: usize| seats.get(id).is_some_and(&is_allowed);
    let draw = |dice: &mut Dice, other: Option<usize>| {
        let fits = |id: usize| Some(id) != other && fits(id);
        model.open.draw(wanted.max_price, dice, fits)
    };
    let cost = |id: &usize| {
        seats
            .get(*id)
            .map_or(u128::MAX, |seat| cost(model, seat, now))
    };

    let drawn = draw(&mut dice, None)?;
    let known = wanted.affinity.and_then(|affinity| {
        model.ring.next(&affinity, wanted.max_price, |id| {
            let has_room = |seat: &Seat| {
                let bound = affinity::bound(seat.slots, model.load, model.slots);
                seat.ask <= wanted.max_price && seat.is_open(now) && seat.load() < bound
            };
            seats.get(id).is_some_and(has_room) && fits(id)
        })
    });
    if dice.is_one_in(EXPLORE) && known.is_none() {
        return Some(drawn);
    }
    let other = draw(&mut dice, Some(drawn)).unwrap_or(drawn);
    let better = [drawn, other].into_iter().min_by_key(cost)?;
    Some(match known {
        Some(known) if cost(&known) <= cost(&better).saturating_mul(WORTH) => known,
        _ => better,
    })
}

fn cost(model: &Model, seat: &Seat, now: Duration) -> u128 {
    let answer = u128::from(seat.speed.answer(TYPICAL, &model.typical, now).max(1));
    let slots = u128::from(seat.slots.max(1));
    let crowd = slots
        .saturating_add(seat.load().into())
        .saturating_mul(1000);
    answer
        .saturating_mul(crowd.checked_div(slots).unwrap_or(1000))
        .saturating_mul(seat.ask.max(1).into())
        .saturating_mul(reputation::FULL.into())
        .checked_div(seat.standing.into())
        .unwrap_or(u128::MAX)
}

/// One in so many takes what was drawn first.
const EXPLORE: u64 = 32;

/// Being remembered is worth so many times the cost elsewhere.
const WORTH: u128 = 3;

/// Tokens of an answer, to weigh the first against the others.
const TYPICAL: u64 = 200;
