//! Evidence of a paper TPM, and every way in which it must not be believed.

#![allow(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "helpers of tests are tests"
)]

mod paper_tpm;

use attestation::batch;
use attestation::binding::ReportData;
use attestation::cbor;
use attestation::der::DerError;
use attestation::evidence::{self, GpuCollateral, GpuEvidence, GpuMode, PlatformEvidence, State};
use attestation::policy::{Policy, VtpmBuild, VtpmPolicy};
use attestation::register::{Digest256, Digest384};
use attestation::time::{OutsideWindow, UnixTime};
use attestation::vtpm::{
    AttestError, Challenge, Credential, Endorsement, EndorsementError, Evidence, EvidenceError,
    KeyError, Place, Randomness, X509Error,
};
use aws_lc_rs::rsa::KeySize;
use paper_tpm::der::{self, Certificate, Key, SHA1_RSA, SHA256_RSA, SHA384_RSA};
use paper_tpm::{AkPublic, Attest};
use proptest::prelude::*;

const DATA: ReportData = ReportData([0xd5; 64]);
const NOW: UnixTime = UnixTime(1_790_000_000);
const RANDOM: Randomness = Randomness {
    secret: [1; 32],
    seed: [2; 32],
    padding: [3; 32],
};

/// An endorsement right under its anchor.
struct Parts {
    ek: Certificate,
    root: Certificate,
    ak: AkPublic,
    now: UnixTime,
}

impl Parts {
    fn good() -> Self {
        Self {
            ek: Certificate::endorsement(Key::endorsement()),
            root: Certificate::authority("root", &Key::p256(1), Some(0)),
            ak: AkPublic::GOOD,
            now: NOW,
        }
    }

    fn verify(&self) -> Result<(), EndorsementError> {
        let endorsement = endorsement(self.ek.sign(&Key::p256(1)), &[], self.ak.marshal());
        let root = self.root.sign(&Key::p256(1));
        endorsement.verify(&[&root], self.now).map(|_endorsed| ())
    }
}

fn endorsement(ek_certificate: Vec<u8>, chain: &[Vec<u8>], ak_public: Vec<u8>) -> Endorsement {
    Endorsement {
        ek_certificate,
        chain: chain.iter().cloned().map(Into::into).collect(),
        ak_public,
    }
}

/// The endorsement of [`Parts::good`] with other certificates.
fn verify_chain(
    ek_certificate: Vec<u8>,
    chain: &[Vec<u8>],
    anchors: &[Vec<u8>],
) -> Result<(), EndorsementError> {
    let anchors: Vec<_> = anchors.iter().map(Vec::as_slice).collect();
    endorsement(ek_certificate, chain, AkPublic::GOOD.marshal())
        .verify(&anchors, NOW)
        .map(|_endorsed| ())
}

fn challenge() -> Challenge {
    let ek = Parts::good().ek.sign(&Key::p256(1));
    let root = Parts::good().root.sign(&Key::p256(1));
    let endorsement = endorsement(ek, &[], AkPublic::GOOD.marshal());
    endorsement
        .verify(&[&root], NOW)
        .unwrap()
        .challenge(&RANDOM)
}

const fn refused(at: Place, source: X509Error) -> EndorsementError {
    EndorsementError::Certificate { at, source }
}

#[test]
fn a_tpm_that_answers_its_challenge_is_verified() {
    let challenge = challenge();
    let attest = Attest::good(&DATA);
    let evidence = attest.answer(challenge.credential());
    let verified = challenge.verify(&evidence, &DATA).unwrap();
    assert_eq!(verified.pcrs(), &[Digest256::from_bytes([0x5a; 32]); 16]);
}

