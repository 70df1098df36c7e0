//! The machine that a worker runs on: what a record is about.
//!
//! ```text
//! machine = SHA-256("cocoon/machine/v1\0" || PPID in hex)
//! ```
//!
//! Keys of a worker are as old as its boot, and a name that it gives itself is nobody's. The
//! PPID is in the certificate that Intel gave the processor's package, and so in every quote:
//! a worker that comes back with other keys, or under another owner, has the record of its
//! machine, and nobody can give another's machine a bad one. It takes a processor to start
//! anew. All TDs of a machine share a record, whoever rents them: a published build does not
//! lie, and who can make one lie has the machine.
//!
//! Source: Intel SGX PCK Certificate and CRL Profile Specification, revision 1.5, section
//! 1.3.5.

use std::fmt;

use attestation::policy::Trusted;
use attestation::register::Digest256;
use serde::{Deserialize, Serialize};

/// One machine.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(transparent)]
pub struct Machine(pub Digest256);

/// What a worker's evidence says of where it runs, and of what.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Proof {
    /// On what.
    pub machine: Machine,
    /// The kernel and all that is in its initrd: where it is the same, and the model, the
    /// same is answered with the same seed. None with a GPU, whose sums may differ.
    pub engine: Option<Digest256>,
}

impl Proof {
    /// Of a TD; nothing else names its hardware.
    #[must_use]
    pub fn of(trusted: &Trusted) -> Option<Self> {
        let found = |name: &str| {
            let check = trusted.checks().iter().find(|check| check.name == name)?;
            Some(check.found.as_str())
        };
        let engine = [found("rtmr1")?, found("rtmr2")?].concat();
        Some(Self {
            machine: Machine(Digest256::of(
                [TAG, found("ppid")?.as_bytes()].concat().as_slice(),
            )),
            engine: (found("gpu-mode")? == "no GPU").then(|| Digest256::of(engine.as_bytes())),
        })
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

const TAG: &[u8] = b"cocoon/machine/v1\0";
