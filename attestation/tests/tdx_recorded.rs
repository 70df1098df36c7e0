//! Recorded TDX quotes, real and synthetic, against the verdicts of other verifiers.

#![allow(
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "helpers of tests are tests"
)]

mod recorded;

use std::collections::{BTreeMap, BTreeSet};

use attestation::appraisal::Verdict;
use attestation::tdx::{
    Collateral, CollateralParts, PlatformCache, Quote, QuoteError, QuotePolicy, Report,
    TrustAnchor, verify, verify_cached,
};
use attestation::time::UnixTime;

use recorded::Vectors;

/// Real quotes that we judge otherwise than dcap-qvl 0.7.1 does: quote, collateral, reason.
const DIVERGENCES: [(&str, &str, &str); 0] = [];

#[test]
fn real_quotes_are_judged_as_by_dcap_qvl_or_for_a_stated_reason() {
    let Some(vectors) = recorded::tdx() else {
        return;
    };
    let mut stale: BTreeSet<String> = DIVERGENCES.map(|(id, set, _)| [id, set].concat()).into();
    for row in vectors.table("ORACLE.csv") {
        let [id, file, _, _, set, at, _, _, oracle, advisories, ..] = &row[..] else {
            panic!("{row:?}");
        };
        let files = vectors.collateral(&format!("collateral/{set}"));
        let at = UnixTime(at.parse().unwrap());
        let report = Report::new(&vectors.read(file), &files, &QuotePolicy::default(), at);
        let diverges = stale.remove(&[id.as_str(), set].concat());
        let agrees = agrees(&report, oracle, advisories);
        assert_ne!(agrees, diverges, "{id} with {set}: {oracle}\n{report}");
    }
    assert!(stale.is_empty(), "no such rows: {stale:?}");
}

/// Whether we say the same; of all that we found wrong, the oracle names one thing.
fn agrees(report: &Report, oracle: &str, advisories: &str) -> bool {
    let code = |code: &str| report.reasons.iter().any(|reason| reason.code == code);
    let advisories: BTreeSet<_> = advisories.split_whitespace().map(String::from).collect();
    match oracle.strip_prefix("ERR ") {
        None if oracle == "UpToDate" => report.verdict == Verdict::Trusted,
        None => {
            code("tcb-status")
                && report.tcb_status.unwrap().to_string() == oracle
                && report.advisories == advisories
        }
        Some(error) => {
            let (_, expected) = ORACLE_ERRORS
                .iter()
                .find(|(text, _)| error.contains(text))
                .unwrap_or_else(|| panic!("no code for {error}"));
            code(expected)
        }
    }
}

const ORACLE_ERRORS: [(&str, &str); 5] = [
    ("CertNotValidYet", "pck-not-yet-valid"),
    ("Debug mode is enabled", "td-debug"),
    ("Invalid MR service TD", "service-td"),
    ("No matching TCB level found", "platform-level"),
    ("SEPT_VE_DISABLE is not enabled", "sept-ve-disable"),
];

#[test]
fn the_processor_ca_and_its_list_verify_as_those_of_the_platform_ca() {
    let Some(vectors) = recorded::tdx() else {
        return;
    };
    let bytes = vectors.read(COCOON);
    let files = vectors.collateral("collateral/2026-01-12_90c06f000000");
    let roots = ["pck_processor_ca", "root_ca"];
    let roots = roots.map(|name| vectors.read(&format!("roots/intel_sgx_{name}.pem")));
    let parts = CollateralParts {
        pck_crl: &vectors.read("collateral/pck_processor_crls/2026-01-12_2026-02-11.der"),
        pck_crl_issuer_chain: &roots.concat(),
        ..files.parts(&Quote::parse(&bytes).unwrap())
    };
    let at = UnixTime(1_769_529_299);
    let collateral = Collateral::verify(parts, at).unwrap();
    let error = verify(Quote::parse(&bytes).unwrap(), &collateral, at).unwrap_err();
    assert_eq!(error.code(), "pck-ca-other");
}

