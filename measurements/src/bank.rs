//! Registers together with the events that make them.
//!
//! A bank holds events only; a register's value is their fold. So a prediction
//! cannot be without its explanation, nor disagree with it.

use alloc::borrow::Cow;
use alloc::vec::Vec;
use core::fmt;

use attestation::register::{Digest256, Digest384};
use serde::{Serialize, Serializer};

use crate::digests::Digests;

/// Events in the order in which a boot extends them.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Bank {
    events: Vec<Event>,
}

impl Bank {
    /// Appends one event.
    pub fn extend(
        &mut self,
        register: Register,
        digests: Digests,
        what: impl Into<Cow<'static, str>>,
        source: Source,
    ) {
        self.events.push(Event {
            register,
            digests,
            what: what.into(),
            source,
        });
    }

    /// All events, oldest first.
    #[must_use]
    pub fn events(&self) -> &[Event] {
        &self.events
    }

    /// The events of one register, oldest first.
    pub fn events_of(&self, register: Register) -> impl Iterator<Item = &Event> {
        self.events
            .iter()
            .filter(move |event| event.register == register)
    }

    /// Value of a PCR in the SHA-256 bank.
    #[must_use]
    pub fn pcr(&self, index: u8) -> Digest256 {
        self.events_of(Register::Pcr(index))
            .fold(Digest256::ZERO, |value, event| {
                value.extend(event.digests.sha256)
            })
    }

    /// Value of an RTMR.
    #[must_use]
    pub fn rtmr(&self, index: u8) -> Digest384 {
        self.events_of(Register::Rtmr(index))
            .fold(Digest384::ZERO, |value, event| {
                value.extend(event.digests.sha384)
            })
    }
}

/// One extend.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Event {
    /// What was extended.
    pub register: Register,
    /// With what.
    pub digests: Digests,
    /// What was hashed, in words.
    pub what: Cow<'static, str>,
    /// Which input decides the digest.
    pub source: Source,
}

/// A register that a boot extends.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Register {
    /// Of a TPM.
    Pcr(u8),
    /// Of a TD.
    Rtmr(u8),
}

impl fmt::Display for Register {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pcr(index) => write!(f, "PCR {index}"),
            Self::Rtmr(index) => write!(f, "RTMR{index}"),
        }
    }
}

impl Serialize for Register {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

/// The artefact or setting behind an event.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Source {
    /// The command line, and how this firmware spells it.
    CommandLine,
    /// The measured configuration file.
    Config,
    /// The same in every boot.
    Constant,
    /// The disk that is booted from.
    Disk,
    /// The firmware file.
    Firmware,
    /// The initrd file.
    Initrd,
    /// The kernel file.
    Kernel,
    /// The VM's shape: processors, memory, devices, QEMU.
    Shape,
    /// The unified kernel image.
    Uki,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::CommandLine => "command line",
            Self::Config => "measured config",
            Self::Constant => "constant",
            Self::Disk => "disk",
            Self::Firmware => "firmware",
            Self::Initrd => "initrd",
            Self::Kernel => "kernel",
            Self::Shape => "VM shape",
            Self::Uki => "unified kernel image",
        })
    }
}

impl Serialize for Source {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_register_is_the_fold_of_its_own_events() {
        let mut bank = Bank::default();
        let [a, b] = [b"a", b"b"].map(|bytes| Digests::of(bytes));
        bank.extend(Register::Pcr(1), a, "a", Source::Kernel);
        bank.extend(Register::Rtmr(1), a, "a", Source::Kernel);
        bank.extend(Register::Pcr(1), b, "b", Source::Initrd);
        let expected = Digest256::ZERO.extend(a.sha256).extend(b.sha256);
        assert_eq!(bank.pcr(1), expected);
        assert_eq!(bank.rtmr(1), Digest384::ZERO.extend(a.sha384));
        assert_eq!(bank.pcr(2), Digest256::ZERO);
    }
}