#[test]
fn a_tpm_speaks_for_no_gpu() {
    let policy = Policy::Vtpm(VtpmPolicy {
        anchors: Vec::new(),
        builds: vec![VtpmBuild {
            name: "good".into(),
            pcrs: [Digest256::from_bytes([0x5a; 32]); 16],
        }],
    });
    let (head, _) = batch::tree(&[]);
    let judge = |gpus: Vec<GpuEvidence>, gpu_mode: Option<GpuMode>| {
        let state = State {
            boot_seed: [0; 32],
            event_log: *Digest384::of(&[]).as_bytes(),
            gpu_mode,
            keyset: [0; 32],
        };
        let challenge = challenge();
        let data = evidence::report_data(&head, &gpus, &state);
        let quote = Attest::good(&data).answer(challenge.credential());
        let shown = evidence::Evidence {
            platform: PlatformEvidence::Vtpm(Box::new(quote)),
            gpus,
            gpu_collateral: GpuCollateral::default(),
            state,
            event_log: Vec::new(),
        };
        policy.judge(&shown, &head, Some(challenge), NOW)
    };
    judge(Vec::new(), None).unwrap();
    let gpu = GpuEvidence {
        report: Vec::new(),
        chain: Vec::new(),
    };
    let rejection = judge(vec![gpu], Some(GpuMode::SERVING)).unwrap_err();
    assert_eq!(rejection.to_string(), "gpus: expected 0, found 1");
}

#[test]
fn the_same_randomness_makes_the_same_challenge_and_another_does_not() {
    let first = challenge();
    assert_eq!(first.credential(), challenge().credential());
    let ek = Parts::good().ek.sign(&Key::p256(1));
    let root = Parts::good().root.sign(&Key::p256(1));
    let endorsement = endorsement(ek, &[], AkPublic::GOOD.marshal());
    for random in [
        Randomness {
            secret: [9; 32],
            ..RANDOM
        },
        Randomness {
            seed: [9; 32],
            ..RANDOM
        },
        Randomness {
            padding: [9; 32],
            ..RANDOM
        },
    ] {
        let endorsed = endorsement.verify(&[&root], NOW).unwrap();
        assert_ne!(first.credential(), endorsed.challenge(&random).credential());
    }
}

#[test]
fn certificates_of_every_accepted_algorithm_hold() {
    for issuer in [
        Key::rsa(KeySize::Rsa2048, SHA384_RSA),
        Key::rsa(KeySize::Rsa3072, SHA256_RSA),
        Key::rsa(KeySize::Rsa4096, SHA256_RSA),
        Key::p256(1),
        Key::p384(1),
    ] {
        let ek = Parts::good().ek.sign(&issuer);
        let root = Certificate::authority("root", &issuer, None).sign(&issuer);
        assert_eq!(verify_chain(ek, &[], &[root]), Ok(()));
    }
}

#[test]
fn a_chain_holds_in_order_only() {
    let (root, upper, lower) = (Key::p384(1), Key::p256(2), Key::p256(3));
    let root_certificate = Certificate::authority("root", &root, Some(2)).sign(&root);
    let upper_certificate = Certificate::authority("upper", &upper, Some(1)).sign(&root);
    let lower_certificate = Certificate {
        issuer: "upper",
        ..Certificate::authority("lower", &lower, Some(0))
    };
    let lower_certificate = lower_certificate.sign(&upper);
    let ek = Certificate {
        issuer: "lower",
        ..Parts::good().ek
    };
    let ek = ek.sign(&lower);
    let chain = [lower_certificate, upper_certificate];
    let verify = |chain: &[Vec<u8>]| {
        verify_chain(ek.clone(), chain, std::slice::from_ref(&root_certificate))
    };
    assert_eq!(verify(&chain), Ok(()));
    let at = Place::Intermediate(0);
    assert_eq!(verify(&chain[..1]), Err(EndorsementError::NoAnchor { at }));
    let reversed = [chain[1].clone(), chain[0].clone()];
    let at = Place::Endorsement;
    assert_eq!(
        verify(&reversed),
        Err(EndorsementError::NotItsIssuer { at })
    );
    let long = vec![chain[0].clone(); 5];
    assert_eq!(
        verify(&long),
        Err(EndorsementError::ChainTooLong { len: 5 })
    );
    let anchored_above = verify_chain(ek.clone(), &chain[..1], &chain[1..]);
    assert_eq!(anchored_above, Ok(()), "any authority may be the anchor");
}

