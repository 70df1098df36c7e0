//! Certificates, revocation lists and their text: every cut and every byte.

#![allow(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "helpers of tests are tests"
)]

mod paper_td;

use attestation::certificate::Certificate;
use attestation::crl::Crl;
use attestation::pem;
use proptest::prelude::*;

use paper_td::Paper;
use paper_td::der::{overfull, sequence};
use paper_td::judge::{judge, policy};
use paper_td::pki::{self, extension};

#[test]
fn every_proper_prefix_and_every_extension_of_a_certificate_is_refused() {
    let paper = Paper::good();
    for der in [paper.root.sign(), paper.ca.sign(), paper.pck.sign()] {
        assert!(Certificate::parse(&der).is_ok());
        for cut in 0..der.len() {
            assert!(Certificate::parse(&der[..cut]).is_err(), "{cut}");
        }
        assert!(Certificate::parse(&[&der[..], &[0]].concat()).is_err());
    }
}

#[test]
fn every_proper_prefix_and_every_extension_of_a_list_is_refused() {
    let der = Paper::good().pck_crl.sign();
    assert!(Crl::parse(&der).is_ok());
    for cut in 0..der.len() {
        assert!(Crl::parse(&der[..cut]).is_err(), "{cut}");
    }
    assert!(Crl::parse(&[&der[..], &[0]].concat()).is_err());
}

#[test]
fn no_part_of_a_certificate_or_list_may_have_more_than_its_fields() {
    let paper = Paper::good();
    // The issuer's name, of five parts, is not read but compared as it is.
    let read = |der: &Vec<u8>| {
        let certificate = Certificate::parse(der);
        certificate.and_then(|certificate| certificate.common_name().map(String::from))
    };
    let variants = overfull(&paper.pck.sign());
    assert_eq!(variants.iter().filter(|der| read(der).is_ok()).count(), 5);
    assert!(variants.len() > 20);
    let variants = overfull(&paper.pck_crl.sign());
    assert_eq!(
        variants
            .iter()
            .filter(|der| Crl::parse(der).is_ok())
            .count(),
        5
    );
    assert!(variants.len() > 10);
}

#[test]
fn no_part_of_an_extension_may_have_more_than_its_fields() {
    for (index, id, value) in [
        (0, pki::BASIC_CONSTRAINTS, sequence(&[])),
        (2, pki::SGX, sequence(&pki::sgx_fields())),
    ] {
        for value in overfull(&value) {
            let mut paper = Paper::good();
            paper.pck.extensions[index] = extension(id, false, &value);
            let found = judge(&paper.build(), &policy());
            assert_eq!(found, Err("pck-malformed".into()));
        }
        let mut paper = Paper::good();
        let value = [value, vec![5, 0]].concat();
        paper.pck.extensions[index] = extension(id, false, &value);
        let found = judge(&paper.build(), &policy());
        assert_eq!(found, Err("pck-malformed".into()));
    }
}

#[test]
fn a_point_is_written_uncompressed() {
    let paper = Paper::good();
    let der = paper.pck.sign();
    let x = &paper.pck.key.coordinates()[..32];
    let at = der.windows(32).position(|window| window == x).unwrap();
    for form in [0, 2, 3, 5, 6] {
        let mut der = der.clone();
        der[at - 1] = form;
        assert!(Certificate::parse(&der).is_err(), "{form}");
    }
}

#[test]
fn every_proper_prefix_of_a_chain_is_refused_but_for_its_line_end() {
    let built = Paper::good().build();
    let text = built.tcb_chain.as_bytes();
    for cut in 0..text.len() - 1 {
        assert!(pem::certificates::<2>(&text[..cut]).is_err(), "{cut}");
    }
    assert!(pem::certificates::<2>(&text[..text.len() - 1]).is_ok());
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn a_changed_certificate_or_list_never_panics(
        at in 0..600_usize,
        bytes in prop::collection::vec(any::<u8>(), 1..8),
    ) {
        let paper = Paper::good();
        for mut der in [paper.pck.sign(), paper.pck_crl.sign()] {
            let stretch = der.iter_mut().skip(at).zip(&bytes);
            stretch.for_each(|(old, new)| *old = *new);
            if let Ok(certificate) = Certificate::parse(&der) {
                certificate.common_name().ok();
                certificate.extension(&[0x2a]).ok();
            }
            Crl::parse(&der).ok();
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes: Vec<u8>) {
        prop_assert!(Certificate::parse(&bytes).is_err());
        prop_assert!(Crl::parse(&bytes).is_err());
    }
}
