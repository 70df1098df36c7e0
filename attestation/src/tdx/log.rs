//! A stored event log, judged: what `cocoon verify log` prints.
//!
//! The quote beside it lends its registers; its signatures are not looked at here,
//! so that "trusted" means no more than "they tell of the same boot".

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::string::String;
use alloc::vec::Vec;

use crate::appraisal::{Reason, Verdict, chain};
use crate::eventlog::Log;
use crate::register::{Digest384, TdRegisters};

use super::quote::{Quote, QuoteError};
use super::report::Report;

impl Report {
    /// Replays a CCEL, and compares it with a quote of the same boot. Without one
    /// it proves nothing, and the verdict is undecided.
    #[must_use]
    pub fn of_log(ccel: &[u8], quote: Option<&[u8]>) -> Self {
        let replayed = replay(ccel, quote);
        Self {
            verdict: match (&replayed, quote) {
                (Err(_), _) => Verdict::Rejected,
                (Ok(_), Some(_)) => Verdict::Trusted,
                (Ok(_), None) => Verdict::Undecided,
            },
            tcb_status: None,
            advisories: BTreeSet::new(),
            reasons: replayed.as_ref().err().cloned().into_iter().collect(),
            registers: replayed.unwrap_or_default(),
            checks: Vec::new(),
        }
    }
}

/// The registers that the log replays to, and that the quote has too.
fn replay(ccel: &[u8], quote: Option<&[u8]>) -> Result<BTreeMap<&'static str, Digest384>, Reason> {
    let refused = |code: &str, expected: &str, found: String| Reason {
        code: code.into(),
        expected: expected.into(),
        found,
    };
    let log = Log::parse_ccel(ccel)
        .map_err(|error| refused("log-format", "a TCG event log", chain(&error)))?;
    let rtmrs = log
        .replay_rtmrs()
        .map_err(|error| refused("log-replay", "a log of a TD's registers", chain(&error)))?;
    if let Some(quote) = quote {
        let TdRegisters {
            rtmr0,
            rtmr1,
            rtmr2,
            rtmr3,
            ..
        } = claimed(quote)
            .map_err(|error| refused("quote-format", "a TDX quote", chain(&error)))?;
        log.verify_rtmrs(&[rtmr0, rtmr1, rtmr2, rtmr3])
            .map_err(|error| refused("log-quote", "the registers of the quote", chain(&error)))?;
    }
    let names = ["rtmr0", "rtmr1", "rtmr2", "rtmr3"];
    Ok(names.into_iter().zip(rtmrs).collect())
}

/// What a quote claims. Recorded ones are often padded.
fn claimed(quote: &[u8]) -> Result<TdRegisters, QuoteError> {
    let padding = match Quote::parse(quote) {
        Err(QuoteError::Trailing { left, .. }) => left,
        _ => 0,
    };
    let end = quote.len().saturating_sub(padding);
    let quote = Quote::parse(quote.get(..end).unwrap_or_default())?;
    Ok(quote.unverified_body().registers)
}
