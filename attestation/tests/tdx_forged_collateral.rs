//! One thing wrong at a time in collateral, each with the one reason that it must give.
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

use attestation::tdx::{Collateral, PlatformCache, Quote, verify, verify_cached};
use attestation::time::UnixTime;
use serde_json::{Value, json};

use paper_td::judge::{anchor, check, judge, policy};
use paper_td::pki::{self, Certificate, Key, extension, pem};
use paper_td::{AT, Built, Paper, SEAMATTRIBUTES};

#[test]
fn each_fault_of_an_authority_gives_its_reason() {
    check(faults! {
        "pck-ca-name": "CA name" => |paper| rename(paper, "Intel SGX PCK Other CA");
        "pck-ca-usage": "CA no authority" => |paper| paper.ca.extensions = pki::signer_only();
        "pck-ca-usage": "CA that is none" => |paper| paper.ca.extensions[0] = pki::signer_only().remove(0);
        "pck-ca-usage": "CA no CRLs" => |paper| drop(paper.ca.extensions.remove(1));
        "pck-ca-issuer": "CA issuer" => |paper| paper.ca.issuer = "Intel";
        "pck-ca-signature": "CA signer" => |paper| paper.ca.signer = Key::STRANGER;
        "pck-ca-not-yet-valid": "CA early" => |paper| paper.ca.from = "20270201000000Z";
        "pck-ca-expired": "CA late" => |paper| paper.ca.until = "20270114000000Z";
        "pck-ca-revoked": "CA revoked" => |paper| paper.ca.serial = vec![0x60];
        "pck-ca-malformed": "CA malformed" => |paper| paper.ca.version = 1;
        "tcb-signing-name": "TCB name" => |paper| paper.tcb_signing.subject = "Intel SGX";
        "tcb-signing-usage": "TCB usage" => |paper| paper.tcb_signing.extensions = pki::authority();
        "tcb-signing-issuer": "TCB issuer" => |paper| paper.tcb_signing.issuer = "Intel";
        "tcb-signing-signature": "TCB signer" => |paper| paper.tcb_signing.signer = Key::CA;
        "tcb-signing-not-yet-valid": "TCB early" => |paper| paper.tcb_signing.from = "20270201000000Z";
        "tcb-signing-expired": "TCB late" => |paper| paper.tcb_signing.until = "20270114000000Z";
        "tcb-signing-revoked": "TCB revoked" => |paper| paper.tcb_signing.serial = vec![0x70];
        "tcb-signing-signature": "QE's signer" => |paper| qe_signing(paper).signer = Key::CA;
        "tcb-signing-revoked": "QE's signer revoked" => |paper| qe_signing(paper).serial = vec![0x60];
    });
}

fn rename(paper: &mut Paper, name: &'static str) {
    paper.ca.subject = name;
    paper.pck.issuer = name;
    paper.pck_crl.issuer = name;
}

fn qe_signing(paper: &mut Paper) -> &mut Certificate {
    paper.qe_signing.insert(Certificate::tcb_signing())
}

#[test]
fn the_qe_identity_may_have_a_signer_of_its_own() {
    let mut paper = Paper::good();
    qe_signing(&mut paper).key = Key::STRANGER;
    paper.qe_identity_key = Key::STRANGER;
    assert_eq!(judge(&paper.build(), &policy()), Ok(()));
}

#[test]
fn a_root_that_is_not_pinned_is_refused_in_each_chain() {
    let other = Certificate {
        key: Key::STRANGER,
        ..Certificate::root()
    };
    let named = Certificate {
        subject: "Intel SGX Root",
        ..Certificate::root()
    };
    for root in [other.sign(), named.sign()] {
        let chains: [fn(&mut Built) -> &mut String; 3] = [
            |built| &mut built.tcb_chain,
            |built| &mut built.qe_chain,
            |built| &mut built.pck_crl_chain,
        ];
        for chain in chains {
            let mut built = Paper::good().build();
            let pinned = pem(std::slice::from_ref(&built.root));
            let chain = chain(&mut built);
            *chain = chain.replace(&pinned, &pem(std::slice::from_ref(&root)));
            assert_eq!(judge(&built, &policy()), Err("root-key".into()));
        }
    }
}

