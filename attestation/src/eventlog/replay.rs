//! From events to registers, and the comparison that makes a log worth reading.

use super::{ALG_SHA256, ALG_SHA384, Bank, Event, Kind, Log, Register};
use crate::register::{Digest256, Digest384};

/// A log that gives exactly the registers it was compared with.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Replayed<'a>(Log<'a>);

impl<'a> Replayed<'a> {
    /// Every event, in order.
    #[must_use]
    pub fn events(&self) -> &[Event<'a>] {
        &self.0.events
    }
}

impl<'a> Log<'a> {
    /// Compares with signed PCRs 0 to 15 of the SHA-256 bank.
    ///
    /// `late` are extends that the caller knows of and the log cannot: what was
    /// measured after the firmware closed it.
    pub fn verify_pcrs(
        self,
        signed: &[Digest256; 16],
        late: &[(usize, Digest256)],
    ) -> Result<Replayed<'a>, ReplayError> {
        let mut replayed = self.replay_pcrs()?;
        for (index, digest) in late {
            let pcr = replayed.get_mut(*index);
            let pcr = pcr.ok_or(ReplayError::NoSuchPcr { index: *index })?;
            *pcr = pcr.extend(*digest);
        }
        for ((index, expected), found) in (0..).zip(&replayed).zip(signed) {
            compare(Bank::Pcr, index, expected, found)?;
        }
        self.check_separators()?;
        Ok(Replayed(self))
    }

    /// Compares with the signed RTMR0 to RTMR3.
    pub fn verify_rtmrs(self, signed: &[Digest384; 4]) -> Result<Replayed<'a>, ReplayError> {
        let replayed = self.replay_rtmrs()?;
        for ((index, expected), found) in (1..).zip(&replayed).zip(signed) {
            compare(Bank::Mr, index, expected, found)?;
        }
        self.check_separators()?;
        Ok(Replayed(self))
    }

    /// The SHA-256 bank after these events.
    pub fn replay_pcrs(&self) -> Result<[Digest256; 24], ReplayError> {
        self.needs(Bank::Pcr, ALG_SHA256)?;
        let mut pcrs = pcrs_at_reset();
        for event in &self.events {
            let Some(pcr) = register(&mut pcrs, event.register.index) else {
                continue;
            };
            match (event.extends(), event.sha256) {
                (true, Some(digest)) => *pcr = pcr.extend(digest),
                _ => *pcr = startup_locality(event).unwrap_or(*pcr),
            }
        }
        Ok(pcrs)
    }

    /// RTMR0 to RTMR3 after these events. A TPM log with a SHA-384 bank is folded
    /// as a TD's firmware would have (UEFI 2.10, section 38.4.1).
    pub fn replay_rtmrs(&self) -> Result<[Digest384; 4], ReplayError> {
        self.needs(self.bank, ALG_SHA384)?;
        let mut rtmrs = [Digest384::ZERO; 4];
        for event in self.events.iter().filter(|event| event.extends()) {
            let rtmr = rtmr_index(event.register).and_then(|index| register(&mut rtmrs, index));
            if let (Some(rtmr), Some(digest)) = (rtmr, event.sha384) {
                *rtmr = rtmr.extend(digest);
            }
        }
        Ok(rtmrs)
    }

    /// One separator closes each register (section 3.3.2.2). A second one hides
    /// which events came before the operating system's.
    fn check_separators(&self) -> Result<(), ReplayError> {
        let mut seen = [false; 24];
        let separators =
            (self.events.iter().enumerate()).filter(|(_, event)| event.kind == Kind::SEPARATOR);
        for (index, event) in separators {
            let seen = register(&mut seen, event.register.index);
            if seen.is_some_and(|seen| core::mem::replace(seen, true)) {
                return Err(ReplayError::DuplicateSeparator {
                    index,
                    register: event.register,
                });
            }
        }
        Ok(())
    }

    fn needs(&self, bank: Bank, algorithm: u16) -> Result<(), ReplayError> {
        let has = self.algorithms.iter().any(|(id, _)| *id == algorithm);
        match has && self.bank == bank {
            true => Ok(()),
            false => Err(ReplayError::MissingBank { algorithm }),
        }
    }
}

/// PCR 17 to 22 are all ones until a dynamic launch (TPM 2.0 PC Client Platform
/// TPM Profile, table 2).
fn pcrs_at_reset() -> [Digest256; 24] {
    core::array::from_fn(|index| match index {
        17..=22 => Digest256::from_bytes([0xff; 32]),
        _ => Digest256::ZERO,
    })
}

/// EV_NO_ACTION "StartupLocality" gives PCR 0 before its first extend
/// (section 10.4.5.3).
fn startup_locality(event: &Event<'_>) -> Option<Digest256> {
    let mut value = [0; 32];
    let locality = event.data.strip_prefix(b"StartupLocality\0")?;
    let ([locality], 0) = (locality, event.register.index) else {
        return None;
    };
    *value.last_mut()? = *locality;
    Some(Digest256::from_bytes(value))
}

fn rtmr_index(register: Register) -> Option<u32> {
    match (register.bank, register.index) {
        (Bank::Mr, index) => index.checked_sub(1),
        (Bank::Pcr, 1 | 7) => Some(0),
        (Bank::Pcr, 2..=6) => Some(1),
        (Bank::Pcr, 8..=15) => Some(2),
        (Bank::Pcr, _) => None,
    }
}

fn register<T>(bank: &mut [T], index: u32) -> Option<&mut T> {
    bank.get_mut(usize::try_from(index).ok()?)
}

fn compare<T: core::fmt::Display + PartialEq>(
    bank: Bank,
    index: u32,
    expected: &T,
    found: &T,
) -> Result<(), ReplayError> {
    match expected == found {
        true => Ok(()),
        false => Err(ReplayError::Register {
            register: Register { bank, index },
            expected: alloc::format!("{expected}"),
            found: alloc::format!("{found}"),
        }),
    }
}

/// Why a log does not explain registers.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ReplayError {
    /// A register was closed twice.
    #[error("event {index} is a second separator in {register}")]
    DuplicateSeparator {
        /// Position, the header not counted.
        index: usize,
        /// Where it went.
        register: Register,
    },
    /// The log does not speak of these registers.
    #[error("log has no bank of algorithm {algorithm:#06x} for these registers")]
    MissingBank {
        /// TPM_ALG_ID.
        algorithm: u16,
    },
    /// A late extend of a register that does not exist.
    #[error("there is no PCR {index}")]
    NoSuchPcr {
        /// As given.
        index: usize,
    },
    /// Something was extended that is not in the log, or the other way round.
    #[error("{register} is {found}, the log gives {expected}")]
    Register {
        /// The first that differs.
        register: Register,
        /// By the log.
        expected: alloc::string::String,
        /// As signed.
        found: alloc::string::String,
    },
}