#[test]
fn an_intermediate_must_have_signed_and_must_have_been_allowed_to() {
    let (root, lower, other) = (Key::p256(1), Key::p256(3), Key::p256(4));
    let ek = Certificate {
        issuer: "lower",
        ..Parts::good().ek
    };
    let verify = |ek: Vec<u8>, lower: &Certificate, root_path: Option<u8>| {
        let anchor = Certificate::authority("root", &root, root_path).sign(&root);
        verify_chain(ek, &[lower.sign(&root)], &[anchor])
    };
    let good = Certificate::authority("lower", &lower, Some(0));
    assert_eq!(verify(ek.sign(&lower), &good, Some(1)), Ok(()));
    assert_eq!(
        verify(ek.sign(&other), &good, Some(1)),
        Err(refused(Place::Endorsement, X509Error::Signature)),
    );
    let at = Place::Anchor;
    assert_eq!(
        verify(ek.sign(&lower), &good, Some(0)),
        Err(EndorsementError::NotAnAuthority { at }),
    );
    let (mut no_word, mut no_ca, mut no_signing) = (good.clone(), good.clone(), good.clone());
    no_word.extensions.remove(0);
    no_ca.extensions[0] = Parts::good().ek.extensions[0].clone();
    no_signing.extensions[1] = der::key_usage(0x20);
    let at = Place::Intermediate(0);
    for lower_certificate in [no_word, no_ca, no_signing] {
        assert_eq!(
            verify(ek.sign(&lower), &lower_certificate, Some(1)),
            Err(EndorsementError::NotAnAuthority { at }),
        );
    }
}

#[test]
fn only_the_callers_anchors_count() {
    let ek = || Parts::good().ek.sign(&Key::p256(1));
    let at = Place::Endorsement;
    let none = Err(EndorsementError::NoAnchor { at });
    assert_eq!(verify_chain(ek(), &[], &[]), none);
    let impostor = Certificate::authority("root", &Key::p256(2), None).sign(&Key::p256(2));
    assert_eq!(
        verify_chain(ek(), &[], std::slice::from_ref(&impostor)),
        none
    );
    let other_curve = Certificate::authority("root", &Key::p384(1), None).sign(&Key::p384(1));
    assert_eq!(verify_chain(ek(), &[], &[other_curve]), none);
    let genuine = Certificate::authority("root", &Key::p256(1), None).sign(&Key::p256(1));
    assert_eq!(verify_chain(ek(), &[], &[impostor, genuine]), Ok(()));
}

#[test]
fn an_rsa_signature_must_be_exactly_that_of_the_issuer() {
    let issuer = Key::endorsement();
    let root = Certificate::authority("root", issuer, None).sign(issuer);
    let ek = Parts::good().ek.sign(issuer);
    assert_eq!(
        verify_chain(ek.clone(), &[], std::slice::from_ref(&root)),
        Ok(())
    );
    let at = Place::Endorsement;
    for offset in [1, 100, 256] {
        let mut forged = ek.clone();
        let byte = forged.len() - offset;
        forged[byte] ^= 1;
        assert_eq!(
            verify_chain(forged, &[], std::slice::from_ref(&root)),
            Err(EndorsementError::NoAnchor { at }),
        );
    }
    let other_hash = Parts::good().ek.sign_saying(issuer, SHA384_RSA, SHA384_RSA);
    assert_eq!(
        verify_chain(other_hash, &[], &[root]),
        Err(EndorsementError::NoAnchor { at }),
    );
}

/// One thing wrong, and its one error.
type Row<T, E> = (fn(&mut T), E);

