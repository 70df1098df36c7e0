//! The report of one NVIDIA device, judged as `cocoon verify gpu` does.

use attestation::nvidia::{self, DevicePolicy};
use attestation::tdx::Hex;
use js_sys::{Array, Reflect};
use wasm_bindgen::prelude::wasm_bindgen;

use crate::convert::{Json, NotBytes, bytes, content, from_js, time, to_js};
use crate::error::{AttestationError, refuse};

/// Judges a device under NVIDIA's roots, as `cocoon verify gpu --json` does. `"any"` is
/// any device with software that NVIDIA vouches for.
#[wasm_bindgen(js_name = verifyGpu, unchecked_return_type = "GpuReport")]
pub fn verify_gpu(
    #[wasm_bindgen(unchecked_param_type = "GpuFiles")] files: &Json,
    nonce: &[u8],
    #[wasm_bindgen(unchecked_param_type = "DevicePolicy | \"any\"")] policy: &Json,
    #[wasm_bindgen(unchecked_param_type = "UnixTime")] at: f64,
) -> Result<Json, AttestationError> {
    let policy = match policy.as_string().as_deref() {
        Some("any") => DevicePolicy::any(),
        _ => from_js(policy, "policy")?,
    };
    let nonce = Hex(bytes(nonce, "nonce")?);
    let files = Files::read(files).map_err(|error| refuse("gpu-files", &error))?;
    let report = nvidia::judge(files.borrow(), &nonce, &policy, time(at)?);
    to_js(&report)
}

struct Files {
    report: Vec<u8>,
    chain: Vec<u8>,
    rims: Vec<Vec<u8>>,
    crls: Vec<Vec<u8>>,
    ocsp: Vec<Vec<u8>>,
}

impl Files {
    fn read(files: &Json) -> Result<Self, NotBytes> {
        let get = |name: &str| Reflect::get(files, &name.into()).map_err(|_| NotBytes);
        let all = |name| {
            let list = get(name)?;
            match Array::is_array(&list) {
                true => Array::from(&list)
                    .iter()
                    .map(|file| content(&file))
                    .collect(),
                false => Err(NotBytes),
            }
        };
        Ok(Self {
            report: content(&get("report")?)?,
            chain: content(&get("chain")?)?,
            rims: all("rims")?,
            crls: all("crls")?,
            ocsp: all("ocsp")?,
        })
    }

    fn borrow(&self) -> nvidia::GpuFiles<'_> {
        nvidia::GpuFiles {
            report: &self.report,
            chain: &self.chain,
            rims: &self.rims,
            crls: &self.crls,
            ocsp: &self.ocsp,
        }
    }
}
