//! One thing wrong at a time in a quote, each with the one reason that it must give.
//!
//! Every fault is signed by whoever has to sign it. A check of the verifier that
//! has no row here does not exist.

#![allow(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "helpers of tests are tests"
)]

#[macro_use]
mod paper_td;

use attestation::tdx::Quote;

use paper_td::Paper;
use paper_td::der::{integer, octets, sequence, tlv};
use paper_td::judge::{check, judge, policy};
use paper_td::pki::{self, Certificate, Key, extension, pem};

#[test]
fn a_good_paper_is_trusted_in_every_version() {
    for paper in [Paper::good(), Paper::td15(), Paper::td15_ex()] {
        assert_eq!(judge(&paper.build(), &policy()), Ok(()));
    }
}

#[test]
fn each_fault_of_a_quote_gives_its_reason() {
    check(faults! {
        "quote-version": "version 3" => |paper| paper.header[0] = 3;
        "quote-version": "version 6" => |paper| paper.header[0] = 6;
        "quote-key-type": "P-384" => |paper| paper.header[2] = 3;
        "quote-tee-type": "SGX" => |paper| paper.header[4] = 0;
        "quote-tee-type": "SGX with its body" => |paper| {
            paper.header[4] = 0;
            paper.body.truncate(384);
        };
        "quote-truncated": "TDX with the body of SGX" => |paper| paper.body.truncate(384);
        "quote-vendor": "vendor" => |paper| paper.header[27] ^= 1;
        "quote-body-type": "type of SGX" => |paper| v5(paper, 1, 384);
        "quote-body-type": "type 5" => |paper| v5(paper, 5, 885);
        "quote-body-size": "size" => |paper| v5(paper, 2, 585);
        "quote-body-size": "size of type 2" => |paper| v5(paper, 3, 584);
        "quote-certification-type": "outer type" => |paper| paper.certification_types[0] = 5;
        "quote-certification-type": "inner type" => |paper| paper.certification_types[1] = 3;
        "quote-signature": "signer" => |paper| paper.quote_key = Key::STRANGER;
    });
}

fn v5(paper: &mut Paper, body_type: u8, size: u32) {
    paper.header[0] = 5;
    paper.header.extend([body_type, 0]);
    paper.header.extend(size.to_le_bytes());
}

#[test]
fn each_wrong_length_in_a_quote_gives_its_reason() {
    let good = Paper::good().build().quote;
    let (data, certification, auth) = (632, 766, 1218);
    let chain = auth + 2 + 32 + 2;
    for (what, offset, change, expected) in [
        ("signature data, more", data, 1, "quote-truncated"),
        ("signature data, less", data, -1, "quote-trailing"),
        ("signature data, most", data, i32::MAX, "quote-truncated"),
        (
            "certification data, more",
            certification,
            1,
            "quote-truncated",
        ),
        (
            "certification data, less",
            certification,
            -1,
            "quote-trailing",
        ),
        ("chain, more", chain, 1, "quote-truncated"),
        ("chain, less", chain, -1, "quote-trailing"),
    ] {
        let mut quote = good.clone();
        let field: &mut [u8; 4] = (&mut quote[offset..offset + 4]).try_into().unwrap();
        *field = i32::from_le_bytes(*field)
            .wrapping_add(change)
            .to_le_bytes();
        let error = Quote::parse(&quote).unwrap_err();
        assert_eq!(error.code(), expected, "{what}: {error}");
    }
    let mut quote = good.clone();
    quote[auth] += 1;
    assert!(
        Quote::parse(&quote).is_err(),
        "QE authentication data, more"
    );
    quote[auth] -= 2;
    assert!(
        Quote::parse(&quote).is_err(),
        "QE authentication data, less"
    );
}

