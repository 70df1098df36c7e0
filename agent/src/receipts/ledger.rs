//! What a handler tells about the answer that it gives.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use attestation::aci::{Hash, Model as Named};
use inference::Witness;

use crate::api::Model;

/// One request's page: a handler finds it among the request's extensions.
#[derive(Clone, Debug, Default)]
pub struct Ledger(Arc<Mutex<Option<Entry>>>);

/// Who answers, and what they did.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) chat_id: Option<String>,
    pub(super) model: Named,
    pub(super) kernels: &'static str,
    pub(super) witness: Witness,
}

impl Ledger {
    /// Opens the page for a model, and gives the witness that its engine is to tell.
    /// `chat_id` is the `id` of the response.
    pub fn open(&self, model: &Model, chat_id: Option<&str>) -> Witness {
        let witness = Witness::default();
        let card = model.engine.card();
        *self.page() = Some(Entry {
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
            witness: witness.clone(),
        });
        witness
    }

    pub(super) fn entry(&self) -> Option<Entry> {
        self.page().clone()
    }

    fn page(&self) -> MutexGuard<'_, Option<Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
