//! Quotes of the emulated TD, under our verifier and an independent one: only
//! the root differs from the real thing.

#![cfg(test)]

use std::collections::{BTreeMap, BTreeSet};

use attestation::binding::ReportData;
use attestation::evidence;
use attestation::register::{Digest384, TdRegisters};
use attestation::tdx::{
    Collateral, IdentityPolicy, PlatformPolicy, Policy, Quote, TrustAnchor, verify,
};
use attestation::time::UnixTime;
use dcap_qvl::QuoteCollateralV3;
use dcap_qvl::verify::QuoteVerifier;
use serde_json::value::RawValue;
use tests::collateral::Statements;
use tests::pki::{Intel, Platform, Window};
use tests::quote::{DEBUG, QuotingEnclave, TdState};

#[test]
fn both_verifiers_accept_under_the_test_root() {
    assert_eq!(ours(&quote(&state()), &good()), Ok(()));
    assert_eq!(theirs(&quote(&state()), &good()), Ok("UpToDate".into()));
}

#[test]
fn both_verifiers_refuse_under_intels_root() {
    let said = good().sign(&intel());
    let error = Collateral::verify(said.parts(), UnixTime(NOW)).unwrap_err();
    let expected = "root CRL: the signature does not verify under its issuer's key";
    assert_eq!(error.to_string(), expected);
    let verifier = QuoteVerifier::new_prod();
    let result = verifier.verify(&quote(&state()), &independent(said), NOW);
    assert!(result.is_err());
}

#[test]
fn both_verifiers_see_each_fault() {
    let cases: [(Change<Statements>, &str, &str); 6] = [
        (
            |said| said.platform_status = "OutOfDate",
            "tcb-status",
            "OutOfDate",
        ),
        (
            |said| said.module_status = "OutOfDate",
            "tcb-status",
            "OutOfDate",
        ),
        (
            |said| said.qe_status = "OutOfDate",
            "tcb-status",
            "OutOfDate",
        ),
        (
            |said| said.revoked = true,
            "PCK certificate: revoked, serial number 00000000897a4a82ffc1bf5b8ab995724cde16a5",
            "revoked",
        ),
        (
            |said| said.platform.fmspc[0] ^= 1,
            "FMSPC is c0c00a000000, expected c1c00a000000 as in the TCB info",
            "Fmspc mismatch",
        ),
        (
            |said| said.valid = PAST,
            "root CRL: valid until 1793491199 (unix), checked at 1793534400 (unix)",
            "expired",
        ),
    ];
    for (change, our_reason, their_reason) in cases {
        let mut said = good();
        change(&mut said);
        assert_eq!(ours(&quote(&state()), &said), Err(our_reason.into()));
        let (Ok(found) | Err(found)) = theirs(&quote(&state()), &said);
        let found = found.to_lowercase();
        assert!(found.contains(&their_reason.to_lowercase()), "{found}");
    }
}

#[test]
fn a_td_in_another_state_is_refused_by_what_differs() {
    let cases: [(Change<TdState>, &str); 4] = [
        (|td| td.attributes |= DEBUG, "td-debug"),
        (|td| td.xfam = u64::MAX, "xfam"),
        (|td| td.registers.rtmr2 = Digest384::ZERO, "rtmr2"),
        (|td| td.mrconfigid = Digest384::ZERO, "mrconfigid"),
    ];
    for (change, reason) in cases {
        let mut td = state();
        change(&mut td);
        assert_eq!(ours(&quote(&td), &good()), Err(reason.into()));
    }
}

#[test]
fn one_seed_gives_one_set_of_bytes() {
    assert_eq!(quote(&state()), quote(&state()));
    assert_eq!(good().sign(&intel()), good().sign(&intel()));
    let other = Intel::new(&[2; 32], &Platform::SAMPLE);
    assert_ne!(intel().root(), other.root());
}

type Change<T> = fn(&mut T);

const SEED: [u8; 32] = [1; 32];