#[test]
fn each_fault_of_the_quoting_enclave_gives_its_reason() {
    check(faults! {
        "qe-report-signature": "signer" => |paper| paper.qe_report_key = Key::STRANGER;
        "attestation-key": "key" => |paper| paper.qe_report[320] = 1;
        "attestation-key": "upper half" => |paper| paper.qe_report[383] = 1;
        "qe-report-reserved": "reserved 1" => |paper| paper.qe_report[20] = 1;
        "qe-report-reserved": "reserved 2" => |paper| paper.qe_report[127] = 1;
        "qe-report-reserved": "reserved 3" => |paper| paper.qe_report[160] = 1;
        "qe-report-reserved": "reserved 4" => |paper| paper.qe_report[319] = 1;
        "qe-miscselect": "miscselect" => |paper| paper.qe_report[16] = 1;
        "qe-attributes": "debug" => |paper| paper.qe_report[48] |= 2;
        "qe-mrsigner": "mrsigner" => |paper| paper.qe_report[128] ^= 1;
        "qe-isvprodid": "SGX's enclave" => |paper| paper.qe_report[256] = 1;
        "qe-level": "below all" => |paper| paper.qe_report[258] = 1;
        "tcb-status": "out of date" => |paper| paper.qe_report[258] = 3;
        "qe-isvprodid": "other identity" => |paper| paper.qe_identity["isvprodid"] = 1.into();
        "tcb-status": "revoked" => |paper| qe_level(paper)["tcbStatus"] = "Revoked".into();
    });
}

fn qe_level(paper: &mut Paper) -> &mut serde_json::Value {
    &mut paper.qe_identity["tcbLevels"][0]
}

#[test]
fn authentication_data_may_have_any_length() {
    for len in [0, 1, 64, 1000] {
        let mut paper = Paper::good();
        paper.qe_auth = vec![7; len];
        assert_eq!(judge(&paper.build(), &policy()), Ok(()), "{len}");
    }
}

#[test]
fn each_fault_of_a_pck_certificate_gives_its_reason() {
    check(faults! {
        "pck-malformed": "version 1" => |paper| paper.pck.version = 0;
        "pck-malformed": "no serial" => |paper| paper.pck.serial = vec![0];
        "pck-malformed": "negative" => |paper| paper.pck.serial = vec![0x80];
        "pck-malformed": "long serial" => |paper| paper.pck.serial = vec![1; 21];
        "pck-malformed": "no time" => |paper| paper.pck.from = "20201301000000Z";
        "pck-malformed": "curve" => |paper| paper.pck.curve = pki::SECP384R1;
        "pck-malformed": "critical" => |paper| add(paper, pki::SUBJECT_KEY_ID, true);
        "pck-malformed": "twice" => |paper| add(paper, pki::KEY_USAGE, true);
        "pck-name": "other role" => |paper| paper.pck.subject = "Intel SGX TCB Signing";
        "pck-usage": "an authority" => |paper| paper.pck.extensions[..2].clone_from_slice(&pki::authority());
        "pck-usage": "no usage" => |paper| drop(paper.pck.extensions.remove(1));
        "pck-issuer": "issuer" => |paper| paper.pck.issuer = "Intel SGX PCK Processor CA";
        "pck-signature": "signer" => |paper| paper.pck.signer = Key::STRANGER;
        "pck-signature": "root's" => |paper| paper.pck.signer = Key::ROOT;
        "pck-not-yet-valid": "early" => |paper| paper.pck.from = "20270201000000Z";
        "pck-expired": "late" => |paper| paper.pck.until = "20270114000000Z";
        "pck-revoked": "revoked" => |paper| paper.pck.serial = vec![0x60];
        "pck-malformed": "no extension" => |paper| paper.pck.extensions.truncate(2);
        "pck-malformed": "no PPID" => |paper| without(paper, 0);
        "pck-malformed": "no TCB" => |paper| without(paper, 1);
        "pck-malformed": "no PCEID" => |paper| without(paper, 2);
        "pck-malformed": "no FMSPC" => |paper| without(paper, 3);
        "pck-malformed": "algorithm inside" => |paper| paper.pck.algorithm = pki::ECDSA_WITH_SHA384;
        "pck-malformed": "usage twice" => |paper| paper.pck.extensions.push(pki::signer_only().remove(1));
        "pck-malformed": "two names" => |paper| paper.pck.subject = "Intel/Intel SGX PCK Certificate";
        "pck-usage": "an authority that signs data" => |paper| paper.pck.extensions[0] = pki::authority().remove(0);
        "pck-malformed": "two values" => |paper| field(paper, 0, &[1], [octets(&[0; 16]), octets(&[])].concat());
        "pck-malformed": "no SGX type" => |paper| without(paper, 4);
        "pck-malformed": "wide PPID" => |paper| field(paper, 0, &[1], octets(&[0; 17]));
        "pck-malformed": "wide FMSPC" => |paper| field(paper, 3, &[4], octets(&[0; 7]));
        "pck-malformed": "unknown SGX type" => |paper| field(paper, 4, &[5], tlv(0x0a, &[3]));
        "pck-malformed": "SGX type" => |paper| field(paper, 4, &[5], integer(&[1]));
        "pck-malformed": "setup" => |paper| field(paper, 6, &[7], sequence(&[]));
        "pck-malformed": "flag" => |paper| field(paper, 6, &[7], odd_flag());
        "pck-malformed": "unknown field" => |paper| field(paper, 6, &[8], octets(&[]));
    });
}

