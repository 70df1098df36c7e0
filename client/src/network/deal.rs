//! One request's money: reserved before it is sent, settled by what the worker signed.
//!
//! A settlement counts if the receipt key of the proved keyset signed it, over the very
//! bytes that went and came, at no more than the agreed price, for tokens that there
//! can have been. Else nothing is owed for the request, and whoever lied is named. One
//! that ends in neither way is in doubt: somebody may know what was done for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use attestation::cbor::CborError;
use attestation::register::Digest256;
use contracts::receipt::{Receipt, ReceiptError};
use contracts::voucher::Signed;
use sealed::{Envelope, Settlement};
use tokio::runtime::Handle;
use tokio::task::spawn_blocking;
use tycho_types::boc::Boc;
use tycho_types::cell::HashBytes;

use super::purse::{Counted, Purse, PurseError};

/// What was agreed upon for one request.
#[derive(Debug)]
pub(super) struct Deal {
    purse: Option<Arc<Purse>>,
    pub(super) envelope: Envelope,
    receipt_key: [u8; 32],
    /// Of the sealed request.
    request: Digest256,
    most: Most,
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

/// What an answer took.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Paid {
    pub(super) tokens: u64,
    /// Nanotons.
    pub(super) cost: u64,
}

impl Deal {
    pub(super) fn new(
        purse: Option<Arc<Purse>>,
        envelope: Envelope,
        receipt_key: [u8; 32],
        request: Digest256,
        most: Most,
    ) -> Self {
        Self {
            purse,
            envelope,
            receipt_key,
            request,
            most,
            is_open: AtomicBool::new(false),
            is_gone: Arc::default(),
        }
    }

    /// Reserves what it may cost, and gives the voucher that covers it.
    pub(super) async fn reserve(&self) -> Result<Option<Signed>, PurseError> {
        let (limit, price) = (self.envelope.limit, self.envelope.price);
        let is_gone = Arc::clone(&self.is_gone);
        self.is_open.store(true, Ordering::Relaxed);
        let reserved = self.paying(move |purse, id| {
            let signed = purse.reserve(id, limit, price)?;
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
        self.is_open.store(false, Ordering::Relaxed);
        if let Err(error) = self.paying(Purse::release).await {
            tracing::warn!(worker = %self.envelope.worker, "what was reserved stays so: {error}");
        }
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
                let paid = self.paying(move |purse, id| purse.settle(id, &receipt));
                let cost = paid.await?.unwrap_or_default();
                Ok(Paid { tokens, cost })
            }
            Err(error) => {
                self.release().await;
                Err(error)
            }
        }
    }

    fn check(
        &self,
        settlement: &[u8],
        response: Digest256,
        said: Option<u64>,
    ) -> Result<(Receipt, u64), SettlementError> {
        let settlement = Settlement::parse(settlement).map_err(SettlementError::Absent)?;
        let receipt = Boc::decode(&settlement.receipt).map_err(|_| SettlementError::Receipt)?;
        let receipt: Receipt = receipt.parse().map_err(|_| SettlementError::Receipt)?;
        receipt.verify(&HashBytes(self.receipt_key), &settlement.signature)?;
        if receipt.request.0 != *self.request.as_bytes() {
            return Err(SettlementError::Request);
        }
        if receipt.response.0 != *response.as_bytes() {
            return Err(SettlementError::Response);
        }
        if receipt.price > self.envelope.price {
            return Err(SettlementError::Price {
                found: receipt.price,
                agreed: self.envelope.price,
            });
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
                Ok(()) | Err(PurseError::Unknown) => {}
                Err(error) => tracing::warn!("what was reserved stays so: {error}"),
            });
        }
    }
}

/// Why nothing is owed for an answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum SettlementError {
    #[error("the answer ends without a settlement")]
    Absent(#[source] CborError),
    #[error("the worker signed for {signed} tokens, and the answer says {said}")]
    Counts { signed: u64, said: u64 },
    #[error("the receipt asks {found} for a million tokens, and {agreed} were agreed upon")]
    Price { found: u64, agreed: u64 },
    #[error("the settlement was not counted")]
    Purse(#[from] PurseError),
    #[error("the settlement has no receipt that can be read")]
    Receipt,
    #[error("the receipt is of another request")]
    Request,
    #[error("the receipt is of another answer")]
    Response,
    #[error("the worker's proved key did not sign the receipt")]
    Signature(#[from] ReceiptError),
    #[error("the receipt counts {found} tokens of {what}, and there can be {most}")]
    Tokens {
        what: &'static str,
        found: u64,
        most: u64,
    },
}