/// 2026-11-01T12:00:00Z
const NOW: u64 = 1_793_534_400;

/// October 2026.
const PAST: Window = Window {
    from: 1_790_812_800,
    until: 1_793_491_199,
};

const ASKED: [u8; 64] = [7; 64];

fn intel() -> Intel {
    Intel::new(&SEED, &Platform::SAMPLE)
}

fn good() -> Statements {
    Statements::good(&Platform::SAMPLE, NOW.try_into().unwrap())
}

fn state() -> TdState {
    let registers = TdRegisters {
        mrtd: Digest384::of(b"firmware"),
        rtmr0: Digest384::of(b"settings"),
        rtmr1: Digest384::of(b"kernel"),
        rtmr2: Digest384::of(b"initrd"),
        rtmr3: Digest384::ZERO,
    };
    TdState::new(registers, Digest384::of(b"config"))
}

fn quote(td: &TdState) -> Vec<u8> {
    QuotingEnclave::new(&SEED, &intel()).quote(td, &ASKED)
}

/// Our verdict with the strict policy for [`state`]: what is wrong, if anything.
fn ours(quote: &[u8], said: &Statements) -> Result<(), String> {
    let anchor = TrustAnchor::from_certificate(intel().root()).unwrap();
    let said = said.sign(&intel());
    let now = UnixTime(NOW);
    let collateral = Collateral::verify_under(&anchor, said.parts(), now);
    let collateral = collateral.map_err(|error| error.to_string())?;
    let quote = Quote::parse(quote).map_err(|error| error.to_string())?;
    let verified = verify(quote, &collateral, now).map_err(|error| error.to_string())?;
    match verified.appraise(&policy(), &ReportData(ASKED)) {
        Ok(_) => Ok(()),
        Err(rejection) => Err(rejection
            .checks
            .iter()
            .filter(|check| !check.passed)
            .map(|check| check.name)
            .collect::<Vec<_>>()
            .join(", ")),
    }
}

fn policy() -> Policy {
    let TdState {
        registers,
        mrconfigid,
        ..
    } = state();
    let unset = BTreeSet::from([Digest384::ZERO]);
    Policy {
        platform: PlatformPolicy::strict(),
        identity: IdentityPolicy {
            builds: BTreeSet::from([registers]),
            mrconfigid: BTreeSet::from([mrconfigid]),
            mrowner: unset.clone(),
            mrownerconfig: unset,
        },
    }
}

/// The independent verdict: the TCB status, or the whole chain of reasons.
fn theirs(quote: &[u8], said: &Statements) -> Result<String, String> {
    QuoteVerifier::new(intel().root().to_vec())
        .verify(quote, &independent(said.sign(&intel())), NOW)
        .map(|report| report.status)
        .map_err(|error| format!("{error:#}"))
}

fn independent(said: evidence::Collateral) -> QuoteCollateralV3 {
    let (tcb_info, tcb_info_signature) = split(&said.tcb_info, "tcbInfo");
    let (qe_identity, qe_identity_signature) = split(&said.qe_identity, "enclaveIdentity");
    QuoteCollateralV3 {
        pck_crl_issuer_chain: said.pck_crl_issuer_chain,
        root_ca_crl: said.root_ca_crl,
        pck_crl: said.pck_crl,
        tcb_info_issuer_chain: said.tcb_info_issuer_chain,
        tcb_info,
        tcb_info_signature,
        qe_identity_issuer_chain: said.qe_identity_issuer_chain,
        qe_identity,
        qe_identity_signature,
        pck_certificate_chain: None,
    }
}

/// The signed bytes, and the signature.
fn split(document: &str, name: &str) -> (String, Vec<u8>) {
    let fields: BTreeMap<String, &RawValue> = serde_json::from_str(document).unwrap();
    let signature = fields["signature"].get().trim_matches('"');
    (
        fields[name].get().to_owned(),
        hex::decode(signature).unwrap(),
    )
}
