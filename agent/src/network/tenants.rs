//! Clients of the network, by secrets of theirs: nothing else says that two requests are
//! of the same one, least of all the connection that both come on.
//!
//! Who shows a secret shares what the engine has read for earlier requests with it, and
//! finds their receipts. The one that was not seen for longest makes room.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use attestation::register::Digest256;
use inference::Tenant;

use crate::receipts::Shelf;

#[derive(Debug, Default)]
pub(super) struct Tenants(Mutex<VecDeque<(Digest256, Known)>>);

/// What is kept of a client.
#[derive(Clone, Debug)]
pub(super) struct Known {
    pub(super) tenant: Tenant,
    pub(super) shelf: Arc<Shelf>,
}

impl Tenants {
    /// Whose secret it is. Only its hash is kept.
    pub(super) fn of(&self, secret: &[u8; 32]) -> Known {
        let name = Digest256::of(secret);
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let place = all.iter().position(|(other, _)| *other == name);
        let found = place.and_then(|place| all.remove(place));
        let (_, known) = found.unwrap_or_else(|| {
            let known = Known {
                tenant: Tenant::new(),
                shelf: Arc::default(),
            };
            (name, known)
        });
        all.push_back((name, known.clone()));
        if all.len() > MAX {
            all.pop_front();
        }
        known
    }
}

/// With at most a megabyte of receipts each.
const MAX: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_finds_what_is_kept_until_others_need_the_place() {
        let tenants = Tenants::default();
        let mine = tenants.of(&[1; 32]);
        assert!(Arc::ptr_eq(&tenants.of(&[1; 32]).shelf, &mine.shelf));
        assert_eq!(tenants.of(&[1; 32]).tenant, mine.tenant);
        assert_ne!(tenants.of(&[2; 32]).tenant, mine.tenant);
        let other = |number: usize| {
            let mut secret = [9; 32];
            secret[..8].copy_from_slice(&number.to_be_bytes());
            secret
        };
        for number in 0..MAX - 2 {
            tenants.of(&other(number));
        }
        assert_eq!(tenants.of(&[1; 32]).tenant, mine.tenant);
        for number in MAX..2 * MAX {
            tenants.of(&other(number));
        }
        assert_ne!(tenants.of(&[1; 32]).tenant, mine.tenant);
    }
}
