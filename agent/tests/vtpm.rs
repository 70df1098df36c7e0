//! The provider against a real TPM (swtpm), judged by the pure verifier.

#![allow(
    clippy::arithmetic_side_effects,
    clippy::unwrap_used,
    reason = "helpers of tests are tests"
)]

mod swtpm;

use std::str::FromStr;
use std::time::{SystemTime, UNIX_EPOCH};

use agent::vtpm::{Tpm, TpmError};
use attestation::binding::ReportData;
use attestation::register::Digest256;
use attestation::time::UnixTime;
use attestation::vtpm::{
    AttestError, Challenge, Credential, EndorsementError, Evidence, EvidenceError, KeyError, Place,
    Randomness,
};
use swtpm::Swtpm;
use tss_esapi::Context;
use tss_esapi::handles::PcrHandle;
use tss_esapi::interface_types::algorithm::HashingAlgorithm;
use tss_esapi::interface_types::session_handles::AuthSession;
use tss_esapi::structures::{Digest, DigestValues};
use tss_esapi::tcti_ldr::TctiNameConf;

const DATA: ReportData = ReportData([0xd5; 64]);

fn now() -> UnixTime {
    UnixTime(
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap()
            .as_secs(),
    )
}

fn challenge(tpm: &Tpm, swtpm: &Swtpm) -> Challenge {
    let endorsed = tpm.endorsement().verify(&[&swtpm.issuer()], now()).unwrap();
    endorsed.challenge(&Randomness {
        secret: [1; 32],
        seed: [2; 32],
        padding: [3; 32],
    })
}

fn answer(tpm: &Tpm, challenge: &Challenge) -> Evidence {
    tpm.attest(&DATA.0, challenge.credential()).unwrap()
}

/// What a process in the guest does; the TPM must have no other client.
fn extend(swtpm: &Swtpm, pcr: PcrHandle, digest: Digest256) {
    let name = TctiNameConf::from_str(&swtpm.tcti()).unwrap();
    let mut context = Context::new(name).unwrap();
    let mut values = DigestValues::new();
    let digest = Digest::try_from(digest.as_bytes().as_slice()).unwrap();
    values.set(HashingAlgorithm::Sha256, digest);
    context
        .execute_with_session(Some(AuthSession::Password), |context| {
            context.pcr_extend(pcr, values)
        })
        .unwrap();
}

#[test]
fn a_tpm_proves_its_registers_to_a_verifier_that_knows_its_issuer() {
    let Some(swtpm) = Swtpm::start() else { return };
    let measured = Digest256::of(b"configuration");
    extend(&swtpm, PcrHandle::Pcr8, measured);
    let tpm = Tpm::open(&swtpm.tcti()).unwrap();
    let challenge = challenge(&tpm, &swtpm);
    let evidence = answer(&tpm, &challenge);
    let verified = challenge.verify(&evidence, &DATA).unwrap();
    let mut expected = [Digest256::ZERO; 16];
    expected[8] = Digest256::ZERO.extend(measured);
    assert_eq!(verified.pcrs(), &expected);
}

#[test]
fn a_tpm_answers_again_and_again() {
    let Some(swtpm) = Swtpm::start() else { return };
    let tpm = Tpm::open(&swtpm.tcti()).unwrap();
    for _ in 0..8 {
        let challenge = challenge(&tpm, &swtpm);
        let evidence = answer(&tpm, &challenge);
        challenge.verify(&evidence, &DATA).unwrap();
    }
}

#[test]
fn the_chain_may_lead_to_the_issuers_issuer() {
    let Some(swtpm) = Swtpm::start() else { return };
    let tpm = Tpm::open(&swtpm.tcti()).unwrap();
    let mut endorsement = tpm.endorsement().clone();
    let error = endorsement.verify(&[&swtpm.root()], now()).unwrap_err();
    assert_eq!(
        error,
        EndorsementError::NoAnchor {
            at: Place::Endorsement
        }
    );
    endorsement.chain = vec![swtpm.issuer().into()];
    endorsement.verify(&[&swtpm.root()], now()).unwrap();
}

#[test]
fn a_quote_is_good_for_one_session_only() {
    let Some(swtpm) = Swtpm::start() else { return };
    let tpm = Tpm::open(&swtpm.tcti()).unwrap();
    let challenge = challenge(&tpm, &swtpm);
    let replayed = answer(&tpm, &challenge);
    let error = challenge.verify(&replayed, &ReportData([0; 64]));
    assert_eq!(error, Err(EvidenceError::Attest(AttestError::ExtraData)));
}

