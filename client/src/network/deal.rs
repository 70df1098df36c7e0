//! One request's money: reserved before it is sent, settled by what the worker signed.
//!
//! A settlement counts at once if the receipt key of the proved keyset signed it, over the
//! very bytes that went and came, at no more than the agreed price, for tokens that there
//! can have been. Else whoever lied is named, and the request is in doubt, as is one that
//! broke off: a scheduler sees no tokens, and may have paid by what the worker signed. Then
//! it shows that, and is paid up to what was agreed upon.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use attestation::register::Digest256;
use contracts::receipt::Receipt;
use contracts::voucher::Signed;
use scheduler::fee::Fee;
use sealed::{Envelope, Settlement};
use tokio::runtime::Handle;
use tokio::task::spawn_blocking;

use super::agreed::{Agreed, SettlementError};
use super::purse::{self, Counted, Purse, PurseError};

/// What was agreed upon for one request.
#[derive(Debug)]
pub(super) struct Deal {
    purse: Option<Arc<Purse>>,
    pub(super) envelope: Envelope,
    agreed: Agreed,
    most: Most,
    due: Due,
    is_open: AtomicBool,
    is_gone: Arc<AtomicBool>,
}

/// The most tokens that there can be: a token of a text has at least one byte.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Most {
    pub(super) prompt: u64,
    pub(super) answer: u64,
}

impl Most {
    pub(super) const fn limit(self) -> u64 {
        self.prompt.saturating_add(self.answer)
    }
}

/// What a scheduler may add to what a worker asks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Due {
    pub(super) fee: Fee,
    /// Nanotons for a million tokens.
    pub(super) tip: u64,
}

impl Due {
    /// The worker's receipt shows what it asks; the rest of the price is the scheduler's.
    fn skimmed(self, price: u64, receipt: &Receipt) -> Option<Skimmed> {
        let due = self.fee.price(receipt.price).saturating_add(self.tip);
        (price > due).then_some(Skimmed { price, due })
    }
}

/// What an answer took.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Paid {
    pub(super) tokens: u64,
    /// Nanotons.
    pub(super) cost: u64,
    /// That was agreed upon, and is more than it should have been.
    pub(super) skimmed: Option<Skimmed>,
}

/// A scheduler named a price above what it says of itself. Nanotons for a million tokens.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error(
    "the scheduler's price was {price}, and what the worker asks, its fee and the tip are {due}"
)]
pub(super) struct Skimmed {
    price: u64,
    due: u64,
}

impl Deal {
    pub(super) fn new(
        purse: Option<Arc<Purse>>,
        envelope: Envelope,
        receipt_key: [u8; 32],
        request: Digest256,
        most: Most,
        due: Due,
    ) -> Self {
        let taken_up = envelope.deadline_ms.div_ceil(1000).saturating_add(SURELY);
        let agreed = Agreed {
            limit: envelope.limit,
            price: envelope.price,
            request,
            receipt_key: Digest256::from_bytes(receipt_key),
            // Without a clock nothing is reserved.
            until: purse::now().unwrap_or_default().saturating_add(taken_up),
        };
        Self {
            purse,
            envelope,
            agreed,
            most,
            due,
            is_open: AtomicBool::new(false),
            is_gone: Arc::default(),
        }
    }

    /// Reserves what it may cost, and gives the voucher that covers it.
    pub(super) async fn reserve(&self) -> Result<Option<Signed>, PurseError> {
        let agreed = self.agreed;
        let is_gone = Arc::clone(&self.is_gone);
        self.is_open.store(true, Ordering::Relaxed);
        let reserved = self.paying(move |purse, id| {
            let signed = purse.reserve(id, agreed)?;
            // Whoever gave up meanwhile may have found nothing to doubt.
            if is_gone.load(Ordering::Relaxed) {
                purse.doubt(id)?;
            }
            Ok(signed)
        });
        let reserved = reserved.await;
        self.is_open.store(reserved.is_ok(), Ordering::Relaxed);
        reserved.map(Option::flatten)
    }

