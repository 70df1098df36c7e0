//! TCG crypto-agile event logs: what firmware says it extended, and in which order.
//!
//! Layout, little-endian: one TCG_PCR_EVENT whose data is TCG_EfiSpecIDEvent,
//! then TCG_PCR_EVENT2 records. A TPM log indexes PCRs; a CCEL indexes the
//! measurement registers of a TD and ends in an unused tail.
//!
//! Nobody signs a log. Whatever it says counts only after [`Log::verify_pcrs`]
//! or [`Log::verify_rtmrs`], against registers that somebody did sign, and even
//! then most event data is the firmware's comment on a digest, not its preimage:
//! [`Event::proved`] tells the two apart.
//!
//! Source: TCG PC Client Platform Firmware Profile 1.06, section 10 (log) and
//! table 27 (event types); UEFI 2.10, section 38.4.1 (CC register mapping).

use alloc::vec::Vec;
use core::fmt;

use crate::reader::{Reader, Truncated};
use crate::register::{Digest256, Digest384};

mod event;
mod kind;
mod replay;

pub use event::{Event, EventError};
pub use kind::Kind;
pub use replay::{ReplayError, Replayed};

/// A log that is well formed, and that nobody vouches for yet.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Log<'a> {
    bank: Bank,
    algorithms: Algorithms,
    events: Vec<Event<'a>>,
}

impl<'a> Log<'a> {
    /// Reads what Linux serves as `binary_bios_measurements`.
    pub fn parse_tpm(bytes: &'a [u8]) -> Result<Self, LogError> {
        Self::parse(bytes, Bank::Pcr)
    }

    /// Reads the memory that the CCEL table points to, unused tail included.
    pub fn parse_ccel(bytes: &'a [u8]) -> Result<Self, LogError> {
        Self::parse(bytes, Bank::Mr)
    }

    fn parse(bytes: &'a [u8], bank: Bank) -> Result<Self, LogError> {
        if bytes.len() > Self::MAX_LEN {
            return Err(LogError::TooLong { len: bytes.len() });
        }
        let mut reader = Reader::new(bytes);
        let algorithms = read_header(&mut reader)?;
        let mut events = Vec::new();
        while !is_end(bank, reader.rest()) {
            if events.len() == Self::MAX_EVENTS {
                return Err(LogError::TooManyEvents);
            }
            let index = events.len();
            let event = Event::read(&mut reader, bank, &algorithms)
                .map_err(|source| LogError::Event { index, source })?;
            events.push(event);
        }
        Ok(Self {
            bank,
            algorithms,
            events,
        })
    }

    /// What the log claims: fit for diagnostics, not for trust.
    #[must_use]
    pub fn unverified_events(&self) -> &[Event<'a>] {
        &self.events
    }

    /// Longest log that is read, in bytes. Firmware reserves 64 KiB to 1 MiB.
    pub const MAX_LEN: usize = 4 << 20;

    /// Most events that are read. A boot through GRUB has about a hundred.
    pub const MAX_EVENTS: usize = 4096;
}

/// What the index in an event counts.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Bank {
    /// Measurement registers of a TD: 0 is MRTD, 1..=4 are RTMR0..=3.
    Mr,
    /// Platform configuration registers.
    Pcr,
}

impl Bank {
    const fn last(self) -> u32 {
        match self {
            Self::Mr => 4,
            Self::Pcr => 23,
        }
    }
}

/// A register, by the name that its owner gives it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Register {
    bank: Bank,
    index: u32,
}

impl fmt::Display for Register {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.bank, self.index.checked_sub(1)) {
            (Bank::Pcr, _) => write!(f, "PCR {}", self.index),
            (Bank::Mr, None) => f.write_str("MRTD"),
            (Bank::Mr, Some(rtmr)) => write!(f, "RTMR{rtmr}"),
        }
    }
}

/// TPM_ALG_ID and digest size in bytes, in the order of the header.
type Algorithms = Vec<(u16, usize)>;

const ALG_SHA256: u16 = 0x000b;
const ALG_SHA384: u16 = 0x000c;
const MAX_ALGORITHMS: u32 = 8;
const MAX_DIGEST: u16 = 64;

