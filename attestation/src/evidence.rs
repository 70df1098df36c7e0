//! What a machine shows of itself: the bundle that travels (`evidence/wire.rs`).
//!
//! Nothing in it is trusted. The CPU's part signs REPORTDATA, which covers
//! everything else here but the endorsements; those are signed by Intel.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use minicbor::bytes::ByteVec;
use minicbor::{Decode, Encode};
use sha2::{Digest, Sha384};

use crate::batch::TreeHead;
use crate::binding::ReportData;
use crate::cbor;
use crate::nvidia::{Revocation, RevocationError};
use crate::register::Digest384;
use crate::tdx::CollateralParts;
use crate::vtpm;

mod wire;

/// Everything a verifier gets, but for its own policy and the time.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Evidence {
    /// The CPU's or TPM's statement.
    pub platform: PlatformEvidence,
    /// Reports of GPUs and switches, in the order of their nonces.
    pub gpus: Vec<GpuEvidence>,
    /// What NVIDIA says of them; nothing where there are none.
    pub gpu_collateral: GpuCollateral,
    /// What the agent says of itself.
    pub state: State,
    /// CCEL or TPM log: explains registers, and proves nothing beyond them.
    pub event_log: Vec<u8>,
}

impl Evidence {
    /// What the platform must have signed for this bundle in this round.
    #[must_use]
    pub fn report_data(&self, head: &TreeHead) -> ReportData {
        report_data(head, &self.gpus, &self.state)
    }
}

/// What the platform has to sign, before it has signed.
#[must_use]
pub fn report_data(head: &TreeHead, gpus: &[GpuEvidence], state: &State) -> ReportData {
    let state = Digest384::of(&cbor::encode(state));
    head.report_data(&gpus_digest(gpus), &state)
}

/// The root of trust that speaks.
#[derive(Clone, Eq, PartialEq)]
pub enum PlatformEvidence {
    /// A TD: its quote, with what Intel says of the platform.
    Tdx {
        /// Raw quote.
        quote: Vec<u8>,
        /// Signed by Intel, so that the peer may deliver it.
        collateral: Collateral,
    },
    /// A TPM that the host or a paravisor provides: measured boot, and no
    /// confidential memory.
    Vtpm(Box<vtpm::Evidence>),
}

impl PlatformEvidence {
    /// As users write it.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Tdx { .. } => "tdx",
            Self::Vtpm(_) => "vtpm",
        }
    }
}

impl fmt::Debug for PlatformEvidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Intel's signed statements about a platform, as its PCS serves them.
#[derive(Clone, Debug, Decode, Encode, Eq, PartialEq)]
#[cbor(map)]
pub struct Collateral {
    /// TCB info v3, JSON.
    #[n(0)]
    pub tcb_info: String,
    /// PEM: TCB signing certificate, root.
    #[n(1)]
    pub tcb_info_issuer_chain: String,
    /// TD QE identity v2, JSON.
    #[n(2)]
    pub qe_identity: String,
    /// PEM: TCB signing certificate, root.
    #[n(3)]
    pub qe_identity_issuer_chain: String,
    /// DER, by the platform or the processor CA.
    #[cbor(n(4), with = "minicbor::bytes")]
    pub pck_crl: Vec<u8>,
    /// PEM: platform or processor CA, root.
    #[n(5)]
    pub pck_crl_issuer_chain: String,
    /// DER, by the root CA.
    #[cbor(n(6), with = "minicbor::bytes")]
    pub root_ca_crl: Vec<u8>,
}

impl Collateral {
    /// For the verifier.
    #[must_use]
    pub fn parts(&self) -> CollateralParts<'_> {
        CollateralParts {
            tcb_info: &self.tcb_info,
            tcb_info_issuer_chain: self.tcb_info_issuer_chain.as_bytes(),
            qe_identity: &self.qe_identity,
            qe_identity_issuer_chain: self.qe_identity_issuer_chain.as_bytes(),
            pck_crl: &self.pck_crl,
            pck_crl_issuer_chain: self.pck_crl_issuer_chain.as_bytes(),
            root_crl: &self.root_ca_crl,
        }
    }
}

/// One GPU's report and the certificates of the key that signed it.
#[derive(Clone, Debug, Decode, Encode, Eq, PartialEq)]
#[cbor(map)]
pub struct GpuEvidence {
    /// SPDM request and response.
    #[cbor(n(0), with = "minicbor::bytes")]
    pub report: Vec<u8>,
    /// PEM, leaf first.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub chain: Vec<u8>,
}