#[test]
fn each_chain_of_the_collateral_must_be_whole() {
    let chains: [fn(&mut Built) -> &mut String; 3] = [
        |built| &mut built.tcb_chain,
        |built| &mut built.qe_chain,
        |built| &mut built.pck_crl_chain,
    ];
    for chain in chains {
        let mut built = Paper::good().build();
        *chain(&mut built) += "x";
        let found = judge(&built, &policy());
        assert_eq!(found, Err("issuer-chain-malformed".into()));
    }
}

#[test]
fn each_fault_of_a_revocation_list_gives_its_reason() {
    check(faults! {
        "pck-crl-malformed": "PCK version" => |paper| paper.pck_crl.version = 0;
        "pck-crl-malformed": "PCK no extensions" => |paper| paper.pck_crl.extensions = None;
        "pck-crl-malformed": "PCK delta" => |paper| paper.pck_crl.extensions = critical();
        "pck-crl-malformed": "PCK indirect" => |paper| paper.pck_crl.revoked[0].1 = critical().unwrap();
        "pck-crl-issuer": "PCK issuer" => |paper| paper.pck_crl.issuer = pki::ROOT_NAME;
        "pck-crl-signature": "PCK signer" => |paper| paper.pck_crl.signer = Key::ROOT;
        "pck-crl-not-yet-valid": "PCK early" => |paper| paper.pck_crl.from = "20270116000000Z";
        "pck-crl-expired": "PCK late" => |paper| paper.pck_crl.until = "20270114000000Z";
        "root-crl-malformed": "root version" => |paper| paper.root_crl.version = 0;
        "root-crl-issuer": "root issuer" => |paper| paper.root_crl.issuer = pki::CA_NAME;
        "root-crl-signature": "root signer" => |paper| paper.root_crl.signer = Key::CA;
        "root-crl-not-yet-valid": "root early" => |paper| paper.root_crl.from = "20270116000000Z";
        "root-crl-expired": "root late" => |paper| paper.root_crl.until = "20270114000000Z";
    });
}

fn critical() -> Option<Vec<Vec<u8>>> {
    Some(vec![extension(pki::SUBJECT_KEY_ID, true, &[5, 0])])
}

#[test]
fn each_fault_of_the_tcb_info_gives_its_reason() {
    check(faults! {
        "tcb-info-signature": "signer" => |paper| paper.tcb_info_key = Key::PCK;
        "tcb-info-id": "id" => |paper| paper.set("id", "SGX");
        "tcb-info-version": "version" => |paper| paper.set("version", 2);
        "tcb-info-malformed": "version 1" => |paper| {
            paper.set("version", 1);
            paper.remove("id");
            paper.remove("tdxModule");
        };
        "tcb-info-type": "type" => |paper| paper.set("tcbType", 1);
        "tcb-info-not-yet-valid": "early" => |paper| paper.set("issueDate", "2027-01-16T00:00:00Z");
        "tcb-info-expired": "late" => |paper| paper.set("nextUpdate", "2027-01-14T00:00:00Z");
        "tcb-info-malformed": "no date" => |paper| paper.set("nextUpdate", "2027-01-31");
        "fmspc": "FMSPC" => |paper| paper.set("fmspc", "90C06F000001");
        "tcb-info-malformed": "wide FMSPC" => |paper| paper.set("fmspc", "90C06F00000000");
        "pceid": "PCEID" => |paper| paper.set("pceId", "0100");
        "evaluation-numbers": "number" => |paper| paper.set("tcbEvaluationDataNumber", 19);
        "tcb-info-malformed": "no number" => |paper| paper.remove("tcbEvaluationDataNumber");
        "tcb-info-malformed": "no module" => |paper| paper.remove("tdxModule");
        "td-module-version": "no module identities" => |paper| paper.remove("tdxModuleIdentities");
        "tcb-info-malformed": "no levels" => |paper| paper.set("tcbLevels", json!([]));
        "tcb-info-malformed": "unknown status" => |paper| paper.status("Fine");
        "tcb-info-malformed": "not Intel's to say" => |paper| paper.status("TDRelaunchAdvised");
        "tcb-info-malformed": "15 components" => |paper| drop(tdx_components(paper).pop());
        "tcb-info-malformed": "17 components" => |paper| tdx_components(paper).push(json!({"svn": 0}));
        "tcb-info-malformed": "wide component" => |paper| tdx_components(paper)[2] = json!({"svn": 256});
        "td-module-version": "module id" => |paper| paper.module()["id"] = "TDX_1".into();
        "td-module-signer": "module signer" => |paper| paper.module()["mrsigner"] = "11".repeat(48).into();
        "td-module-attributes": "attributes outside the mask" => |paper| {
            paper.body[SEAMATTRIBUTES] = 1;
            paper.module()["attributesMask"] = "00".repeat(8).into();
        };
        "td-module-attributes": "module attributes" => |paper| paper.module()["attributes"] = "0100000000000000".into();
    });
}

