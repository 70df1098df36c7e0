//! Places at workers, each kept for a request that has yet to come. Everyone's of one model
//! are counted, so that who keeps many and sends little makes room for others.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use attestation::register::Digest256;

use crate::directory::Pick;
use crate::payer::Payer;

/// All that are kept.
#[derive(Debug, Default)]
pub(crate) struct Held {
    /// The oldest first.
    places: BTreeMap<u64, Place>,
    owned: HashMap<(Digest256, Payer), BTreeSet<u64>>,
    models: HashMap<String, Shares>,
    serials: u64,
}

/// One, and for what.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) pick: Pick,
    pub(crate) model: String,
    pub(crate) payer: Payer,
    /// Tokens that it was waited for with.
    pub(crate) limit: u64,
    /// Nanotons for a million of them, that it was waited less for.
    pub(crate) tip: u64,
    pub(crate) since: Duration,
}

/// Who keeps how many of one model.
#[derive(Debug, Default)]
struct Shares {
    of: HashMap<Payer, BTreeSet<u64>>,
    most: BTreeSet<(usize, Payer)>,
}

impl Held {
    pub(crate) fn keep(&mut self, place: Place) -> u64 {
        self.serials = self.serials.wrapping_add(1);
        let serial = self.serials;
        let owner = (place.pick.worker, place.payer);
        self.owned.entry(owner).or_default().insert(serial);
        let shares = self.models.entry(place.model.clone()).or_default();
        shares.change(place.payer, |places| places.insert(serial));
        self.places.insert(serial, place);
        serial
    }

    /// For a request of so many tokens, that pays such a tip.
    pub(crate) fn take(
        &mut self,
        worker: Digest256,
        model: &str,
        payer: Payer,
        (limit, tip): (u64, u64),
    ) -> Option<Pick> {
        let owned = self.owned.get(&(worker, payer))?.iter();
        let places = owned.filter_map(|serial| Some((serial, self.places.get(serial)?)));
        let fits = |place: &Place| place.limit >= limit && place.tip <= tip;
        let fit = places.filter(|(_, place)| place.model == model && fits(place));
        let (serial, _) = fit.min_by_key(|(_, place)| place.limit)?;
        self.remove(*serial)
    }

    /// The oldest of who has the most, if `payer` has fewer, nothing came for it soon, and it
    /// is `of_use`.
    pub(crate) fn spare(
        &mut self,
        model: &str,
        payer: Payer,
        now: Duration,
        of_use: impl Fn(&Pick) -> bool,
    ) -> Option<Pick> {
        let shares = self.models.get(model)?;
        let own = shares.of.get(&payer).map_or(0, BTreeSet::len);
        let most = shares.most.iter().rev().take(LOOKED_AT);
        let more = most.take_while(|(count, _)| *count > own.saturating_add(1));
        let mut oldest = more.filter_map(|(_, whose)| shares.of.get(whose)?.first());
        let serial = oldest.find(|serial| {
            let place = self.places.get(serial);
            place
                .is_some_and(|place| now.saturating_sub(place.since) >= SOON && of_use(&place.pick))
        })?;
        self.remove(*serial)
    }

    /// One for which nothing has come in time.
    pub(crate) fn expired(&mut self, now: Duration) -> Option<Pick> {
        let (serial, oldest) = self.places.first_key_value()?;
        match now.saturating_sub(oldest.since) >= HOLD {
            true => self.remove(*serial),
            false => None,
        }
    }

    pub(crate) fn remove(&mut self, serial: u64) -> Option<Pick> {
        let Place {
            pick, model, payer, ..
        } = self.places.remove(&serial)?;
        let owner = (pick.worker, payer);
        if let Some(owned) = self.owned.get_mut(&owner) {
            owned.remove(&serial);
            if owned.is_empty() {
                self.owned.remove(&owner);
            }
        }
        if let Some(shares) = self.models.get_mut(&model) {
            shares.change(payer, |places| places.remove(&serial));
            if shares.of.is_empty() {
                self.models.remove(&model);
            }
        }
        Some(pick)
    }
}

impl Shares {
    fn change(&mut self, payer: Payer, apply: impl FnOnce(&mut BTreeSet<u64>) -> bool) {
        let places = self.of.entry(payer).or_default();
        self.most.remove(&(places.len(), payer));
        apply(places);
        match places.len() {
            0 => drop(self.of.remove(&payer)),
            count => drop(self.most.insert((count, payer))),
        }
    }
}

/// A place is kept for so long: one round trip, evidence, and sealing.
pub const HOLD: Duration = Duration::from_secs(10);

/// Where evidence is known already, a request comes within that.
const SOON: Duration = Duration::from_secs(2);

/// So many who have the most.
const LOOKED_AT: usize = 8;