/// TCG_PCR_EVENT around TCG_EfiSpecIDEvent (sections 10.2.1 and 10.4.5.1).
fn read_header(reader: &mut Reader<'_>) -> Result<Algorithms, LogError> {
    let _index = reader.u32_le("pcrIndex")?;
    let kind = reader.u32_le("eventType")?;
    let _digest = reader.array::<20>("digest")?;
    let len = reader.u32_le("eventDataSize")?;
    let data = reader.slice("event", usize::try_from(len).unwrap_or(usize::MAX))?;
    let mut reader = Reader::new(data);
    let signature = reader.array::<16>("signature")?;
    if Kind(kind) != Kind::NO_ACTION || signature != b"Spec ID Event03\0" {
        return Err(LogError::NoSpecId);
    }
    let _platform_class = reader.u32_le("platformClass")?;
    let _version_errata_uintn = reader.array::<4>("specVersion")?;
    let algorithms = read_algorithms(&mut reader)?;
    let vendor = reader.u8("vendorInfoSize")?;
    reader.slice("vendorInfo", usize::from(vendor))?;
    match reader.rest().len() {
        0 => Ok(algorithms),
        len => Err(LogError::TrailingHeader { len }),
    }
}

fn read_algorithms(reader: &mut Reader<'_>) -> Result<Algorithms, LogError> {
    let count = reader.u32_le("numberOfAlgorithms")?;
    if count == 0 || count > MAX_ALGORITHMS {
        return Err(LogError::AlgorithmCount { count });
    }
    let mut algorithms = Algorithms::new();
    for _ in 0..count {
        let id = reader.u16_le("algorithmId")?;
        let size = reader.u16_le("digestSize")?;
        let fits = match id {
            ALG_SHA256 => usize::from(size) == Digest256::LEN,
            ALG_SHA384 => usize::from(size) == Digest384::LEN,
            _ => size <= MAX_DIGEST,
        };
        if !fits || algorithms.iter().any(|(known, _)| *known == id) {
            return Err(LogError::Algorithm { id, size });
        }
        algorithms.push((id, usize::from(size)));
    }
    Ok(algorithms)
}

/// A TPM log ends with its last event. In a CCEL an unused tail follows: EDK2
/// leaves 0xff there, td-shim zeros; neither can begin an event.
fn is_end(bank: Bank, rest: &[u8]) -> bool {
    let unused = |filler| rest.iter().all(|byte| *byte == filler);
    rest.is_empty() || (bank == Bank::Mr && (unused(0xff) || unused(0)))
}

/// Why bytes are not an event log.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// A digest size that cannot be right, or an algorithm listed twice.
    #[error("header lists algorithm {id:#06x} with {size} bytes, twice or with a wrong size")]
    Algorithm {
        /// TPM_ALG_ID.
        id: u16,
        /// As listed.
        size: u16,
    },
    /// No digests, or more kinds than exist.
    #[error("header lists {count} algorithms, expected 1 to {MAX_ALGORITHMS}")]
    AlgorithmCount {
        /// As read.
        count: u32,
    },
    /// One record is wrong.
    #[error("event {index} is refused")]
    Event {
        /// Position, the header not counted.
        index: usize,
        /// What is wrong with it.
        source: EventError,
    },
    /// Older logs, of SHA-1 only, begin otherwise.
    #[error("log does not begin with a \"Spec ID Event03\" event")]
    NoSpecId,
    /// More bytes than firmware reserves.
    #[error("log has {len} bytes, at most {} are read", Log::MAX_LEN)]
    TooLong {
        /// As given.
        len: usize,
    },
    /// More events than a boot has.
    #[error("log has more than {} events", Log::MAX_EVENTS)]
    TooManyEvents,
    /// The header's size disagrees with its content.
    #[error("{len} bytes follow vendorInfo in the header event")]
    TrailingHeader {
        /// Bytes left.
        len: usize,
    },
    /// The input ended inside a field.
    #[error(transparent)]
    Truncated(#[from] Truncated),
}
