//! Platforms that were checked before.
//!
//! What a quote says of its platform stays the same from one quote to the next:
//! PCK chain, QE report and attestation key. Its signatures, once they verified
//! under the same issuers, need no second look; windows, revocation and TCB do,
//! and get it, each time.

use alloc::collections::{BTreeMap, VecDeque};
use core::num::NonZeroUsize;

use crate::register::Digest256;

use super::collateral::Collateral;
use super::quote::Quote;
use super::verify::{Endorsed, VerifyError};

/// The platforms met most recently, up to a number.
///
/// Only platforms that verified get in, so a peer cannot fill it with noise.
#[derive(Debug)]
pub struct PlatformCache {
    capacity: NonZeroUsize,
    /// By digest of the exact bytes that were checked, and of their issuers.
    platforms: BTreeMap<Digest256, Endorsed>,
    /// Oldest first.
    order: VecDeque<Digest256>,
}

impl PlatformCache {
    /// Room for so many platforms, of about 500 bytes each.
    #[must_use]
    pub const fn new(capacity: NonZeroUsize) -> Self {
        Self {
            capacity,
            platforms: BTreeMap::new(),
            order: VecDeque::new(),
        }
    }

    /// How many platforms are remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.platforms.len()
    }

    /// Whether no platform is remembered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.platforms.is_empty()
    }

    pub(super) fn endorse(
        &mut self,
        quote: &Quote<'_>,
        collateral: &Collateral,
    ) -> Result<Endorsed, VerifyError> {
        let key = Digest256::of(quote.platform).extend(collateral.pck_issuers);
        if let Some(endorsed) = self.platforms.get(&key) {
            return Ok(*endorsed);
        }
        let endorsed = Endorsed::check(quote, collateral)?;
        if self.order.len() >= self.capacity.get()
            && let Some(oldest) = self.order.pop_front()
        {
            self.platforms.remove(&oldest);
        }
        self.platforms.insert(key, endorsed);
        self.order.push_back(key);
        Ok(endorsed)
    }
}
