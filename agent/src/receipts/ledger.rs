//! What a handler tells about the answer that it gives, and what is paid for it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use attestation::aci::{Hash, Model as Named, Unit};
use inference::{Bounds, RequestError, Witness};

use crate::api::Model;

/// One request's page: a handler finds it among the request's extensions.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    bounds: Option<Bounds>,
    price: Option<u64>,
    page: Arc<Mutex<Page>>,
}

#[derive(Debug, Default)]
struct Page {
    entry: Option<Entry>,
    count: Count,
}

/// Who answers, and what they did.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) chat_id: Option<String>,
    pub(super) model: Named,
    pub(super) kernels: &'static str,
    pub(super) deterministic: bool,
    pub(super) price: Option<u64>,
    pub(super) witness: Witness,
    /// What is counted, where the witness counts no tokens.
    pub(super) unit: Option<Unit>,
}

/// Tokens of answers that came to their end, or what an endpoint counts in their place.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Count {
    /// Those of prompts.
    pub read: u64,
    /// Those of answers.
    pub made: u64,
}

impl Count {
    /// All of them.
    #[must_use]
    pub const fn total(self) -> u64 {
        self.read.saturating_add(self.made)
    }
}

impl Ledger {
    /// For an answer that is paid for as far as this; `price` is that of a million
    /// tokens, in nanotons, where vouchers pay it.
    #[must_use]
    pub fn within(bounds: Bounds, price: Option<u64>) -> Self {
        Self {
            bounds: Some(bounds),
            price,
            ..Self::default()
        }
    }

    /// Whether it is of a request of the network, of which all is paid for that is done.
    #[must_use]
    pub fn is_bounded(&self) -> bool {
        self.bounds.is_some()
    }

    /// Opens the page for a model, and gives the witness that its engine is to tell.
    /// `chat_id` is the `id` of the response.
    pub fn open(&self, model: &Model, chat_id: Option<&str>) -> Witness {
        let witness = self.bounds.map_or_else(Witness::default, Witness::within);
        let card = model.engine.card();
        self.page().entry = Some(Entry {
            chat_id: chat_id.map(str::to_owned),
            model: Named {
                name: model.name.clone(),
                root: model
                    .root
                    .as_ref()
                    .map(|root| format!("verity-sha256:{root}")),
                manifest: card.manifest.map(Hash::from),
                tokenizer: card.tokenizer.map(Hash::from),
                chat_template: card.template.map(Hash::from),
                quant: card.format.as_ref().map(|format| format.to_lowercase()),
            },
            kernels: card.kernels,
            deterministic: model.engine.limits().exact || cfg!(not(feature = "cuda")),
            price: self.price,
            witness: witness.clone(),
            unit: None,
        });
        witness
    }

    /// Opens the page for a model whose engine tells nobody, and counts what it is about to
    /// do in its stead, unless that is more than is paid for.
    pub fn open_counted(
        &self,
        model: &Model,
        unit: Unit,
        count: Count,
    ) -> Result<(), RequestError> {
        drop(self.open(model, None));
        if let Some(entry) = &mut self.page().entry {
            entry.unit = Some(unit);
        }
        self.charge(count)
    }

    /// Counts what is about to be done, unless it is more than is paid for.
    pub fn charge(&self, count: Count) -> Result<(), RequestError> {
        let mut page = self.page();
        let total = page.count.total();
        let left = self.bounds.map(|bounds| wide(bounds.tokens));
        let left = left.map_or(u64::MAX, |tokens| tokens.saturating_sub(total));
        if count.total() > left {
            let narrow = |tokens| usize::try_from(tokens).unwrap_or(usize::MAX);
            return Err(RequestError::Limit {
                found: narrow(count.total()),
                left: narrow(left),
            });
        }
        page.count.read = page.count.read.saturating_add(count.read);
        page.count.made = page.count.made.saturating_add(count.made);
        Ok(())
    }

    /// What was counted so far.
    #[must_use]
    pub fn count(&self) -> Count {
        self.page().count
    }

    /// Tokens that the engine worked on, though the answer may have no end.
    #[must_use]
    pub fn worked(&self) -> u64 {
        let page = self.page();
        let entry = page.entry.as_ref();
        let worked = entry.map_or(0, |entry| wide(entry.witness.worked()));
        worked.max(page.count.total())
    }

    pub(super) fn entry(&self) -> Option<Entry> {
        self.page().entry.clone()
    }

    fn page(&self) -> MutexGuard<'_, Page> {
        self.page.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn wide(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    #[test]
    fn no_more_is_counted_than_is_paid_for() {
        let until = Instant::now();
        let ledger = Ledger::within(Bounds { tokens: 10, until }, None);
        let count = |read, made| Count { read, made };
        ledger.charge(count(6, 0)).unwrap();
        let refused = ledger.charge(count(0, 5));
        assert_eq!(refused, Err(RequestError::Limit { found: 5, left: 4 }));
        ledger.charge(count(0, 4)).unwrap();
        assert_eq!(ledger.count(), count(6, 4));
        assert_eq!(Ledger::default().charge(count(u64::MAX, 1)), Ok(()));
    }
}
