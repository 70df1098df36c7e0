//! Which TDs to trust, and the proof that one was.

use attestation::appraisal::Check;
use attestation::policy::{self, TdxPolicy};
use attestation::tdx::{self, IdentityPolicy, PlatformPolicy};
use measurements::release::Release;
use serde::Deserialize;
use wasm_bindgen::prelude::wasm_bindgen;

use crate::convert::{Json, from_js, time, to_js};
use crate::error::{AttestationError, refuse, reject};
use crate::evidence::{Binding, Evidence};

/// Which TDs to trust, on which platforms.
#[wasm_bindgen]
#[derive(Debug)]
pub struct Policy(pub(crate) tdx::Policy);

#[wasm_bindgen]
impl Policy {
    /// TDs of a published release: the text of its manifest. `{}` is a strict policy
    /// for the platform.
    #[wasm_bindgen(js_name = ofRelease)]
    pub fn of_release(
        manifest: &str,
        #[wasm_bindgen(unchecked_param_type = "PlatformPolicy")] platform: &Json,
    ) -> Result<Self, AttestationError> {
        let release =
            Release::parse(manifest.as_bytes()).map_err(|error| refuse("release", &error))?;
        Ok(Self(tdx::Policy {
            platform: from_js(platform, "policy")?,
            identity: release.td_identity(),
        }))
    }

    /// TDs of any other kind.
    pub fn of(
        #[wasm_bindgen(unchecked_param_type = "TdPolicy")] policy: &Json,
    ) -> Result<Self, AttestationError> {
        let TdPolicy { platform, identity } = from_js(policy, "policy")?;
        Ok(Self(tdx::Policy { platform, identity }))
    }

    /// Judges evidence for the session that `binding` names. Throws what differs.
    pub fn judge(
        &self,
        evidence: &Evidence,
        binding: &Binding,
        #[wasm_bindgen(unchecked_param_type = "UnixTime")] at: f64,
    ) -> Result<Trusted, AttestationError> {
        let policy = policy::Policy::Tdx(Box::new(TdxPolicy::new(self.0.clone())));
        let Evidence { evidence, path } = evidence;
        let head = path.head(&binding.0);
        let head = head.map_err(|error| refuse("path", &error))?;
        let report_data = evidence.report_data(&head);
        match policy.judge(evidence, &report_data, None, time(at)?) {
            Ok(trusted) => Ok(Trusted(trusted.checks().to_vec())),
            Err(rejection) => Err(reject(&rejection, &rejection.checks)),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TdPolicy {
    #[serde(default)]
    platform: PlatformPolicy,
    identity: IdentityPolicy,
}

/// A TD that a policy takes, in one session. Holding one is the proof.
#[wasm_bindgen]
#[derive(Debug)]
pub struct Trusted(pub(crate) Vec<Check>);

#[wasm_bindgen]
impl Trusted {
    /// Every comparison; all of them passed.
    #[wasm_bindgen(getter, unchecked_return_type = "Check[]")]
    pub fn checks(&self) -> Result<Json, AttestationError> {
        to_js(&self.0)
    }
}