fn tdx_components(paper: &mut Paper) -> &mut Vec<Value> {
    let components = &mut paper.tcb_info["tcbLevels"][0]["tcb"]["tdxtcbcomponents"];
    components.as_array_mut().unwrap()
}

#[test]
fn each_fault_of_the_qe_identity_gives_its_reason() {
    for (member, value, expected) in [
        ("id", json!("QE"), "qe-identity-id"),
        ("id", json!("QVE"), "qe-identity-id"),
        ("version", json!(1), "qe-identity-version"),
        (
            "issueDate",
            json!("2027-01-16T00:00:00Z"),
            "qe-identity-not-yet-valid",
        ),
        (
            "nextUpdate",
            json!("2027-01-14T00:00:00Z"),
            "qe-identity-expired",
        ),
        ("tcbEvaluationDataNumber", json!(21), "evaluation-numbers"),
        ("miscselectMask", json!("FF"), "qe-identity-malformed"),
        ("attributes", json!(0), "qe-identity-malformed"),
        ("mrsigner", json!("DC"), "qe-identity-malformed"),
        ("isvprodid", json!(-1), "qe-identity-malformed"),
        ("tcbLevels", json!([]), "qe-level"),
    ] {
        let mut paper = Paper::good();
        paper.qe_identity[member] = value;
        let found = judge(&paper.build(), &policy());
        assert_eq!(found, Err(expected.into()), "{member}");
    }
    let mut paper = Paper::good();
    paper.qe_identity_key = Key::ROOT;
    let found = judge(&paper.build(), &policy());
    assert_eq!(found, Err("qe-identity-signature".into()));
}

/// Values that no member of a document has, wherever they stand.
fn wrong_values() -> [Value; 9] {
    [
        Value::Null,
        json!(true),
        json!(-1),
        json!(1.5),
        json!(u64::MAX),
        json!(""),
        json!("zz"),
        json!({}),
        json!([{}]),
    ]
}