/// Why each synthetic case that is refused is refused. The cases that are not
/// here are trusted.
const REFUSED: &[(&str, &str)] = &[
    ("status-swhardeningneeded", "tcb-status"),
    ("status-configurationandswhardeningneeded", "tcb-status"),
    ("status-outofdateconfigurationneeded", "tcb-status"),
    ("status-revoked", "tcb-status"),
    ("status-unknown-string", "tcb-info-malformed"),
    ("status-module-revoked", "tcb-status"),
    ("status-module-below-all", "td-module-level"),
    ("status-module-unknown-version", "td-module-version"),
    ("status-qe-outofdate", "tcb-status"),
    ("status-qe-below-all", "qe-level"),
    ("status-pcesvn-below-all", "platform-level"),
    ("status-tdx-comp2-lower", "tcb-status"),
    ("policy-debug", "td-debug"),
    ("policy-sept-ve-enabled", "sept-ve-disable"),
    ("policy-td-attr-reserved", "td-reserved"),
    ("policy-seam-attr", "td-module-attributes"),
    ("policy-mrsignerseam", "td-module-signer"),
    ("fmt-version-3", "quote-version"),
    ("fmt-akt-3", "quote-key-type"),
    ("fmt-tee-sgx", "quote-tee-type"),
    ("fmt-tee-82", "quote-tee-type"),
    ("fmt-v5-type-9", "quote-body-type"),
    ("fmt-outer-type-5", "quote-certification-type"),
    ("fmt-inner-type-1", "quote-certification-type"),
    ("fmt-inner-type-3", "quote-certification-type"),
    ("fmt-auth-len-plus", "quote-truncated"),
    ("fmt-auth-len-minus", "quote-trailing"),
    ("fmt-qe-auth-len-max", "quote-truncated"),
    // May be taken or not: whoever gets padded quotes knows to cut them.
    ("fmt-trailing-zeros", "quote-trailing"),
    ("fmt-truncated-0000", "quote-truncated"),
    ("fmt-truncated-0047", "quote-truncated"),
    ("fmt-truncated-0048", "quote-truncated"),
    ("fmt-truncated-0632", "quote-truncated"),
    ("fmt-truncated-0636", "quote-truncated"),
    ("fmt-truncated-0764", "quote-truncated"),
    ("fmt-truncated-1200", "quote-truncated"),
    ("forge-body-bit", "quote-signature"),
    ("forge-reportdata-bit", "quote-signature"),
    ("forge-sig-zero", "quote-signature"),
    ("forge-ak-other-signer", "quote-signature"),
    ("forge-ak-offcurve", "quote-signature"),
    ("forge-ak-zero", "quote-signature"),
    ("forge-qe-rd-upper", "attestation-key"),
    ("forge-qe-auth-changed", "attestation-key"),
    ("forge-qe-prodid", "qe-isvprodid"),
    ("forge-qe-miscselect", "qe-miscselect"),
    // No hardware makes it; dcap-qvl and Intel's library take it.
    ("forge-qe-reserved", "qe-report-reserved"),
    ("chain-other-root", "root-crl-signature"),
    // Harmless, as the key is pinned, and yet not the chain that it says it is.
    ("chain-embedded-root-swapped", "root-key"),
    ("chain-pck-signed-by-other", "pck-signature"),
    ("chain-pck-signed-by-root", "pck-signature"),
    ("chain-order-reversed", "root-key"),
    ("chain-empty", "issuer-chain-malformed"),
    ("chain-pck-notyet", "pck-not-yet-valid"),
    ("chain-plat-expired", "pck-ca-expired"),
    ("chain-pck-no-sgx-ext", "pck-malformed"),
    ("chain-pck-ext-no-tcb", "pck-malformed"),
    ("chain-pck-ext-no-pceid", "pck-malformed"),
    ("chain-pck-ext-no-fmspc", "pck-malformed"),
    ("chain-pck-ext-no-sgxtype", "pck-malformed"),
    ("chain-plat-revoked", "pck-ca-revoked"),
    ("chain-tcb-revoked", "tcb-signing-revoked"),
    ("col-fmspc-mismatch", "fmspc"),
    ("col-pceid-mismatch", "pceid"),
    ("col-version-2", "tcb-info-version"),
    ("col-tcbtype-1", "tcb-info-type"),
    ("col-tcb-expired", "tcb-info-expired"),
    ("col-tcb-future", "tcb-info-not-yet-valid"),
    ("col-qe-future", "qe-identity-not-yet-valid"),
    ("col-qe-id-qve", "qe-identity-id"),
    ("col-qe-version-1", "qe-identity-version"),
    ("col-tcb-sig-bit", "tcb-info-signature"),
    ("col-tcb-signed-by-pck", "tcb-info-signature"),
    ("col-qeid-sig-bit", "qe-identity-signature"),
    ("col-tcb-signer-expired", "tcb-signing-expired"),
    ("col-rootcrl-future", "root-crl-not-yet-valid"),
    ("col-pckcrl-other-key", "pck-crl-signature"),
    ("col-rootcrl-other-key", "root-crl-signature"),
    ("col-pckcrl-is-rootcrl", "pck-crl-issuer"),
    ("col-pckcrl-empty", "pck-crl-malformed"),
    ("col-levels-empty", "tcb-info-malformed"),
    ("col-comps-15", "tcb-info-malformed"),
    // Policy elsewhere; both numbers come from one recovery.
    ("col-eval-number-differs", "evaluation-numbers"),
    ("col-module-mrsigner", "td-module-signer"),
];

