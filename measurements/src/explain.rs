//! A prediction beside an event log: which event differs, and where it comes from.
//!
//! A log is a claim. This finds the cause of a refusal; it never excuses one.

use alloc::string::{String, ToString};
use alloc::vec::Vec;

use attestation::eventlog::{Event as LogEvent, Log};
use attestation::register::{Digest256, Digest384};
use serde::{Serialize, Serializer};

use crate::bank::{Bank, Event, Register};

/// One event of one register, expected and found.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Line {
    /// What was extended.
    pub register: Register,
    /// Position in this register's events, from 0.
    pub index: usize,
    /// What was hashed, in the prediction's words; in the log's, where the
    /// prediction has no event.
    pub what: String,
    /// Which input decides the digest.
    pub source: Option<String>,
    /// As predicted.
    pub expected: Option<EventDigest>,
    /// As logged.
    pub found: Option<EventDigest>,
}

impl Line {
    /// Whether prediction and log agree here.
    #[must_use]
    pub fn agrees(&self) -> bool {
        self.expected.is_some() && self.expected == self.found
    }
}

/// A digest of the width that its register has.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum EventDigest {
    /// Of a PCR.
    Sha256(Digest256),
    /// Of an RTMR.
    Sha384(Digest384),
}

impl core::fmt::Display for EventDigest {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Sha256(digest) => digest.fmt(f),
            Self::Sha384(digest) => digest.fmt(f),
        }
    }
}

impl Serialize for EventDigest {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

/// Sets the events of `registers` side by side, register by register.
#[must_use]
pub fn explain(bank: &Bank, log: &Log<'_>, registers: &[Register]) -> Vec<Line> {
    registers
        .iter()
        .flat_map(|register| explain_register(bank, log, *register))
        .collect()
}

fn explain_register(bank: &Bank, log: &Log<'_>, register: Register) -> Vec<Line> {
    let name = register.to_string();
    let mut expected = bank.events_of(register);
    let mut found = log
        .unverified_events()
        .iter()
        .filter(|event| event.extends() && event.register.to_string() == name);
    let mut lines = Vec::new();
    loop {
        let (expected, found) = (expected.next(), found.next());
        if expected.is_none() && found.is_none() {
            return lines;
        }
        lines.push(line(register, lines.len(), expected, found));
    }
}

fn line(
    register: Register,
    index: usize,
    expected: Option<&Event>,
    found: Option<&LogEvent<'_>>,
) -> Line {
    let what = match (expected, found) {
        (Some(event), _) => event.what.to_string(),
        (None, Some(event)) => event.to_string(),
        (None, None) => String::new(),
    };
    Line {
        register,
        index,
        what,
        source: expected.map(|event| event.source.to_string()),
        expected: expected.map(|event| match register {
            Register::Pcr(_) => EventDigest::Sha256(event.digests.sha256),
            Register::Rtmr(_) => EventDigest::Sha384(event.digests.sha384),
        }),
        found: found.and_then(|event| match register {
            Register::Pcr(_) => event.sha256.map(EventDigest::Sha256),
            Register::Rtmr(_) => event.sha384.map(EventDigest::Sha384),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bank::Source;
    use crate::digests::Digests;

    const LOG: &[u8] = include_bytes!("../tests/vectors/small-vtpm.eventlog");

    /// PCR 7 as the log has it, up to `change`.
    fn pcr7(change: impl FnOnce(&mut Bank)) -> Vec<Line> {
        let log = Log::parse_tpm(LOG).unwrap();
        let mut bank = Bank::default();
        for (name, digests) in crate::variable::secure_boot() {
            bank.extend(Register::Pcr(7), digests, name, Source::Constant);
        }
        change(&mut bank);
        explain(&bank, &log, &[Register::Pcr(7)])
    }

    #[test]
    fn a_different_event_is_shown_with_its_source() {
        let lines = pcr7(|bank| {
            bank.extend(
                Register::Pcr(7),
                Digests::of(b"x"),
                "separator",
                Source::Kernel,
            );
        });
        let [agreeing @ .., last] = &lines[..] else {
            panic!("no lines")
        };
        assert!(agreeing.iter().all(Line::agrees));
        assert!(!last.agrees());
        assert_eq!(
            (last.index, &*last.what, last.source.as_deref()),
            (5, "separator", Some("kernel"))
        );
        assert_eq!(
            last.found.unwrap().to_string(),
            Digest256::of(&[0; 4]).to_string()
        );
    }

    #[test]
    fn an_event_that_nobody_predicted_has_no_expectation() {
        let lines = pcr7(|_| ());
        let last = lines.last().unwrap();
        assert!(!last.agrees());
        assert_eq!((last.expected, &last.source), (None, &None));
        assert!(last.found.is_some());
    }

    #[test]
    fn an_event_that_was_not_logged_is_missing() {
        let lines = pcr7(|bank| {
            for _ in 0..2 {
                let zeros = Digests::of(&[0; 4]);
                bank.extend(Register::Pcr(7), zeros, "separator", Source::Constant);
            }
        });
        let [.., sixth, seventh] = &lines[..] else {
            panic!("no lines")
        };
        assert!(sixth.agrees() && !seventh.agrees());
        assert_eq!(seventh.found, None);
    }
}
