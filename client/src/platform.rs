//! Who speaks for a machine, as users name it.

use std::fmt;

use clap::ValueEnum;
use measurements::shape;
use serde::{Deserialize, Serialize};

/// What has to speak for a machine.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Platform {
    /// A TD on Intel hardware.
    Tdx,
    /// A TPM that the host or a paravisor provides: measured boot proved, memory
    /// not confidential.
    Vtpm,
}

impl From<Platform> for shape::Platform {
    fn from(platform: Platform) -> Self {
        match platform {
            Platform::Tdx => Self::Tdx,
            Platform::Vtpm => Self::Vtpm,
        }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&shape::Platform::from(*self).to_string())
    }
}
