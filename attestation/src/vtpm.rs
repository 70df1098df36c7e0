//! Evidence of a TPM: a quote over PCRs, by a key that lives in a TPM that a
//! manufacturer vouches for.
//!
//! ```text
//! Endorsement  --verify(anchors, time)--> Endorsed   certificates hold
//! Endorsed     --challenge(randomness)--> Challenge  ask the TPM to decrypt
//! Challenge    --verify(Evidence, data)-> Verified   same TPM, this session
//! ```
//!
//! Each step takes the one before, so none can be left out. A virtual TPM is
//! software of whoever runs the machine: what this establishes is a measured
//! boot as seen by that party, and no confidentiality of memory from it. Which
//! registers are accepted is the policy's to say.
//!
//! Source: TPM 2.0 Library 1.59; TCG EK Credential Profile 2.5.

use alloc::vec::Vec;

use minicbor::bytes::ByteVec;
use minicbor::{Decode, Encode};

use crate::binding::ReportData;
use crate::register::Digest256;
use crate::time::UnixTime;

mod attest;
mod certificate;
mod credential;
mod key;
mod rsa;
mod x509;

pub use attest::AttestError;
pub use certificate::{EndorsementError, Place};
pub use credential::{Credential, Randomness};
pub use key::KeyError;
pub use x509::X509Error;

/// Registers that are quoted: PCR 0 to 15 of the SHA-256 bank, all that a boot
/// writes. 16 and 23 may be reset at will, 17 to 22 need a dynamic launch.
pub const PCR_COUNT: usize = 16;

/// PCR 0 first.
pub type Pcrs = [Digest256; PCR_COUNT];

/// The keys of one TPM, before it has proved anything.
#[derive(Clone, Debug, Decode, Encode, Eq, PartialEq)]
#[cbor(map)]
pub struct Endorsement {
    /// X.509 of the endorsement key, DER.
    #[cbor(n(0), with = "minicbor::bytes")]
    pub ek_certificate: Vec<u8>,
    /// Certificates between it and an anchor, each signed by the next, DER.
    #[n(1)]
    pub chain: Vec<ByteVec>,
    /// TPMT_PUBLIC of the attestation key.
    #[cbor(n(2), with = "minicbor::bytes")]
    pub ak_public: Vec<u8>,
}

impl Endorsement {
    /// Checks the endorsement certificate up to one of `anchors`, DER
    /// certificates that the caller trusts, and what the attestation key may do.
    ///
    /// That both keys are in one TPM is what the challenge finds out.
    pub fn verify(&self, anchors: &[&[u8]], now: UnixTime) -> Result<Endorsed, EndorsementError> {
        let ek = certificate::verify(&self.ek_certificate, &self.chain, anchors, now)?;
        let ak = key::AttestationKey::parse(&self.ak_public)
            .map_err(EndorsementError::AttestationKey)?;
        Ok(Endorsed { ek, ak })
    }
}

/// A genuine endorsement key, and an attestation key said to be beside it.
#[derive(Clone, Debug)]
pub struct Endorsed {
    ek: rsa::PublicKey,
    ak: key::AttestationKey,
}

impl Endorsed {
    /// Encrypts a secret that only a TPM with both keys can give back.
    #[must_use]
    pub fn challenge(self, random: &Randomness) -> Challenge {
        Challenge {
            credential: credential::make(&self.ek, &self.ak.name, random),
            secret: random.secret,
            ak: self.ak,
        }
    }
}

/// A secret is out, and its answer not yet in.
pub struct Challenge {
    credential: Credential,
    secret: [u8; 32],
    ak: key::AttestationKey,
}

impl Challenge {
    /// To be sent.
    #[must_use]
    pub const fn credential(&self) -> &Credential {
        &self.credential
    }

    /// Checks that the TPM could read the secret, and that its attestation key
    /// signed these PCRs for `report_data`. One challenge takes one answer.
    pub fn verify(
        self,
        evidence: &Evidence,
        report_data: &ReportData,
    ) -> Result<Verified, EvidenceError> {
        if evidence.secret != self.secret {
            return Err(EvidenceError::Secret);
        }
        self.ak
            .verify(&evidence.attest, &evidence.signature)
            .map_err(EvidenceError::Signature)?;
        let pcrs = evidence.pcrs();
        attest::check(&evidence.attest, report_data, &pcrs).map_err(EvidenceError::Attest)?;
        Ok(Verified { pcrs })
    }
}

/// A TPM's answer to a challenge.
#[derive(Clone, Debug, Decode, Encode, Eq, PartialEq)]
#[cbor(map)]
pub struct Evidence {
    /// TPMS_ATTEST.
    #[cbor(n(0), with = "minicbor::bytes")]
    pub attest: Vec<u8>,
    /// TPMT_SIGNATURE over it.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub signature: Vec<u8>,
    /// SHA-256 values of PCR 0 to 15, one after the other.
    #[cbor(n(2), with = "minicbor::bytes")]
    pub pcrs: [u8; PCR_COUNT * Digest256::LEN],
    /// What was in the credential.
    #[cbor(n(3), with = "minicbor::bytes")]
    pub secret: [u8; 32],
}

impl Evidence {
    fn pcrs(&self) -> Pcrs {
        let (values, _) = self.pcrs.as_chunks();
        let mut pcrs = [Digest256::ZERO; PCR_COUNT];
        pcrs.iter_mut()
            .zip(values)
            .for_each(|(pcr, value)| *pcr = Digest256::from_bytes(*value));
        pcrs
    }
}

/// PCRs that a genuine TPM reported in this session.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Verified {
    pcrs: Pcrs,
}

impl Verified {
    /// What was quoted.
    #[must_use]
    pub const fn pcrs(&self) -> &Pcrs {
        &self.pcrs
    }
}

/// Why an answer is refused.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum EvidenceError {
    /// The signed structure is not what was asked for.
    #[error("the quote is refused")]
    Attest(#[source] AttestError),
    /// The attestation key is not in the TPM of the endorsement key.
    #[error(
        "the credential's secret is not the one that was sent: another TPM, or another challenge"
    )]
    Secret,
    /// Not signed by the attestation key.
    #[error("the quote's signature is refused")]
    Signature(#[source] KeyError),
}