#[test]
fn every_synthetic_case_gets_the_recommended_verdict_and_one_code() {
    let Some(vectors) = recorded::tdx() else {
        return;
    };
    let mut refused: BTreeMap<_, _> = REFUSED.iter().copied().collect();
    for row in vectors.table("synthetic/ORACLE.csv") {
        let [case, recommended, ..] = &row[..] else {
            panic!("{row:?}");
        };
        let report = synthetic(&vectors, case);
        let expected = refused.remove(case.as_str());
        let found = report.reasons.first().map(|reason| reason.code.as_str());
        assert_eq!(found, expected, "{case}\n{report}");
        let status = report.tcb_status.map(|status| status.to_string());
        match recommended.as_str() {
            "UpToDate" | "OutOfDate|UpToDate" => assert_eq!(report.verdict, Verdict::Trusted),
            "ACCEPT-OR-REJECT" | "NOTE" | "NOTE-REJECT" | "REJECT" => {
                assert_eq!(report.verdict, Verdict::Rejected, "{case}");
            }
            _ => assert_eq!(status.as_ref(), Some(recommended), "{case}"),
        }
    }
    assert!(refused.is_empty(), "no such cases: {refused:?}");
}

fn synthetic(vectors: &Vectors, case: &str) -> Report {
    Report::under(
        &test_root(vectors),
        &vectors.read(&format!("synthetic/{case}/quote.bin")),
        &vectors.collateral(&format!("synthetic/{case}")),
        &QuotePolicy::default(),
        SYNTHETIC_AT,
    )
}

fn test_root(vectors: &Vectors) -> TrustAnchor {
    TrustAnchor::from_certificate(&vectors.read("synthetic/test_root_ca.der")).unwrap()
}

/// 2026-11-01, within every window that a case does not say otherwise of.
const SYNTHETIC_AT: UnixTime = UnixTime(1_793_534_400);

#[test]
fn a_synthetic_quote_is_worth_nothing_under_intels_root() {
    let Some(vectors) = recorded::tdx() else {
        return;
    };
    let report = Report::new(
        &vectors.read("synthetic/ok-v4/quote.bin"),
        &vectors.collateral("synthetic/ok-v4"),
        &QuotePolicy::default(),
        SYNTHETIC_AT,
    );
    assert_eq!(report.reasons[0].code, "root-crl-signature");
}