/// NVIDIA's signed statements, so that the peer may deliver them.
#[derive(Clone, Debug, Decode, Default, Encode, Eq, PartialEq)]
#[cbor(map)]
pub struct GpuCollateral {
    /// Reference manifests, XML, for each driver and firmware among the devices.
    #[n(0)]
    pub rims: Vec<ByteVec>,
    /// Revocation lists, DER.
    #[n(1)]
    pub crls: Vec<ByteVec>,
    /// OCSP responses, DER.
    #[n(2)]
    pub ocsp: Vec<ByteVec>,
}

impl GpuCollateral {
    /// For the verifier.
    pub fn revocation(&self) -> Result<Revocation<'_>, RevocationError> {
        let lists = self.crls.iter().map(|list| list.as_slice());
        let responses = self.ocsp.iter().map(|response| response.as_slice());
        Revocation::parse(lists, responses)
    }
}

/// What the agent adds that no register holds: claims of an EAT (RFC 9711).
#[derive(Clone, Debug, Decode, Encode, Eq, PartialEq)]
#[cbor(map)]
pub struct State {
    /// `bootseed` (section 4.2.9): random, made at boot, so that two sessions with
    /// one value met one boot.
    #[cbor(n(268), with = "minicbor::bytes")]
    pub boot_seed: [u8; 32],
    /// SHA-384 of the event log that is shown. No registered claim: a number for
    /// private use (RFC 8392, section 9.1).
    #[cbor(n(-65537), with = "minicbor::bytes")]
    pub event_log: [u8; 48],
    /// Nothing where there are no GPUs. For private use like `event_log`.
    #[n(-65538)]
    pub gpu_mode: Option<GpuMode>,
    /// SHA-256 of the keyset that receipts are checked under (`aci.rs`), at this moment.
    /// For private use like `event_log`.
    #[cbor(n(-65539), with = "minicbor::bytes")]
    pub keyset: [u8; 32],
}

/// How the GPUs run: no report says it. It is the driver's word, and the registers
/// say which driver that is.
#[derive(Clone, Copy, Debug, Decode, Encode, Eq, PartialEq)]
#[cbor(map)]
pub struct GpuMode {
    /// Confidential computing: memory and bus are closed to the host.
    #[n(0)]
    pub confidential: bool,
    /// For developers: confidential in name only.
    #[n(1)]
    pub dev_tools: bool,
    /// Whether programs may use them.
    #[n(2)]
    pub accepting_work: bool,
}

impl GpuMode {
    /// The one in which a worker serves.
    pub const SERVING: Self = Self {
        confidential: true,
        dev_tools: false,
        accepting_work: true,
    };
}

impl fmt::Display for GpuMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = |on| if on { "on" } else { "off" };
        write!(
            f,
            "confidential computing {}, DevTools {}, work {}",
            word(self.confidential),
            word(self.dev_tools),
            word(self.accepting_work)
        )
    }
}

fn gpus_digest(gpus: &[GpuEvidence]) -> Digest384 {
    let mut hash = Sha384::new();
    for field in gpus.iter().flat_map(|gpu| [&gpu.report, &gpu.chain]) {
        let len = u64::try_from(field.len()).unwrap_or(u64::MAX);
        hash.update(len.to_le_bytes());
        hash.update(field);
    }
    Digest384::from_bytes(hash.finalize().into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch;

    fn gpu(report: &[u8], chain: &[u8]) -> GpuEvidence {
        GpuEvidence {
            report: report.to_vec(),
            chain: chain.to_vec(),
        }
    }

    #[test]
    fn order_and_boundaries_of_gpu_reports_count() {
        let digest = |gpus: &[GpuEvidence]| gpus_digest(gpus);
        let (a, b) = (gpu(b"a", b"x"), gpu(b"b", b"y"));
        assert_ne!(
            digest(&[a.clone(), b.clone()]),
            digest(&[b.clone(), a.clone()])
        );
        assert_ne!(digest(&[gpu(b"ab", b"")]), digest(&[gpu(b"a", b"b")]));
        assert_ne!(digest(core::slice::from_ref(&a)), digest(&[a, b]));
    }

    #[test]
    fn the_platform_signs_gpus_and_state() {
        let (head, _) = batch::tree(&[]);
        let state = |boot_seed, event_log, gpu_mode| State {
            boot_seed,
            event_log,
            gpu_mode,
            keyset: [9; 32],
        };
        let other_keys = State {
            keyset: [0; 32],
            ..state([7; 32], [8; 48], None)
        };
        let shown = report_data(&head, &[], &state([7; 32], [8; 48], None));
        for (gpus, state) in [
            (&[][..], state([0; 32], [8; 48], None)),
            (&[], state([7; 32], [0; 48], None)),
            (&[], state([7; 32], [8; 48], Some(GpuMode::SERVING))),
            (&[gpu(b"", b"")], state([7; 32], [8; 48], None)),
            (&[], other_keys),
        ] {
            assert_ne!(shown, report_data(&head, gpus, &state));
        }
    }
}
