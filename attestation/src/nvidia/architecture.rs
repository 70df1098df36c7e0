//! What kinds of device there are, as their own reports and certificates tell.

use core::fmt;

use serde::{Deserialize, Serialize};

/// A family of chips that are attested in one way.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Architecture {
    /// GPUs of the family GH100.
    Hopper,
    /// GPUs of the families GB1xx and GB2xx.
    Blackwell,
    /// NVLink switches of the third generation.
    Ls10,
}

impl Architecture {
    /// By the name of a chip, as `GH100`, `GB110` or `LS_10`.
    #[must_use]
    pub fn of_chip(name: &str) -> Option<Self> {
        match name.as_bytes() {
            b"GH100" => Some(Self::Hopper),
            [b'G', b'B', b'1' | b'2', b'0'..=b'9', b'0'..=b'9'] => Some(Self::Blackwell),
            b"LS10" | b"LS_10" => Some(Self::Ls10),
            _ => None,
        }
    }

    /// Whether it computes; otherwise it connects those that do.
    #[must_use]
    pub const fn is_gpu(self) -> bool {
        matches!(self, Self::Hopper | Self::Blackwell)
    }
}

impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Hopper => "hopper",
            Self::Blackwell => "blackwell",
            Self::Ls10 => "ls10",
        })
    }
}