#[test]
fn every_recorded_quote_parses_and_all_but_one_carry_a_chain() {
    let Some(vectors) = recorded::tdx() else {
        return;
    };
    for (id, bytes) in vectors.quotes() {
        let quote = Quote::parse(&bytes).unwrap_or_else(|error| panic!("{id}: {error}"));
        let issuers = quote.unverified_pck_issuer_chain();
        assert_eq!(issuers.is_empty(), id == INTELS_SAMPLE, "{id}");
    }
}

/// Intel's own sample, with a chain in DER under a root of its own.
const INTELS_SAMPLE: &str = "aa2cafad";

#[test]
fn every_proper_prefix_is_refused_and_so_is_every_extension() {
    let Some(vectors) = recorded::tdx() else {
        return;
    };
    for (id, bytes) in vectors.quotes() {
        for cut in 0..bytes.len() {
            let error = Quote::parse(&bytes[..cut]).unwrap_err();
            assert!(
                matches!(error, QuoteError::Truncated(_)),
                "{id} cut at {cut}: {error}"
            );
        }
        for more in [&[0][..], &[0; 64], b"\n"] {
            let error = Quote::parse(&[&bytes, more].concat()).unwrap_err();
            assert_eq!(error.code(), "quote-trailing", "{id}");
        }
    }
}

#[test]
fn no_bit_of_a_quote_can_change() {
    let Some(vectors) = recorded::tdx() else {
        return;
    };
    let at = UnixTime(1_769_529_299);
    let mut bytes = vectors.read(COCOON);
    let files = vectors.collateral("collateral/2026-01-12_90c06f000000");
    let parts = files.parts(&Quote::parse(&bytes).unwrap());
    let collateral = Collateral::verify(parts, at).unwrap();
    let accepted = |bytes: &[u8]| {
        Quote::parse(bytes).is_ok_and(|quote| verify(quote, &collateral, at).is_ok())
    };
    assert!(accepted(&bytes));
    for index in 0..bytes.len() {
        // Each bit of what is checked first, one of the rest, which has more bytes.
        for bit in (0..8).filter(|bit| index < 700 || *bit == index % 7) {
            bytes[index] ^= 1 << bit;
            assert!(!accepted(&bytes), "bit {bit} of byte {index}");
            bytes[index] ^= 1 << bit;
        }
    }
}

const COCOON: &str = "TelegramMessenger__cocoon/76641c46_v4_tee-test-quote.dat.quote.bin";

#[test]
fn a_remembered_platform_is_judged_as_an_unknown_one() {
    let Some(vectors) = recorded::tdx() else {
        return;
    };
    let mut cache = PlatformCache::new(2.try_into().unwrap());
    let anchor = test_root(&vectors);
    for row in vectors.table("synthetic/ORACLE.csv") {
        let case = &row[0];
        let bytes = vectors.read(&format!("synthetic/{case}/quote.bin"));
        let files = vectors.collateral(&format!("synthetic/{case}"));
        let Ok(quote) = Quote::parse(&bytes) else {
            continue;
        };
        let parts = files.parts(&quote);
        let Ok(collateral) = Collateral::verify_under(&anchor, parts, SYNTHETIC_AT) else {
            continue;
        };
        let once = verify(quote.clone(), &collateral, SYNTHETIC_AT);
        for _ in 0..2 {
            let again = verify_cached(quote.clone(), &collateral, SYNTHETIC_AT, &mut cache);
            let code = |result: &Result<_, attestation::tdx::VerifyError>| {
                result.as_ref().map(|_| ()).map_err(|error| error.code())
            };
            assert_eq!(code(&again), code(&once), "{case}");
        }
        assert!(cache.len() <= 2, "the cache outgrew its capacity");
    }
    assert_eq!(cache.len(), 2);
}
