//! Keys of a worker with what speaks for them, as a file.
//!
//! ```text
//! {"keyset": {...}, "nonce": "64 hex digits", "report": {...} or null}
//! ```
//!
//! The report is the worker's answer to that nonce (ACI/1, section 4); a machine with a
//! TPM has none. Nothing in the file is believed: the quote is judged again.

use std::path::{Path, PathBuf};

use anyhow::Context;
use attestation::aci::{Hash, Json, Keyset, report_data};
use attestation::appraisal::{Check, Rejection};
use attestation::evidence::Collateral;
use attestation::policy::Policy;
use attestation::register::Digest256;
use attestation::time::UnixTime;
use serde::{Deserialize, Serialize};

/// What the file holds.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Keys {
    keyset: Json,
    nonce: Digest256,
    report: Option<Json>,
}

impl Keys {
    /// Of a worker whose session names `keyset`.
    pub(super) fn new(
        keyset: &Keyset,
        nonce: &Digest256,
        report: Option<&[u8]>,
    ) -> anyhow::Result<Self> {
        Ok(Self {
            keyset: Json::parse(keyset.text().as_bytes())?,
            nonce: *nonce,
            report: report.map(Json::parse).transpose()?,
        })
    }

    /// Where the keys of this digest are in a folder.
    #[must_use]
    pub fn path(folder: &Path, named: &Hash) -> PathBuf {
        folder.join(format!("keyset-{}.json", named.0))
    }

    /// Reads the file.
    pub fn parse(text: &[u8]) -> anyhow::Result<Self> {
        Ok(Json::parse(text)?.read()?)
    }

    pub(super) fn text(&self) -> anyhow::Result<String> {
        Ok(Json::of(self)?.canonical())
    }

    /// The keys, believed by nobody yet.
    pub fn keyset(&self) -> anyhow::Result<Keyset> {
        Ok(Keyset::parse(self.keyset.canonical().as_bytes())?)
    }

    /// What speaks for them, if anything does.
    pub fn report(&self) -> anyhow::Result<Option<Report>> {
        let Some(report) = &self.report else {
            return Ok(None);
        };
        let said: Said = report.read().context("no ACI report of a TD")?;
        let evidence = said.attestation.evidence;
        Ok(Some(Report {
            nonce: self.nonce,
            quote: hex::decode(evidence.quote).context("the quote is not hex")?,
            collateral: evidence.collateral.try_into()?,
        }))
    }
}

/// A quote that names a keyset, with what Intel says of its platform.
#[derive(Clone, Debug)]
pub struct Report {
    nonce: Digest256,
    quote: Vec<u8>,
    collateral: Collateral,
}

impl Report {
    /// Every check, whether it passed or not: that the policy takes the machine, and that
    /// its quote names this keyset.
    pub fn judge(&self, policy: &Policy, keyset: &Hash, at: UnixTime) -> Vec<Check> {
        let data = report_data(keyset, Some(&self.nonce));
        match policy.judge_quote(&self.quote, &self.collateral, &data, at) {
            Ok(checks) | Err(Rejection { checks }) => checks,
        }
    }
}

#[derive(Deserialize)]
struct Said {
    attestation: Attestation,
}

#[derive(Deserialize)]
struct Attestation {
    evidence: Evidence,
}

#[derive(Deserialize)]
struct Evidence {
    quote: String,
    collateral: Stapled,
}

/// As `agent` writes it.
#[derive(Deserialize)]
struct Stapled {
    tcb_info: String,
    tcb_info_issuer_chain: String,
    qe_identity: String,
    qe_identity_issuer_chain: String,
    pck_crl: String,
    pck_crl_issuer_chain: String,
    root_ca_crl: String,
}

impl TryFrom<Stapled> for Collateral {
    type Error = anyhow::Error;

    fn try_from(stapled: Stapled) -> anyhow::Result<Self> {
        let list = |digits: &str| hex::decode(digits).context("a revocation list is not hex");
        Ok(Self {
            pck_crl: list(&stapled.pck_crl)?,
            root_ca_crl: list(&stapled.root_ca_crl)?,
            tcb_info: stapled.tcb_info,
            tcb_info_issuer_chain: stapled.tcb_info_issuer_chain,
            qe_identity: stapled.qe_identity,
            qe_identity_issuer_chain: stapled.qe_identity_issuer_chain,
            pck_crl_issuer_chain: stapled.pck_crl_issuer_chain,
        })
    }
}