#[test]
fn an_answer_is_good_for_one_challenge_only() {
    let Some(swtpm) = Swtpm::start() else { return };
    let tpm = Tpm::open(&swtpm.tcti()).unwrap();
    let evidence = answer(&tpm, &challenge(&tpm, &swtpm));
    let endorsed = tpm.endorsement().verify(&[&swtpm.issuer()], now()).unwrap();
    let another = endorsed.challenge(&Randomness {
        secret: [9; 32],
        seed: [2; 32],
        padding: [3; 32],
    });
    assert_eq!(another.verify(&evidence, &DATA), Err(EvidenceError::Secret));
}

#[test]
fn registers_that_moved_after_the_quote_do_not_match_it() {
    let Some(swtpm) = Swtpm::start() else { return };
    let tpm = Tpm::open(&swtpm.tcti()).unwrap();
    let first = challenge(&tpm, &swtpm);
    let before = answer(&tpm, &first);
    drop(tpm);
    extend(&swtpm, PcrHandle::Pcr4, Digest256::of(b"another kernel"));
    let tpm = Tpm::open(&swtpm.tcti()).unwrap();
    let second = challenge(&tpm, &swtpm);
    let mut after = answer(&tpm, &second);
    assert_ne!(before.pcrs, after.pcrs);
    after.pcrs = before.pcrs;
    assert_eq!(
        second.verify(&after, &DATA),
        Err(EvidenceError::Attest(AttestError::PcrDigest))
    );
}

#[test]
fn another_tpm_cannot_read_the_credential() {
    let Some(genuine) = Swtpm::start() else {
        return;
    };
    let Some(other) = Swtpm::start() else { return };
    let (tpm, foreign) = (
        Tpm::open(&genuine.tcti()).unwrap(),
        Tpm::open(&other.tcti()).unwrap(),
    );
    let challenge = challenge(&tpm, &genuine);
    let error = foreign.attest(&DATA.0, challenge.credential()).unwrap_err();
    assert_eq!(error.to_string(), "TPM2_ActivateCredential failed");
    // The failure leaves no session behind, and the TPM goes on to serve.
    let challenge = self::challenge(&foreign, &other);
    let evidence = answer(&foreign, &challenge);
    challenge.verify(&evidence, &DATA).unwrap();
}

#[test]
fn the_endorsement_of_another_tpm_does_not_cover_this_key() {
    let Some(genuine) = Swtpm::start() else {
        return;
    };
    let Some(other) = Swtpm::start() else { return };
    let (tpm, foreign) = (
        Tpm::open(&genuine.tcti()).unwrap(),
        Tpm::open(&other.tcti()).unwrap(),
    );
    // A genuine TPM's certificate, and a key that lives elsewhere.
    let mut mixed = tpm.endorsement().clone();
    mixed.ak_public.clone_from(&foreign.endorsement().ak_public);
    let endorsed = mixed.verify(&[&genuine.issuer()], now()).unwrap();
    let challenge = endorsed.challenge(&Randomness {
        secret: [1; 32],
        seed: [2; 32],
        padding: [3; 32],
    });
    let refused = |tpm: &Tpm| tpm.attest(&DATA.0, challenge.credential());
    for tpm in [&tpm, &foreign] {
        let error = refused(tpm).unwrap_err();
        assert!(
            matches!(error, TpmError::Command { command, .. } if command == "TPM2_ActivateCredential")
        );
    }
    // And a quote by the wrong key is seen, even with the right secret.
    let challenge = self::challenge(&tpm, &genuine);
    let mut evidence = answer(&tpm, &challenge);
    let own = self::challenge(&foreign, &other);
    let foreign = answer(&foreign, &own);
    (evidence.attest, evidence.signature) = (foreign.attest, foreign.signature);
    assert_eq!(
        challenge.verify(&evidence, &DATA),
        Err(EvidenceError::Signature(KeyError::Signature))
    );
}

#[test]
fn a_malformed_credential_is_refused_by_name() {
    let Some(swtpm) = Swtpm::start() else { return };
    let tpm = Tpm::open(&swtpm.tcti()).unwrap();
    let error = |id_object: usize, encrypted_secret: usize| {
        let credential = Credential {
            id_object: vec![0; id_object],
            encrypted_secret: vec![0; encrypted_secret],
        };
        tpm.attest(&DATA.0, &credential).unwrap_err().to_string()
    };
    assert_eq!(error(4096, 256), "reading the credential failed");
    assert_eq!(error(68, 4096), "reading the credential failed");
    assert_eq!(error(68, 256), "TPM2_ActivateCredential failed");
    assert_eq!(error(0, 0), "TPM2_ActivateCredential failed");
}

#[test]
fn a_tpm_that_is_not_there_is_named() {
    let error = Tpm::open("swtpm:host=127.0.0.1,port=1").unwrap_err();
    assert_eq!(error.to_string(), "opening the TCTI failed");
    let error = Tpm::open("carrier pigeon").unwrap_err();
    assert_eq!(error.to_string(), "reading the TCTI name failed");
}