#[test]
fn each_member_of_a_document_must_be_there_and_of_its_type() {
    type Part = fn(&mut Paper) -> &mut Value;
    let parts: [(Part, &str, &[&str]); 10] = [
        (
            |paper| &mut paper.tcb_info,
            "tcb-info",
            &["tdxModuleIdentities"],
        ),
        (|paper| &mut paper.tcb_info["tdxModule"], "tcb-info", &[]),
        (|paper| paper.module(), "tcb-info", &[]),
        (
            |paper| &mut paper.module()["tcbLevels"][0],
            "tcb-info",
            &["advisoryIDs"],
        ),
        (
            |paper| &mut paper.module()["tcbLevels"][0]["tcb"],
            "tcb-info",
            &[],
        ),
        (|paper| &mut paper.tcb_info["tcbLevels"][0], "tcb-info", &[]),
        (
            |paper| &mut paper.tcb_info["tcbLevels"][0]["tcb"],
            "tcb-info",
            &[],
        ),
        (|paper| &mut paper.qe_identity, "qe-identity", &[]),
        (
            |paper| &mut paper.qe_identity["tcbLevels"][0],
            "qe-identity",
            &["advisoryIDs"],
        ),
        (
            |paper| &mut paper.qe_identity["tcbLevels"][0]["tcb"],
            "qe-identity",
            &[],
        ),
    ];
    let mut tried = 0;
    for (part, document, optional) in parts {
        let members: Vec<String> = {
            let mut paper = Paper::good();
            part(&mut paper)
                .as_object()
                .unwrap()
                .keys()
                .cloned()
                .collect()
        };
        for member in members {
            let judged = |change: &dyn Fn(&mut Value)| {
                let mut paper = Paper::good();
                change(part(&mut paper));
                judge(&paper.build(), &policy()).err().unwrap_or_default()
            };
            let gone = judged(&|part| drop(part.as_object_mut().unwrap().remove(&member)));
            let expected = format!("{document}-malformed");
            assert_eq!(
                gone == expected,
                !optional.contains(&&*member),
                "{member}: {gone}"
            );
            for wrong in wrong_values() {
                let found = judged(&|part| part[&member] = wrong.clone());
                // A text that names another document or module is of the right type.
                let named = member == "id" && wrong.is_string();
                assert_eq!(found == expected, !named, "{member}: {wrong}: {found}");
                assert_ne!(found, "", "{member}: {wrong}");
                tried += 1;
            }
        }
    }
    assert!(tried > 400, "{tried}");
}

#[test]
fn a_list_as_text_is_no_list() {
    let mut built = Paper::good().build();
    let text = pem(std::slice::from_ref(&built.pck_crl));
    built.pck_crl = text.replace("CERTIFICATE", "X509 CRL").into();
    assert_eq!(judge(&built, &policy()), Err("pck-crl-malformed".into()));
    built.pck_crl = hex::encode(Paper::good().pck_crl.sign()).into();
    assert_eq!(judge(&built, &policy()), Err("pck-crl-malformed".into()));
}

#[test]
fn a_document_has_one_form() {
    let good = Paper::good().build().tcb_info;
    let (inner, signature) = good.rsplit_once(",\"signature\"").unwrap();
    for text in [
        String::new(),
        "null".into(),
        good.replace("\"tcbInfo\"", "\"enclaveIdentity\""),
        good.replacen(':', ": ", 1),
        format!(
            "{{\"signature\"{},{}}}",
            &signature[..signature.len() - 1],
            &inner[1..]
        ),
        format!("{inner},\"signature\":\"\"}}"),
        format!("{inner},\"signature\":\"00\"}}"),
        format!("{good}x"),
        good[1..].into(),
        good[..good.len() - 1].into(),
    ] {
        let mut built = Paper::good().build();
        built.tcb_info = text.clone();
        let found = judge(&built, &policy());
        assert_eq!(found, Err("tcb-info-malformed".into()), "{text}");
    }
    let mut built = Paper::good().build();
    built.tcb_info = good.clone() + "\n";
    assert_eq!(judge(&built, &policy()), Ok(()), "a line end may follow");
    built.tcb_info = good.replacen(",\"id\"", ", \"id\"", 1);
    assert_eq!(judge(&built, &policy()), Err("tcb-info-signature".into()));
}

#[test]
fn a_member_that_occurs_twice_is_refused() {
    let edits: [fn(String) -> String; 5] = [
        |text| twice(text, "\"id\":\"TDX\""),
        |text| twice(text, "\"fmspc\":\"90C06F000000\""),
        |text| twice(text, "\"tcbStatus\":\"UpToDate\""),
        |text| twice(text, "\"svn\":5"),
        |text| twice(text, "\"pcesvn\":13"),
    ];
    for edit in edits {
        let paper = Paper {
            tcb_info_edit: edit,
            ..Paper::good()
        };
        let found = judge(&paper.build(), &policy());
        assert_eq!(found, Err("tcb-info-malformed".into()));
    }
    let unknown = Paper {
        tcb_info_edit: |text| text.replacen('{', "{\"new\":1,", 1),
        ..Paper::good()
    };
    assert_eq!(
        judge(&unknown.build(), &policy()),
        Ok(()),
        "Intel may add members"
    );
}