#[test]
fn each_fault_of_an_endorsement_has_its_error() {
    assert_eq!(Parts::good().verify(), Ok(()));
    let ek = |source| refused(Place::Endorsement, source);
    let rows: &[Row<Parts, EndorsementError>] = &[
        (|parts| parts.ek.version = 0, ek(X509Error::Version)),
        (
            |parts| parts.now = UnixTime(1_700_000_000),
            ek(X509Error::Validity(OutsideWindow::Early {
                at: UnixTime(1_700_000_000),
                from: UnixTime(1_767_225_600),
            })),
        ),
        (
            |parts| parts.ek.until = "260201000000Z",
            ek(X509Error::Validity(OutsideWindow::Late {
                at: NOW,
                until: UnixTime(1_769_904_000),
            })),
        ),
        (
            |parts| parts.root.until = "260201000000Z",
            refused(
                Place::Anchor,
                X509Error::Validity(OutsideWindow::Late {
                    at: NOW,
                    until: UnixTime(1_769_904_000),
                }),
            ),
        ),
        (
            |parts| parts.ek.until = "20260231000000Z",
            ek(X509Error::Der(DerError::Value { field: "time" })),
        ),
        (
            |parts| {
                parts
                    .ek
                    .extensions
                    .push(der::extension(b"\x55\x1d\x1e", true, &[5, 0]))
            },
            ek(X509Error::CriticalExtension),
        ),
        (
            |parts| parts.ek.extensions.push(der::key_usage(0x20)),
            ek(X509Error::RepeatedExtension),
        ),
        (
            |parts| {
                parts.ek.extensions[0] =
                    Certificate::authority("", &Key::p256(1), None).extensions[0].clone()
            },
            EndorsementError::Authority,
        ),
        (
            |parts| parts.ek.extensions[1] = der::key_usage(0x24),
            EndorsementError::KeyUsage { found: Some(0x24) },
        ),
        (
            |parts| drop(parts.ek.extensions.remove(1)),
            EndorsementError::KeyUsage { found: None },
        ),
        (
            |parts| parts.ek.extensions[2] = der::purpose(b"\x67\x81\x05\x08\x03"),
            EndorsementError::Purpose,
        ),
        (
            |parts| drop(parts.ek.extensions.remove(2)),
            EndorsementError::Purpose,
        ),
        (
            |parts| parts.ek.extensions[3] = der::tpm_name(&[2, 3]),
            EndorsementError::NoTpm,
        ),
        (
            |parts| parts.ek.extensions[3] = der::tpm_name(&[1, 3]),
            EndorsementError::NoTpm,
        ),
        (
            |parts| parts.ek.extensions[3] = der::tpm_name(&[1, 2]),
            EndorsementError::NoTpm,
        ),
        (
            |parts| drop(parts.ek.extensions.remove(3)),
            EndorsementError::NoTpm,
        ),
        (
            |parts| parts.ek.spki = Key::p256(1).spki(),
            EndorsementError::Key,
        ),
        (
            |parts| parts.ek.spki = Key::rsa(KeySize::Rsa3072, SHA256_RSA).spki(),
            EndorsementError::Key,
        ),
        (
            // The last byte of the exponent 65537.
            |parts| *parts.ek.spki.last_mut().unwrap() = 3,
            ek(X509Error::Key),
        ),
        (|parts| parts.ek.spki[9] ^= 1, ek(X509Error::Key)),
        (
            |parts| parts.ek.issuer = "nobody",
            EndorsementError::NoAnchor {
                at: Place::Endorsement,
            },
        ),
    ];
    for (index, (spoil, error)) in rows.iter().enumerate() {
        let mut parts = Parts::good();
        spoil(&mut parts);
        assert_eq!(parts.verify().as_ref(), Err(error), "row {index}");
    }
}

#[test]
fn a_tpm_may_have_other_names_too() {
    let mut parts = Parts::good();
    parts.ek.extensions[3] = der::names(&[der::tpm_names(&[1, 2]), der::DNS_NAME.to_vec()]);
    assert_eq!(parts.verify(), Err(EndorsementError::NoTpm));
    parts.ek.extensions[3] = der::names(&[
        der::DNS_NAME.to_vec(),
        der::tpm_names(&[1, 2]),
        der::tpm_names(&[3]),
    ]);
    assert_eq!(parts.verify(), Ok(()));
}

#[test]
fn each_fault_of_an_attestation_key_has_its_error() {
    let field = |field, found, expected| KeyError::Field {
        field,
        found,
        expected,
    };
    let rows: &[Row<AkPublic, KeyError>] = &[
        (|ak| ak.kind = 1, field("type", 1, 0x23)),
        (|ak| ak.name_alg = 0xc, field("nameAlg", 0xc, 0xb)),
        (|ak| ak.symmetric = 6, field("symmetric", 6, 0x10)),
        (|ak| ak.scheme = 0x10, field("scheme", 0x10, 0x18)),
        (|ak| ak.hash = 0xc, field("scheme hash", 0xc, 0xb)),
        (|ak| ak.curve = 4, field("curveID", 4, 3)),
        (|ak| ak.kdf = 7, field("kdf", 7, 0x10)),
    ];
    for (spoil, error) in rows {
        let mut parts = Parts::good();
        spoil(&mut parts.ak);
        let error = EndorsementError::AttestationKey(error.clone());
        assert_eq!(parts.verify(), Err(error));
    }
    // fixedTPM, fixedParent, sensitiveDataOrigin, restricted, decrypt, sign.
    for bit in [1, 4, 5, 16, 17, 18] {
        let mut parts = Parts::good();
        parts.ak.attributes ^= 1 << bit;
        let error = KeyError::Attributes {
            found: parts.ak.attributes,
        };
        let error = EndorsementError::AttestationKey(error);
        assert_eq!(parts.verify(), Err(error));
    }
}

