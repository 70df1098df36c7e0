//! Evidence in files, judged as `cocoon verify` does: for people, not for programs that
//! are about to trust somebody.

use attestation::tdx::{QuotePolicy, Report};
use wasm_bindgen::prelude::wasm_bindgen;

use crate::collateral::read;
use crate::convert::{Json, from_js, time, to_js};
use crate::error::AttestationError;

/// Judges a quote under Intel's root, as `cocoon verify tdx --json` does. `{}` is the
/// strict policy.
#[wasm_bindgen(js_name = verifyTdx, unchecked_return_type = "Report")]
pub fn verify_tdx(
    quote: &[u8],
    #[wasm_bindgen(unchecked_param_type = "CollateralFiles")] collateral: &Json,
    #[wasm_bindgen(unchecked_param_type = "QuotePolicy")] policy: &Json,
    #[wasm_bindgen(unchecked_param_type = "UnixTime")] at: f64,
) -> Result<Json, AttestationError> {
    let policy: QuotePolicy = from_js(policy, "policy")?;
    to_js(&Report::new(quote, &read(collateral)?, &policy, time(at)?))
}

/// Replays a CCEL and compares it with a quote of the same boot, as `cocoon verify log
/// --json` does. The quote's signatures are not looked at: `Verified.replay` is for that.
#[wasm_bindgen(js_name = verifyLog, unchecked_return_type = "Report")]
pub fn verify_log(ccel: &[u8], quote: Option<Vec<u8>>) -> Result<Json, AttestationError> {
    to_js(&Report::of_log(ccel, quote.as_deref()))
}
