//! Which requests have been here since the boot: none is opened twice.
//!
//! A Bloom filter: it forgets nothing, in the same memory however many there are. What it
//! takes for a repetition by mistake is sealed anew by its client, with another id. Of
//! ten million requests two in a thousand are; the key that they are sealed to ends with
//! the boot. Places are chosen with a secret, so that nobody can fill those of others.

use std::sync::{Mutex, PoisonError};

use sha2::{Digest as _, Sha256};

/// What has been here.
pub(super) struct Seen {
    secret: [u8; 32],
    bits: Mutex<Vec<u64>>,
}

impl Seen {
    pub(super) fn new(secret: [u8; 32]) -> Self {
        Self {
            secret,
            bits: Mutex::new(vec![0; WORDS]),
        }
    }

    /// Whether it is here for the first time; from now on it is not.
    pub(super) fn first(&self, request: &[u8]) -> bool {
        let hash = Sha256::new()
            .chain_update(self.secret)
            .chain_update(request);
        let hash = hash.finalize();
        let mut bits = self.bits.lock().unwrap_or_else(PoisonError::into_inner);
        let mut first = false;
        for place in hash.as_chunks::<4>().0 {
            let place = usize::try_from(u32::from_be_bytes(*place)).unwrap_or_default();
            let bit = 1_u64 << (place % 64);
            if let Some(word) = bits.get_mut(place / 64 % WORDS) {
                first |= *word & bit == 0;
                *word |= bit;
            }
        }
        first
    }
}

impl std::fmt::Debug for Seen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Seen").finish_non_exhaustive()
    }
}

/// 2^27 bits, 16 MiB; they take up memory as they are set.
const WORDS: usize = 1 << 21;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_time_is_not_the_first() {
        let seen = Seen::new([7; 32]);
        let requests: Vec<_> = (0..10_000_u32).map(u32::to_be_bytes).collect();
        assert!(requests.iter().all(|request| seen.first(request)));
        assert!(requests.iter().all(|request| !seen.first(request)));
        assert!(Seen::new([8; 32]).first(&requests[0]));
    }
}
