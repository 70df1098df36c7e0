//! What a purse must not forget, and how it changes: all arithmetic, no file and no key.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use contracts::receipt::Receipt;
use contracts::voucher::{Signed, cost};
use serde::{Deserialize, Serialize};
use tycho_types::boc::Boc;
use tycho_types::cell::{CellBuilder, HashBytes};

use super::{Counted, PurseError};
use crate::network::agreed::Agreed;
use crate::network::leaves::Leaves;

/// `voucher >= spent + held + reserved`, in nanotons. An error leaves it as it was.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct State {
    voucher: Option<Kept>,
    pub(super) spent: u64,
    pub(super) tokens: u64,
    /// What of the doubts the scheduler counts, and a voucher has to cover.
    held: u64,
    /// Under way, by their identifiers.
    reserved: BTreeMap<String, Agreed>,
    /// Nobody has told how these ended.
    doubts: BTreeMap<String, Agreed>,
    receipts: Leaves,
}

impl State {
    pub(super) fn reserve(&mut self, request: &str, agreed: Agreed, voucher: Option<Signed>) {
        self.reserved.insert(request.into(), agreed);
        self.voucher = voucher.map(Kept);
    }

    /// By a receipt, whether or not it was in doubt.
    pub(super) fn settle(&mut self, request: &str, receipt: &Receipt) -> Result<u64, PurseError> {
        let tokens = receipt.work.load()?.tokens();
        let leaf = receipt.hash()?;
        let doubt = self.doubts.get(request);
        let agreed = self.reserved.get(request).or(doubt);
        let agreed = *agreed.ok_or(PurseError::Unknown)?;
        if tokens > agreed.limit {
            return Err(PurseError::More {
                tokens,
                limit: agreed.limit,
            });
        }
        let paid = cost(tokens, agreed.price).ok_or(PurseError::Range)?;
        self.spent = self.spent.checked_add(paid).ok_or(PurseError::Range)?;
        self.tokens = self.tokens.saturating_add(tokens);
        self.receipts.push(&leaf);
        if self.reserved.remove(request).is_none() {
            self.held = self.held.saturating_sub(paid);
        }
        self.release(request);
        Ok(paid)
    }

    /// It costs nothing, whether or not it was in doubt.
    pub(super) fn release(&mut self, request: &str) {
        self.reserved.remove(request);
        self.doubts.remove(request);
        self.held = self.held.min(self.doubtful());
    }

    pub(super) fn doubt(&mut self, request: &str) {
        if let Some(agreed) = self.reserved.remove(request)
            // Nothing is owed for it whatever became of it.
            && agreed.cost() != Some(0)
        {
            self.doubts.insert(request.into(), agreed);
        }
    }

    pub(super) fn doubt_all(&mut self) {
        let all: Vec<_> = self.reserved.keys().cloned().collect();
        all.iter().for_each(|request| self.doubt(request));
    }

    /// The scheduler counts more or less than we do: it is believed as far as there is doubt.
    pub(super) fn hold(&mut self, counted: Counted) -> Result<(), PurseError> {
        let ours = self.taken()?.saturating_sub(self.held);
        self.held = counted.total().saturating_sub(ours).min(self.doubtful());
        Ok(())
    }

    /// The same of one that refused a request: it may have refused all that is under way, so
    /// that whatever it counts is in doubt, and no less is held than was.
    pub(super) fn hold_most(&mut self, counted: Counted) {
        let most = counted.total().saturating_sub(self.spent);
        self.held = most.min(self.doubtful()).max(self.held);
    }

    /// What a voucher has to cover.
    pub(super) fn taken(&self) -> Result<u64, PurseError> {
        let held = self.spent.checked_add(self.held);
        self.reserved
            .values()
            .try_fold(held, |taken, agreed| {
                Some(taken?.checked_add(agreed.cost()?))
            })
            .flatten()
            .ok_or(PurseError::Range)
    }

    pub(super) const fn held(&self) -> u64 {
        self.held
    }

    pub(super) fn doubts(&self) -> &BTreeMap<String, Agreed> {
        &self.doubts
    }

    pub(super) fn voucher(&self) -> Option<&Signed> {
        self.voucher.as_ref().map(|Kept(signed)| signed)
    }

    pub(super) fn head(&self) -> HashBytes {
        HashBytes(self.receipts.head())
    }

    fn doubtful(&self) -> u64 {
        let costs = self.doubts.values().filter_map(Agreed::cost);
        costs.fold(0, u64::saturating_add)
    }
}

/// A voucher as base64 of its bag of cells.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(into = "String", try_from = "String")]
struct Kept(Signed);

impl From<Kept> for String {
    fn from(Kept(signed): Kept) -> Self {
        let cell = CellBuilder::build_from(&signed).unwrap_or_default();
        BASE64_STANDARD.encode(Boc::encode(cell))
    }
}

impl TryFrom<String> for Kept {
    type Error = anyhow::Error;

    fn try_from(text: String) -> anyhow::Result<Self> {
        let cell = Boc::decode(BASE64_STANDARD.decode(text)?)?;
        Ok(Self(cell.parse()?))
    }
}
