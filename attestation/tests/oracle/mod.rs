//! dcap-qvl 0.7.1, asked the same question; and where it answers otherwise.

use attestation::tdx::PlatformPolicy;
use dcap_qvl::QuoteCollateralV3;
use dcap_qvl::verify::QuoteVerifier;

use crate::paper_td::judge::verified;
use crate::paper_td::{AT, Built, Paper};

/// Something that it refuses and we take.
pub(crate) struct Known {
    pub(crate) error: &'static str,
    pub(crate) reason: &'static str,
    /// Makes a paper that shows it.
    pub(crate) change: fn(&mut Paper),
}

/// Each such difference.
pub(crate) const KNOWN: [Known; 1] = [Known {
    error: "Invalid QE auth data length",
    reason: "the length is a field of its own, and Intel's library takes any",
    change: |paper| paper.qe_auth.push(0),
}];

/// Why the oracle refuses a quote that we take, unless that is known.
///
/// Of the policy, only what the oracle too looks at in every quote.
pub(crate) fn takes_what_it_must_not(built: &Built) -> Option<String> {
    let verified = verified(built).ok()?;
    let policy = PlatformPolicy {
        statuses: [verified.status()].into(),
        advisories: verified.advisories().clone(),
        ..PlatformPolicy::strict()
    };
    let checks = verified.check_platform(&policy);
    if checks.iter().any(|check| !check.passed) {
        return None;
    }
    oracle(built)
        .err()
        .filter(|error| KNOWN.iter().all(|known| error != known.error))
}

/// Status and advisories, sorted.
pub(crate) fn oracle(built: &Built) -> Result<(String, Vec<String>), String> {
    let (tcb_info, tcb_info_signature) = split(&built.tcb_info);
    let (qe_identity, qe_identity_signature) = split(&built.qe_identity);
    let collateral = QuoteCollateralV3 {
        pck_crl_issuer_chain: built.pck_crl_chain.clone(),
        root_ca_crl: built.root_crl.clone(),
        pck_crl: built.pck_crl.clone(),
        tcb_info_issuer_chain: built.tcb_chain.clone(),
        tcb_info,
        tcb_info_signature,
        qe_identity_issuer_chain: built.qe_chain.clone(),
        qe_identity,
        qe_identity_signature,
        pck_certificate_chain: None,
    };
    let report = QuoteVerifier::new(built.root.clone())
        .verify(&built.quote, &collateral, AT.0)
        .map_err(|error| format!("{error:#}"))?;
    let mut advisories = report.advisory_ids;
    advisories.sort();
    Ok((report.status, advisories))
}

/// The inner object of a document, and its signature.
fn split(document: &str) -> (String, Vec<u8>) {
    let (_, rest) = document.split_once(':').unwrap();
    let (inner, signature) = rest.rsplit_once(",\"signature\":\"").unwrap();
    let digits = signature.strip_suffix("\"}").unwrap();
    (inner.into(), hex::decode(digits).unwrap())
}