    /// Nothing was done for it.
    pub(super) async fn release(&self) {
        self.end(Purse::release).await;
    }

    /// Somebody may know what was done for it.
    pub(super) async fn doubt(&self) {
        self.end(Purse::doubt).await;
    }

    /// The scheduler counts otherwise than we do. Whether it is worth asking again.
    pub(super) async fn refused(&self, sent: Option<Signed>, counted: Counted) -> bool {
        let again = self.paying(move |purse, _| purse.refused(sent.as_ref(), counted));
        matches!(again.await, Ok(Some(true)))
    }

    /// Checks what followed the last chunk, and counts it. `response` is the hash of
    /// what came, `said` what the answer says of its tokens.
    pub(super) async fn settle(
        &self,
        settlement: &[u8],
        response: Digest256,
        said: Option<u64>,
    ) -> Result<Paid, SettlementError> {
        match self.check(settlement, response, said) {
            Ok((receipt, tokens)) => {
                self.is_open.store(false, Ordering::Relaxed);
                let skimmed = self.due.skimmed(self.agreed.price, &receipt);
                let skimmed = skimmed.filter(|_| self.purse.is_some());
                let paid = self.paying(move |purse, id| purse.settle(id, &receipt));
                let cost = paid.await?.unwrap_or_default();
                Ok(Paid {
                    tokens,
                    cost,
                    skimmed,
                })
            }
            Err(error) => {
                self.doubt().await;
                Err(error)
            }
        }
    }

    async fn end(&self, how: fn(&Purse, &str) -> Result<(), PurseError>) {
        self.is_open.store(false, Ordering::Relaxed);
        if let Err(error) = self.paying(how).await {
            tracing::warn!(worker = %self.envelope.worker, "what was reserved stays so: {error}");
        }
    }

    fn check(
        &self,
        settlement: &[u8],
        response: Digest256,
        said: Option<u64>,
    ) -> Result<(Receipt, u64), SettlementError> {
        let settlement = Settlement::parse(settlement).map_err(SettlementError::Absent)?;
        let receipt = self.agreed.receipt(&settlement)?;
        if receipt.response.0 != *response.as_bytes() {
            return Err(SettlementError::Response);
        }
        let work = receipt.work.load().map_err(|_| SettlementError::Receipt)?;
        let tokens = work.tokens();
        if tokens != settlement.tokens || said.is_some_and(|said| said != tokens) {
            return Err(SettlementError::Counts {
                signed: tokens,
                said: said.unwrap_or(settlement.tokens),
            });
        }
        for (what, found, most) in [
            ("prompt", work.prompt_tokens, self.most.prompt),
            ("answer", work.completion_tokens, self.most.answer),
        ] {
            let found = u64::from(found);
            if found > most {
                return Err(SettlementError::Tokens { what, found, most });
            }
        }
        Ok((receipt, tokens))
    }

    /// Asks the purse, which waits for the disk; None where nothing is paid.
    async fn paying<T: Send + 'static>(
        &self,
        ask: impl FnOnce(&Purse, &str) -> Result<T, PurseError> + Send + 'static,
    ) -> Result<Option<T>, PurseError> {
        let Some(purse) = self.purse.clone() else {
            return Ok(None);
        };
        let id = hex::encode(self.envelope.id);
        let asked = spawn_blocking(move || ask(&purse, &id)).await;
        asked.map_err(|_| PurseError::Unknown)?.map(Some)
    }
}

impl Drop for Deal {
    fn drop(&mut self) {
        self.is_gone.store(true, Ordering::Relaxed);
        let purse = self.purse.take().filter(|_| *self.is_open.get_mut());
        if let (Some(purse), Ok(runtime)) = (purse, Handle::try_current()) {
            let id = hex::encode(self.envelope.id);
            runtime.spawn_blocking(move || match purse.doubt(&id) {
                Ok(()) => {}
                Err(error) => tracing::warn!("what was reserved stays so: {error}"),
            });
        }
    }
}

/// Seconds beyond a deadline in which a request may still be on its way, and whoever is asked
/// about it at work.
const SURELY: u32 = 300;
