//! Who asks, and what they are owed.

use std::convert::Infallible;

use attestation::aci::Unit;
use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use inference::{RequestError, Tenant, Witness};

use super::models::Served;
use crate::receipts::{Count, Ledger};

/// What the connection says of a request.
pub(super) struct Asker {
    /// A stranger where it says nothing.
    pub(super) tenant: Tenant,
    /// Where the answer is noted, if it is to have a receipt.
    ledger: Option<Ledger>,
}

impl Asker {
    /// Who has to be told by the engine of `model`. `id` is that of the response.
    pub(super) fn witness(&self, model: &Served, id: Option<&str>) -> Option<Witness> {
        let ledger = self.ledger.as_ref()?;
        Some(ledger.open(model.model(), id))
    }

    /// Whether the answer goes out in sealed chunks.
    pub(super) fn is_sealed(&self) -> bool {
        self.ledger.as_ref().is_some_and(Ledger::is_bounded)
    }

    /// Notes what `model` is about to do where no witness counts tokens; an error if that
    /// is more than is paid for.
    pub(super) fn charge(
        &self,
        model: &Served,
        unit: Unit,
        count: Count,
    ) -> Result<(), RequestError> {
        self.ledger.as_ref().map_or(Ok(()), |ledger| {
            ledger.open_counted(model.model(), unit, count)
        })
    }
}

impl<S: Sync> FromRequestParts<S> for Asker {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(Self {
            tenant: parts.extensions.get().cloned().unwrap_or_default(),
            ledger: parts.extensions.get().cloned(),
        })
    }
}
