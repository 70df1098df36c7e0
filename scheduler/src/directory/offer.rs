//! Which offers are taken: of the worker that makes them, and no larger than they may be.

use attestation::register::Digest256;
use sealed::{Offer, OfferedModel};

pub(super) fn check(id: &Digest256, offer: &Offer) -> Result<(), OfferError> {
    if offer.worker != *id {
        let found = offer.worker;
        return Err(OfferError::Worker {
            found,
            expected: *id,
        });
    }
    if offer.models.len() > MOST_MODELS {
        let found = offer.models.len();
        return Err(OfferError::Models { found });
    }
    let mut names: Vec<&str> = offer
        .models
        .iter()
        .map(|OfferedModel { name, .. }| &**name)
        .collect();
    names.sort_unstable();
    if let Some(name) = names
        .iter()
        .find(|name| name.is_empty() || name.len() > LONGEST_NAME)
    {
        let found = name.len();
        return Err(OfferError::Name { found });
    }
    for pair in names.windows(2) {
        if let [one, other] = pair
            && one == other
        {
            return Err(OfferError::Twice {
                name: (*one).into(),
            });
        }
    }
    Ok(())
}

/// Models of one worker.
const MOST_MODELS: usize = 64;

/// Bytes.
const LONGEST_NAME: usize = 256;

/// Why an offer is not taken.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum OfferError {
    /// Too many.
    #[error("an offer of {found} models, at most {MOST_MODELS} are taken")]
    Models {
        /// As offered.
        found: usize,
    },
    /// None, or too long.
    #[error("a model's name of {found} bytes, expected 1 to {LONGEST_NAME}")]
    Name {
        /// Its length.
        found: usize,
    },
    /// The same one.
    #[error("an offer has the model {name} twice")]
    Twice {
        /// Its name.
        name: String,
    },
    /// Another's.
    #[error("an offer of worker {found}, expected {expected}")]
    Worker {
        /// As offered.
        found: Digest256,
        /// Whose connection it is.
        expected: Digest256,
    },
}