fn add(paper: &mut Paper, id: &[u8], critical: bool) {
    paper.pck.extensions.push(extension(id, critical, &[5, 0]));
}

fn without(paper: &mut Paper, index: usize) {
    let mut fields = pki::sgx_fields();
    fields.remove(index);
    paper.pck.extensions[2] = pki::sgx_extension(&fields);
}

fn field(paper: &mut Paper, index: usize, ending: &[u8], value: Vec<u8>) {
    let mut fields = pki::sgx_fields();
    fields[index] = pki::field(ending, value);
    paper.pck.extensions[2] = pki::sgx_extension(&fields);
}

/// The configuration with a boolean that is neither.
fn odd_flag() -> Vec<u8> {
    let mut setup = pki::setup([true, true, true]);
    *setup.last_mut().unwrap() = 1;
    setup
}

#[test]
fn each_fault_of_a_chain_in_a_quote_gives_its_reason() {
    let [leaf, ca, root] = {
        let paper = Paper::good();
        [paper.pck.sign(), paper.ca.sign(), paper.root.sign()]
    };
    let other_ca = Certificate {
        until: "20410101000000Z",
        ..Certificate::platform_ca()
    };
    let other_root = Certificate {
        until: "20410101000000Z",
        ..Certificate::root()
    };
    let good = pem(&[leaf.clone(), ca.clone(), root.clone()]);
    for (what, chain, expected) in [
        ("empty", String::new(), "pck-chain-malformed"),
        (
            "no root",
            pem(&[leaf.clone(), ca.clone()]),
            "pck-chain-malformed",
        ),
        ("text after it", good.clone() + "x", "pck-chain-malformed"),
        (
            "text before it",
            format!("x\n{good}"),
            "pck-chain-malformed",
        ),
        ("not base64", good.replace('M', "!"), "pck-chain-malformed"),
        (
            "not DER",
            pem(&[vec![0; 9], ca.clone(), root.clone()]),
            "pck-malformed",
        ),
        (
            "reversed",
            pem(&[root.clone(), ca.clone(), leaf.clone()]),
            "pck-ca-other",
        ),
        (
            "another certificate of the CA",
            pem(&[leaf.clone(), other_ca.sign(), root.clone()]),
            "pck-ca-other",
        ),
        (
            "another certificate of the root",
            pem(&[leaf.clone(), ca.clone(), other_root.sign()]),
            "pck-ca-other",
        ),
        (
            "the CA as its own platform",
            pem(&[ca.clone(), ca.clone(), root.clone()]),
            "pck-name",
        ),
    ] {
        let paper = Paper {
            quote_chain: Some(chain),
            ..Paper::good()
        };
        let found = judge(&paper.build(), &policy());
        assert_eq!(found, Err(expected.into()), "{what}");
    }
    let padded = Paper {
        quote_chain: Some(good + "\n\0\0"),
        ..Paper::good()
    };
    assert_eq!(judge(&padded.build(), &policy()), Ok(()));
}