#[test]
fn an_attestation_key_is_read_to_its_last_byte() {
    let ek = Parts::good().ek.sign(&Key::p256(1));
    let root = Parts::good().root.sign(&Key::p256(1));
    let good = AkPublic::GOOD.marshal();
    let error = |ak_public: &[u8]| {
        let endorsement = endorsement(ek.clone(), &[], ak_public.to_vec());
        match endorsement.verify(&[&root], NOW).unwrap_err() {
            EndorsementError::AttestationKey(error) => error,
            error => panic!("{error}"),
        }
    };
    for cut in 0..good.len() {
        assert!(
            matches!(error(&good[..cut]), KeyError::Truncated(_)),
            "{cut}"
        );
    }
    let longer = [&good[..], &[0]].concat();
    assert_eq!(error(&longer), KeyError::Trailing { left: 1 });
    let y = good.len() - 34;
    let wide = [&good[..y], &[0, 33], &[0; 33]].concat();
    assert_eq!(error(&wide), KeyError::Parameter { size: 33 });
}

#[test]
fn certificates_are_read_to_their_last_byte() {
    let good = Parts::good().ek.sign(&Key::p256(1));
    let root = Parts::good().root.sign(&Key::p256(1));
    let verify = |ek: &[u8]| verify_chain(ek.to_vec(), &[], std::slice::from_ref(&root));
    for cut in 0..good.len() {
        let Err(EndorsementError::Certificate { source, .. }) = verify(&good[..cut]) else {
            panic!("cut at {cut}");
        };
        assert!(matches!(source, X509Error::Der(_)), "cut at {cut}");
    }
    let trailing = DerError::Trailing {
        field: "certificate",
        left: 1,
    };
    assert_eq!(
        verify(&[&good[..], &[0]].concat()),
        Err(refused(Place::Endorsement, X509Error::Der(trailing))),
    );
}

#[test]
fn the_signature_algorithm_is_one_we_know_and_said_twice() {
    let key = Key::endorsement();
    let root = Certificate::authority("root", key, None).sign(key);
    let ek = Parts::good().ek;
    let verify = |inside, outside| {
        let ek = ek.sign_saying(key, inside, outside);
        verify_chain(ek, &[], std::slice::from_ref(&root))
    };
    assert_eq!(verify(SHA256_RSA, SHA256_RSA), Ok(()));
    assert_eq!(
        verify(SHA256_RSA, SHA384_RSA),
        Err(refused(Place::Endorsement, X509Error::AlgorithmCopies)),
    );
    assert_eq!(
        verify(SHA1_RSA, SHA1_RSA),
        Err(refused(Place::Endorsement, X509Error::Algorithm)),
    );
}

#[test]
fn each_fault_of_a_quote_has_its_error() {
    let bank = |banks, bank| AttestError::Bank { banks, bank };
    let rows: &[Row<Attest, AttestError>] = &[
        (|attest| attest.magic = 0, AttestError::Magic { found: 0 }),
        (
            |attest| attest.kind = 0x8017,
            AttestError::Type { found: 0x8017 },
        ),
        (|attest| attest.extra_data[0] ^= 1, AttestError::ExtraData),
        (
            |attest| attest.extra_data.truncate(63),
            AttestError::ExtraData,
        ),
        (|attest| attest.banks = 2, bank(2, 0xb)),
        (|attest| attest.banks = 0, bank(0, 0xb)),
        (|attest| attest.bank = 0x4, bank(1, 0x4)),
        (
            |attest| attest.selection = vec![0xff, 0xfe, 0],
            AttestError::Selection,
        ),
        (
            |attest| attest.selection = vec![0xff, 0xff, 1],
            AttestError::Selection,
        ),
        (|attest| attest.selection = vec![], AttestError::Selection),
        (
            |attest| attest.trailing = vec![0],
            AttestError::Trailing { left: 1 },
        ),
    ];
    for (spoil, error) in rows {
        let (challenge, mut attest) = (challenge(), Attest::good(&DATA));
        spoil(&mut attest);
        let evidence = attest.answer(challenge.credential());
        assert_eq!(
            challenge.verify(&evidence, &DATA),
            Err(EvidenceError::Attest(error.clone())),
        );
    }
}

