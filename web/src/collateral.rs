//! Collateral: as files that nobody believes yet, and prepared.

use std::num::NonZeroUsize;

use attestation::tdx::{self, CollateralFiles, PlatformCache, Quote, verify_cached};
use js_sys::Reflect;
use wasm_bindgen::JsValue;
use wasm_bindgen::prelude::wasm_bindgen;

use crate::convert::{Json, NotBytes, content, time, to_js};
use crate::error::{AttestationError, refuse};
use crate::verified::Verified;

/// What Intel says about platforms: checked once, then used for many quotes.
///
/// It remembers the platforms it met last, so that another quote of one costs a
/// single signature.
#[wasm_bindgen]
#[derive(Debug)]
pub struct Collateral {
    collateral: tdx::Collateral,
    platforms: PlatformCache,
}

#[wasm_bindgen]
impl Collateral {
    /// Checks signatures, chains, revocation and windows, under Intel's root.
    ///
    /// `quote` is one of those to come: it lends the chain of its CA where the files
    /// do not have it.
    pub fn verify(
        #[wasm_bindgen(unchecked_param_type = "CollateralFiles")] files: &JsValue,
        quote: &[u8],
        #[wasm_bindgen(unchecked_param_type = "UnixTime")] at: f64,
    ) -> Result<Self, AttestationError> {
        let files = read(files)?;
        let quote = parse(quote)?;
        let collateral = tdx::Collateral::verify(files.parts(&quote), time(at)?)
            .map_err(|error| refuse(&error.code(), &error))?;
        Ok(Self {
            collateral,
            platforms: PlatformCache::new(PLATFORMS),
        })
    }

    /// When all of it holds. Outside, every quote is refused.
    #[wasm_bindgen(getter, unchecked_return_type = "Validity")]
    pub fn validity(&self) -> Result<Json, AttestationError> {
        to_js(&self.collateral.validity())
    }

    /// Number of the TCB recovery that it was made after.
    #[wasm_bindgen(getter, js_name = evaluationNumber)]
    #[must_use]
    pub fn evaluation_number(&self) -> u32 {
        self.collateral.evaluation_number()
    }

    /// Checks every signature under a quote, and finds the status of its platform.
    #[wasm_bindgen(js_name = verifyQuote)]
    pub fn verify_quote(
        &mut self,
        quote: &[u8],
        #[wasm_bindgen(unchecked_param_type = "UnixTime")] at: f64,
    ) -> Result<Verified, AttestationError> {
        let quote = parse(quote)?;
        verify_cached(quote, &self.collateral, time(at)?, &mut self.platforms)
            .map(Verified)
            .map_err(|error| refuse(&error.code(), &error))
    }
}

/// Platforms that are remembered, of about 500 bytes each.
const PLATFORMS: NonZeroUsize = NonZeroUsize::new(64).unwrap();

/// Reads an object whose properties are files, each a string or bytes.
pub(crate) fn read(files: &JsValue) -> Result<CollateralFiles, AttestationError> {
    CollateralFiles::read(|name| match Reflect::get(files, &name.into()) {
        Ok(file) if file.is_undefined() => Ok(None),
        Ok(file) => content(&file).map(Some),
        Err(_) => Err(NotBytes),
    })
    .map_err(|error| refuse("collateral-files", &error))
}

fn parse(quote: &[u8]) -> Result<Quote<'_>, AttestationError> {
    Quote::parse(quote).map_err(|error| refuse(error.code(), &error))
}
