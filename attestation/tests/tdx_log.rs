//! Stored event logs, judged beside recorded quotes.

mod recorded;

use attestation::appraisal::Verdict;
use attestation::tdx::Report;

const LOG: &str = "../boot/google+go-tdx-guest/ccel_data.dat";
const QUOTE: &str = "../boot/google+go-tdx-guest/cos-113-tdx-quote.dat";
const OTHER_QUOTE: &str = "../boot/cc-api+cc-trusted-api/quote.bin";

/// Verdict, first code and number of registers for recorded files.
fn judge(log: &str, quote: Option<&str>) -> Option<(Verdict, Option<String>, usize)> {
    let vectors = recorded::tdx()?;
    let quote = quote.map(|name| vectors.read(name));
    let report = Report::of_log(&vectors.read(log), quote.as_deref());
    let code = report.reasons.first().map(|reason| reason.code.clone());
    Some((report.verdict, code, report.registers.len()))
}

#[test]
fn a_log_is_trusted_only_beside_a_quote_of_its_boot() {
    for (log, quote, expected) in [
        (LOG, Some(QUOTE), (Verdict::Trusted, None, 4)),
        (LOG, None, (Verdict::Undecided, None, 4)),
        (
            LOG,
            Some(OTHER_QUOTE),
            (Verdict::Rejected, Some("log-quote"), 0),
        ),
        (LOG, Some(LOG), (Verdict::Rejected, Some("quote-format"), 0)),
        (
            QUOTE,
            Some(QUOTE),
            (Verdict::Rejected, Some("log-format"), 0),
        ),
    ] {
        let (verdict, code, registers) = expected;
        let expected = (verdict, code.map(String::from), registers);
        let Some(found) = judge(log, quote) else {
            return;
        };
        assert_eq!(found, expected, "{log} beside {quote:?}");
    }
}

#[test]
fn a_log_without_the_bank_of_a_td_replays_to_nothing() {
    // TCG_PCR_EVENT with a TCG_EfiSpecIDEvent that lists SHA-256 alone.
    let mut log = vec![0; 4];
    log.extend(3_u32.to_le_bytes());
    log.extend([0; 20]);
    log.extend(33_u32.to_le_bytes());
    log.extend(b"Spec ID Event03\0");
    log.extend([0; 8]);
    log.extend(1_u32.to_le_bytes());
    log.extend([0x0b, 0, 32, 0, 0]);
    let report = Report::of_log(&log, None);
    assert_eq!(report.reasons[0].code, "log-replay", "{report}");
}
