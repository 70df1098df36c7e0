//! What the examples for authors of clients do, on recorded quotes.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "an example has a `main` of its own"
)]

#[path = "../examples/pin_a_platform.rs"]
mod pin_a_platform;
mod recorded;
#[path = "../examples/write_a_policy.rs"]
mod write_a_policy;

use attestation::tdx::{QuotePolicy, Report};
use attestation::time::UnixTime;

const OURS: &str = "TelegramMessenger__cocoon/76641c46_v4_tee-test-quote.dat.quote.bin";
const ANOTHERS: &str =
    "google__go-tdx-guest/cf77a6e9_v5_testing-testdata-quote_v5_sample.dat.quote.bin";
const SET: &str = "collateral/2026-02-01_90c06f000000";
const AT: UnixTime = UnixTime(1_771_028_279);

#[test]
fn a_written_policy_takes_a_good_quote_and_names_what_is_wrong_with_another() {
    let Some(vectors) = recorded::tdx() else {
        return;
    };
    let files = vectors.collateral(SET);
    let mut policy = write_a_policy::policy().unwrap();
    let judge = |policy: &QuotePolicy| Report::new(&vectors.read(OURS), &files, policy, AT);
    assert!(judge(&policy).reasons.is_empty(), "{}", judge(&policy));
    policy.platform.min_evaluation_number = 99;
    assert_eq!(judge(&policy).reasons[0].code, "evaluation-number");
}

#[test]
fn a_pinned_platform_is_taken_and_another_is_not() {
    let Some(vectors) = recorded::tdx() else {
        return;
    };
    let files = vectors.collateral(SET);
    let [ours, anothers] = [OURS, ANOTHERS]
        .map(|name| pin_a_platform::platform(&vectors.read(name), &files, AT).unwrap());
    let policy = pin_a_platform::pin(ours.platform());
    assert!(
        ours.check_platform(&policy)
            .iter()
            .all(|check| check.passed)
    );
    let failed = anothers.check_platform(&policy);
    let failed = failed.iter().filter(|check| !check.passed);
    let failed: Vec<_> = failed.map(|check| check.name).collect();
    assert_eq!(failed, ["ppid", "instance"]);
}