fn twice(text: String, member: &str) -> String {
    let doubled = text.replacen(member, &format!("{member},{member}"), 1);
    assert_ne!(doubled, text, "{member}");
    doubled
}

#[test]
fn collateral_is_worth_nothing_before_or_after_its_window() {
    let built = Paper::good().build();
    let collateral = Collateral::verify_under(&anchor(&built), built.parts(), AT).unwrap();
    let window = collateral.validity();
    let at = |at| {
        let quote = Quote::parse(&built.quote).unwrap();
        verify(quote, &collateral, UnixTime(at))
            .map(|_| ())
            .map_err(|error| error.code())
    };
    assert_eq!(at(window.from.0), Ok(()));
    assert_eq!(at(window.until.0), Ok(()));
    assert_eq!(
        at(window.from.0 - 1),
        Err("collateral-not-yet-valid".into())
    );
    assert_eq!(at(window.until.0 + 1), Err("collateral-expired".into()));
}

#[test]
fn the_window_is_that_in_which_everything_holds() {
    let json = ["2027-01-10T00:00:00Z", "2027-01-20T00:00:00Z"].map(Value::from);
    let changes: [&dyn Fn(&mut Paper); 7] = [
        &|paper| (paper.pck_crl.from, paper.pck_crl.until) = NARROW,
        &|paper| (paper.root_crl.from, paper.root_crl.until) = NARROW,
        &|paper| (paper.ca.from, paper.ca.until) = NARROW,
        &|paper| {
            (paper.tcb_signing.from, paper.tcb_signing.until) = NARROW;
            qe_signing(paper);
        },
        &|paper| {
            let signing = qe_signing(paper);
            (signing.from, signing.until) = NARROW;
        },
        &|paper| {
            [paper.tcb_info["issueDate"], paper.tcb_info["nextUpdate"]] = json.clone();
        },
        &|paper| {
            [
                paper.qe_identity["issueDate"],
                paper.qe_identity["nextUpdate"],
            ] = json.clone();
        },
    ];
    for (index, change) in changes.iter().enumerate() {
        let mut paper = Paper::good();
        change(&mut paper);
        let built = paper.build();
        let collateral = Collateral::verify_under(&anchor(&built), built.parts(), AT).unwrap();
        let window = collateral.validity();
        let expected = (1_799_539_200, 1_800_403_200);
        assert_eq!((window.from.0, window.until.0), expected, "{index}");
    }
}

const NARROW: (&str, &str) = ("20270110000000Z", "20270120000000Z");

#[test]
fn a_platform_is_remembered_for_its_own_issuers_only() {
    let mut cache = PlatformCache::new(4.try_into().unwrap());
    let good = Paper::good().build();
    let mut renewed = Paper::good();
    renewed.ca.until = "20410101000000Z";
    let renewed = renewed.build();
    for (collateral, expected) in [
        (&good, Ok(())),
        (&renewed, Err("pck-ca-other".into())),
        (&good, Ok(())),
    ] {
        let collateral = Collateral::verify_under(&anchor(&good), collateral.parts(), AT).unwrap();
        let quote = Quote::parse(&good.quote).unwrap();
        let found = verify_cached(quote, &collateral, AT, &mut cache);
        assert_eq!(found.map(|_| ()).map_err(|error| error.code()), expected);
    }
    assert_eq!(cache.len(), 1);
}

#[test]
fn a_remembered_platform_can_still_expire_and_be_revoked() {
    let mut cache = PlatformCache::new(4.try_into().unwrap());
    let good = Paper::good().build();
    let mut later = Paper::good();
    later
        .pck_crl
        .revoked
        .push((later.pck.serial.clone(), vec![]));
    let later = later.build();
    for (collateral, expected) in [(&good, Ok(())), (&later, Err("pck-revoked".into()))] {
        let collateral = Collateral::verify_under(&anchor(&good), collateral.parts(), AT).unwrap();
        let quote = Quote::parse(&good.quote).unwrap();
        let found = verify_cached(quote, &collateral, AT, &mut cache);
        assert_eq!(found.map(|_| ()).map_err(|error| error.code()), expected);
    }
}
