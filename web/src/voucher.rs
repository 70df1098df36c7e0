//! What a payer owes a scheduler through a Channel; the payer signs it.

use std::hash::{BuildHasherDefault, DefaultHasher};

use contracts::reports::epoch;
use contracts::voucher::Voucher as Owed;
use tycho_types::boc::BocRepr;
use tycho_types::boc::ser::BocHeader;
use tycho_types::cell::{CellBuilder, HashBytes, Store};
use tycho_types::error::Error;
use wasm_bindgen::prelude::wasm_bindgen;

use crate::convert::{Json, bytes, from_js, time};
use crate::error::{AttestationError, refuse};

/// What a payer owes so far. It is nothing to anyone until it is signed.
#[wasm_bindgen]
#[derive(Debug)]
pub struct Voucher(Owed);

#[wasm_bindgen]
impl Voucher {
    /// Of a Channel out of which nothing was paid: its address, and the network's number.
    pub fn first(channel: &str, network: i32) -> Result<Self, AttestationError> {
        let channel = channel.parse().map_err(|_| bad(VoucherError::Address))?;
        Ok(Self(Owed::first(network, channel)))
    }

    /// What `bytes` gave.
    pub fn parse(bytes: &[u8]) -> Result<Self, AttestationError> {
        let parsed = BocRepr::decode(bytes).map_err(|_| bad(VoucherError::Cells))?;
        Ok(Self(parsed))
    }

    /// One for at least so many nanotons, at a price. No other one is for less: an amount
    /// below what is owed leaves it.
    pub fn raised(
        &self,
        #[wasm_bindgen(unchecked_param_type = "number")] amount: &Json,
        #[wasm_bindgen(unchecked_param_type = "number")] price: &Json,
        #[wasm_bindgen(unchecked_param_type = "UnixTime")] at: f64,
    ) -> Result<Self, AttestationError> {
        let (amount, price) = (from_js(amount, "amount")?, from_js(price, "price")?);
        let now = u32::try_from(time(at)?.0).map_err(|_| bad(VoucherError::Range))?;
        let raised = self.0.raised(amount, price, epoch(now), HashBytes::ZERO);
        raised.map(Self).ok_or_else(|| bad(VoucherError::Range))
    }

    /// In nanotons.
    #[wasm_bindgen(getter, unchecked_return_type = "number")]
    pub fn amount(&self) -> Result<Json, AttestationError> {
        crate::convert::to_js(&self.0.amount)
    }

    /// The highest price so far, in nanotons for a million tokens.
    #[wasm_bindgen(getter, unchecked_return_type = "number")]
    pub fn cap(&self) -> Result<Json, AttestationError> {
        crate::convert::to_js(&self.0.cap)
    }

    /// To be kept.
    #[wasm_bindgen(getter)]
    pub fn bytes(&self) -> Result<Vec<u8>, AttestationError> {
        bag(&self.0)
    }

    /// What Ed25519 signs.
    #[wasm_bindgen(getter)]
    pub fn hash(&self) -> Result<Vec<u8>, AttestationError> {
        let hash = self.0.hash().map_err(cells)?;
        Ok(hash.to_vec())
    }

    /// With its signature, as a scheduler takes it.
    pub fn signed(&self, signature: &[u8]) -> Result<Vec<u8>, AttestationError> {
        let signed = self.0.signed(bytes(signature, "signature")?);
        bag(&signed.map_err(cells)?)
    }
}

/// As `Boc::encode`, which would ask for randomness; there is none in here.
fn bag(value: &impl Store) -> Result<Vec<u8>, AttestationError> {
    let cell = CellBuilder::build_from(value).map_err(cells)?;
    let mut bytes = Vec::new();
    BocHeader::<BuildHasherDefault<DefaultHasher>>::with_root(cell.as_ref()).encode(&mut bytes);
    Ok(bytes)
}

fn cells(_: Error) -> AttestationError {
    bad(VoucherError::Cells)
}

fn bad(error: VoucherError) -> AttestationError {
    refuse("voucher", &error)
}

/// Why there is no voucher.
#[derive(Clone, Copy, Debug, thiserror::Error)]
enum VoucherError {
    #[error("the channel is no address")]
    Address,
    #[error("no voucher in these cells")]
    Cells,
    #[error("more than a voucher has place for")]
    Range,
}
