//! Quotes of the emulated TD, under an independent verifier: only the root
//! differs from the real thing.

#![cfg(test)]

use attestation::evidence::Collateral;
use attestation::register::{Digest384, TdRegisters};
use dcap_qvl::QuoteCollateralV3;
use dcap_qvl::verify::QuoteVerifier;
use serde_json::value::RawValue;
use tests::collateral::Statements;
use tests::pki::{Intel, Platform};
use tests::quote::{DEBUG, QuotingEnclave, TdState};

#[test]
fn an_independent_verifier_accepts_under_the_test_root() {
    let quote = td().quote(&state());
    assert_eq!(verdict(&quote, &good()), Ok("UpToDate".into()));
}

#[test]
fn it_refuses_under_intels_root() {
    let verifier = QuoteVerifier::new_prod();
    let result = verifier.verify(&td().quote(&state()), &collateral(&good()), now());
    assert!(result.is_err());
}

#[test]
fn it_sees_each_fault() {
    let cases: [(Change, &str); 6] = [
        (|said| said.platform_status = "OutOfDate", "OutOfDate"),
        (|said| said.module_status = "OutOfDate", "OutOfDate"),
        (|said| said.qe_status = "OutOfDate", "OutOfDate"),
        (|said| said.revoked = true, "revoked"),
        (|said| said.platform.fmspc[0] ^= 1, "Fmspc mismatch"),
        (|said| said.valid.until = NOW - 1, "expired"),
    ];
    for (change, expected) in cases {
        let mut said = good();
        change(&mut said);
        let (Ok(found) | Err(found)) = verdict(&td().quote(&state()), &said);
        assert!(
            found.to_lowercase().contains(&expected.to_lowercase()),
            "{expected}: {found}"
        );
    }
}

#[test]
fn a_debug_td_is_refused_whatever_its_measurements() {
    let mut debug = state();
    debug.attributes |= DEBUG;
    let error = verdict(&td().quote(&debug), &good()).unwrap_err();
    assert!(error.contains("Debug"), "{error}");
}

#[test]
fn one_seed_gives_one_set_of_bytes() {
    assert_eq!(td().quote(&state()), td().quote(&state()));
    assert_eq!(good().sign(&intel()), good().sign(&intel()));
    assert_ne!(
        intel().root(),
        Intel::new(&[2; 32], &Platform::SAMPLE).root()
    );
}

type Change = fn(&mut Statements);

const SEED: [u8; 32] = [1; 32];

/// 2026-11-01T12:00:00Z
const NOW: i64 = 1_793_534_400;

fn now() -> u64 {
    NOW.unsigned_abs()
}

fn intel() -> Intel {
    Intel::new(&SEED, &Platform::SAMPLE)
}

fn good() -> Statements {
    Statements::good(&Platform::SAMPLE, NOW)
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

struct Td(QuotingEnclave);

fn td() -> Td {
    Td(QuotingEnclave::new(&SEED, &intel()))
}

impl Td {
    fn quote(&self, state: &TdState) -> Vec<u8> {
        self.0.quote(state, &[7; 64])
    }
}

/// The TCB status, or the whole chain of reasons.
fn verdict(quote: &[u8], said: &Statements) -> Result<String, String> {
    QuoteVerifier::new(intel().root().to_vec())
        .verify(quote, &collateral(said), now())
        .map(|report| report.status)
        .map_err(|error| format!("{error:#}"))
}

fn collateral(said: &Statements) -> QuoteCollateralV3 {
    let Collateral {
        tcb_info,
        tcb_info_issuer_chain,
        qe_identity,
        qe_identity_issuer_chain,
        pck_crl_issuer_chain,
        pck_crl,
        root_ca_crl,
    } = said.sign(&intel());
    let (tcb_info, tcb_info_signature) = split(&tcb_info, "tcbInfo");
    let (qe_identity, qe_identity_signature) = split(&qe_identity, "enclaveIdentity");
    QuoteCollateralV3 {
        pck_crl_issuer_chain,
        root_ca_crl,
        pck_crl,
        tcb_info_issuer_chain,
        tcb_info,
        tcb_info_signature,
        qe_identity_issuer_chain,
        qe_identity,
        qe_identity_signature,
        pck_certificate_chain: None,
    }
}

/// The signed bytes, and the signature.
fn split(document: &str, name: &str) -> (String, Vec<u8>) {
    type Fields<'a> = std::collections::BTreeMap<String, &'a RawValue>;
    let fields: Fields<'_> = serde_json::from_str(document).unwrap();
    let signature = fields["signature"].get().trim_matches('"');
    (
        fields[name].get().to_owned(),
        hex::decode(signature).unwrap(),
    )
}
