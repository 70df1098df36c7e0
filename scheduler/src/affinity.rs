//! The same conversation goes where its beginning is remembered: consistent hashing with
//! bounded loads. Of the places that are allowed, it is the next one on a circle; one that
//! has more than its share already is passed over.
//!
//! A client's value is a keyed hash of what the conversation began with, so it says nothing
//! of it. Where a place is on the circle depends on a seed of the operator's, or workers
//! would choose keys for it.
//!
//! Source: Mirrokni, Thorup and Zadimoghaddam, "Consistent Hashing with Bounded Loads".

use std::collections::{BTreeMap, BTreeSet};

use attestation::register::Digest256;
use sha2::{Digest as _, Sha256};

use crate::dice::{Dice, mix};
use crate::reputation;
use crate::seat::Seat;

/// All places of one model, a circle for each power of two of what they ask: a limit cuts
/// through one of them.
#[derive(Debug, Default)]
pub(crate) struct Ring {
    circles: BTreeMap<u32, BTreeSet<(u64, usize)>>,
}

impl Ring {
    pub(crate) fn insert(&mut self, id: usize, seat: &Seat) {
        let circle = self.circles.entry(octave(seat.ask)).or_default();
        circle.extend(points(seat.point).map(|point| (point, id)));
    }

    pub(crate) fn remove(&mut self, id: usize, point: u64, ask: u64) {
        let octave = octave(ask);
        if let Some(circle) = self.circles.get_mut(&octave) {
            for point in points(point) {
                circle.remove(&(point, id));
            }
            if circle.is_empty() {
                self.circles.remove(&octave);
            }
        }
    }

    /// The next one that fits, of those that may ask for at most `max`.
    pub(crate) fn next(
        &self,
        affinity: &Digest256,
        max: u64,
        fits: impl Fn(usize) -> bool,
    ) -> Option<usize> {
        let from = first(affinity.as_bytes());
        let circles = self.circles.range(..=octave(max));
        let next = circles.filter_map(|(_, circle)| {
            let ahead = circle.range((from, 0)..).chain(circle.iter());
            let mut near = ahead.take(STEPS);
            near.find(|(_, id)| fits(*id))
        });
        let next = next.min_by_key(|(point, id)| (point.wrapping_sub(from), *id));
        next.map(|(_, id)| *id)
    }
}

/// Where a place is on the circle.
pub(crate) fn point(seed: &[u8; 32], worker: &Digest256, model: &str) -> u64 {
    let hash = Sha256::new()
        .chain_update(seed)
        .chain_update(worker.as_bytes())
        .chain_update(model);
    first(&hash.finalize().into())
}

/// How much a place may have and still be given more for affinity's sake: half of what it
/// could, or a quarter more than the average, whichever is more.
pub(crate) fn bound(slots: u32, load: u64, all_slots: u64) -> u32 {
    let share = u128::from(load)
        .saturating_add(1)
        .saturating_mul(slots.into())
        .saturating_mul(5)
        .div_ceil(u128::from(all_slots).saturating_mul(4).max(1));
    u32::try_from(share)
        .unwrap_or(u32::MAX)
        .max(slots.div_ceil(2))
}

/// A number below [`FULL`](reputation::FULL), the same for a conversation and a place: a
/// place takes part in as many conversations as it has standing.
pub(crate) fn chance(affinity: &Digest256, point: u64) -> u16 {
    let mut dice = Dice(first(affinity.as_bytes()) ^ point);
    let chance = dice.below(reputation::FULL.into());
    chance.try_into().unwrap_or_default()
}

/// Which power of two.
const fn octave(ask: u64) -> u32 {
    u64::BITS.saturating_sub(ask.leading_zeros())
}

fn first(hash: &[u8; 32]) -> u64 {
    hash.first_chunk().copied().map_or(0, u64::from_be_bytes)
}

/// More than one, so that arcs are of similar length.
fn points(point: u64) -> impl Iterator<Item = u64> {
    (0..POINTS).map(move |number| mix(point.wrapping_add(number)))
}

const POINTS: u64 = 4;

/// How far it is looked on a circle.
const STEPS: usize = 16;