#[test]
fn each_fault_of_an_answer_has_its_error() {
    let field = |field, found, expected| KeyError::Field {
        field,
        found,
        expected,
    };
    let signature = |error| EvidenceError::Signature(error);
    let rows: &[Row<Evidence, EvidenceError>] = &[
        (|evidence| evidence.secret[31] ^= 1, EvidenceError::Secret),
        (
            |evidence| evidence.pcrs[511] ^= 1,
            EvidenceError::Attest(AttestError::PcrDigest),
        ),
        (
            |evidence| evidence.attest[5] ^= 1,
            signature(KeyError::Signature),
        ),
        (
            |evidence| *evidence.signature.last_mut().unwrap() ^= 1,
            signature(KeyError::Signature),
        ),
        (
            |evidence| evidence.signature = paper_tpm::sign(b"another message"),
            signature(KeyError::Signature),
        ),
        (
            |evidence| evidence.signature[1] = 0x14,
            signature(field("sigAlg", 0x14, 0x18)),
        ),
        (
            |evidence| evidence.signature[3] = 0x0c,
            signature(field("signature hash", 0x0c, 0x0b)),
        ),
        (
            |evidence| evidence.signature.push(0),
            signature(KeyError::Trailing { left: 1 }),
        ),
    ];
    for (spoil, error) in rows {
        let challenge = challenge();
        let mut evidence = Attest::good(&DATA).answer(challenge.credential());
        spoil(&mut evidence);
        assert_eq!(challenge.verify(&evidence, &DATA), Err(error.clone()));
    }
}

#[test]
fn every_proper_prefix_of_a_signed_structure_is_refused() {
    let attest = Attest::good(&DATA).marshal();
    for cut in 0..attest.len() {
        let challenge = challenge();
        let mut evidence = Attest::good(&DATA).answer(challenge.credential());
        evidence.attest.truncate(cut);
        evidence.signature = paper_tpm::sign(&evidence.attest);
        let error = challenge.verify(&evidence, &DATA).unwrap_err();
        let EvidenceError::Attest(AttestError::Truncated(_)) = error else {
            panic!("cut at {cut}: {error:?}");
        };
    }
}

#[test]
fn messages_survive_the_wire() {
    let challenge = challenge();
    let credential = challenge.credential();
    let bytes = cbor::encode(credential);
    assert_eq!(cbor::decode::<Credential>(&bytes).as_ref(), Ok(credential));
    let evidence = Attest::good(&DATA).answer(credential);
    let bytes = cbor::encode(&evidence);
    assert_eq!(cbor::decode::<Evidence>(&bytes), Ok(evidence));
    let chain = [vec![1], vec![2, 3]];
    let endorsement = endorsement(vec![4], &chain, vec![5]);
    let bytes = cbor::encode(&endorsement);
    assert_eq!(cbor::decode::<Endorsement>(&bytes), Ok(endorsement));
}

proptest! {
    #[test]
    fn arbitrary_structures_never_panic(bytes: Vec<u8>, at in 0_usize..600, byte: u8) {
        let root = Parts::good().root.sign(&Key::p256(1));
        let verify = |ek: Vec<u8>, chain: &[Vec<u8>]| {
            endorsement(ek, chain, bytes.clone()).verify(&[&root], NOW).is_err()
        };
        let mut ek = Parts::good().ek.sign(&Key::p256(1));
        prop_assert!(verify(ek.clone(), &[]));
        prop_assert!(verify(ek.clone(), std::slice::from_ref(&bytes)));
        if let Some(target) = ek.get_mut(at) {
            *target = byte;
        }
        prop_assert!(verify(ek, &[]));
    }
}
