//! Which TDs to trust, and the proof that one was.

use attestation::appraisal::Check;
use attestation::nvidia::DevicePolicy;
use attestation::policy::{self, GpuPolicy, TdxPolicy};
use attestation::tdx::{self, IdentityPolicy, PlatformPolicy};
use measurements::release::Release;
use serde::Deserialize;
use wasm_bindgen::prelude::wasm_bindgen;

use crate::convert::{Json, from_js, time, to_js};
use crate::error::{AttestationError, refuse, reject};
use crate::evidence::{Binding, Evidence};

/// Which TDs to trust, on which platforms, with which GPUs.
#[wasm_bindgen]
#[derive(Debug)]
pub struct Policy {
    pub(crate) td: tdx::Policy,
    gpus: GpuPolicy,
    #[cfg(feature = "test-root")]
    anchor: Option<tdx::TrustAnchor>,
}

#[wasm_bindgen]
impl Policy {
    /// TDs of a published release: the text of its manifest. `{}` is a strict policy
    /// for the platform; of GPUs it has to be known that NVIDIA has not taken them back.
    #[wasm_bindgen(js_name = ofRelease)]
    pub fn of_release(
        manifest: &str,
        #[wasm_bindgen(unchecked_param_type = "PlatformPolicy")] platform: &Json,
    ) -> Result<Self, AttestationError> {
        let release =
            Release::parse(manifest.as_bytes()).map_err(|error| refuse("release", &error))?;
        let td = tdx::Policy {
            platform: from_js(platform, "policy")?,
            identity: release.td_identity(),
        };
        let gpus = GpuPolicy::new(release.td_devices(), DevicePolicy::strict());
        Ok(Self::new(td, gpus))
    }

    /// TDs of any other kind, without GPUs.
    pub fn of(
        #[wasm_bindgen(unchecked_param_type = "TdPolicy")] policy: &Json,
    ) -> Result<Self, AttestationError> {
        let TdPolicy { platform, identity } = from_js(policy, "policy")?;
        let td = tdx::Policy { platform, identity };
        Ok(Self::new(td, GpuPolicy::none()))
    }

    /// Judges evidence for the session that `binding` names. Throws what differs.
    pub fn judge(
        &self,
        evidence: &Evidence,
        binding: &Binding,
        #[wasm_bindgen(unchecked_param_type = "UnixTime")] at: f64,
    ) -> Result<Trusted, AttestationError> {
        let Evidence { evidence, path } = evidence;
        let head = path.head(&binding.0);
        let head = head.map_err(|error| refuse("path", &error))?;
        match self.whole().judge(evidence, &head, None, time(at)?) {
            Ok(trusted) => Ok(Trusted(trusted.checks().to_vec())),
            Err(rejection) => Err(reject(&rejection, &rejection.checks)),
        }
    }
}

impl Policy {
    const fn new(td: tdx::Policy, gpus: GpuPolicy) -> Self {
        Self {
            td,
            gpus,
            #[cfg(feature = "test-root")]
            anchor: None,
        }
    }

    /// As the library has it.
    pub(crate) fn whole(&self) -> policy::Policy {
        let policy = TdxPolicy::new(self.td.clone(), self.gpus.clone());
        #[cfg(feature = "test-root")]
        let policy = match self.anchor.clone() {
            Some(anchor) => policy.under(anchor),
            None => policy,
        };
        policy::Policy::Tdx(Box::new(policy))
    }
}

#[cfg(feature = "test-root")]
#[wasm_bindgen]
impl Policy {
    /// The same under a root of one's own, a DER certificate: for emulated TDs.
    pub fn under(self, root: &[u8]) -> Result<Self, AttestationError> {
        let anchor = tdx::TrustAnchor::from_certificate(root);
        let anchor = anchor.map_err(|error| refuse("root", &error))?;
        Ok(Self {
            anchor: Some(anchor),
            ..self
        })
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
