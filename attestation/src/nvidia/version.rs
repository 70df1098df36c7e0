//! Versions of drivers and firmware, as they are ordered.

use alloc::borrow::Cow;
use alloc::string::String;
use alloc::vec::Vec;
use core::cmp::Ordering;
use core::fmt;
use core::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Numbers with dots between them, the first one the most important.
///
/// A firmware's are hexadecimal, a driver's are not; read as hexadecimal either way,
/// since that keeps the order of decimal numbers.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Version {
    parts: Vec<u32>,
    text: String,
}

impl Version {
    /// Before every other one.
    #[must_use]
    pub fn first() -> Self {
        Self {
            parts: Vec::new(),
            text: "0".into(),
        }
    }
}

impl FromStr for Version {
    type Err = VersionError;

    fn from_str(text: &str) -> Result<Self, VersionError> {
        let part = |part: &str| {
            let plain = part.bytes().all(|byte| byte.is_ascii_hexdigit());
            u32::from_str_radix(part, 16).ok().filter(|_| plain)
        };
        let parts: Option<Vec<_>> = text.split('.').map(part).collect();
        Ok(Self {
            parts: parts
                .filter(|parts| parts.len() <= MOST_PARTS)
                .ok_or(VersionError)?,
            text: text.into(),
        })
    }
}

impl Ord for Version {
    fn cmp(&self, other: &Self) -> Ordering {
        self.parts
            .cmp(&other.parts)
            .then_with(|| self.text.cmp(&other.text))
    }
}

impl PartialOrd for Version {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Serialize for Version {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for Version {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Cow::<'de, str>::deserialize(from)?
            .parse()
            .map_err(de::Error::custom)
    }
}

/// Text that is no version.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("not a version: expected numbers with dots between them")]
pub struct VersionError;

/// A firmware's has five.
const MOST_PARTS: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    fn version(text: &str) -> Version {
        text.parse().unwrap()
    }

    #[test]
    fn versions_are_ordered_number_by_number() {
        for (older, newer) in [
            ("0", "545.00"),
            ("545.00", "550.90.07"),
            ("99.1", "100.0"),
            ("590.9", "590.12"),
            ("590.12", "590.12.01"),
            ("96.00.5E.00.01", "96.00.74.00.01"),
            ("96.00.9F.00.01", "96.00.A5.00.01"),
        ] {
            assert!(version(older) < version(newer), "{older} {newer}");
        }
        assert!(Version::first() < version("0"));
        assert_eq!(version("96.00.5E").to_string(), "96.00.5E");
    }

    #[test]
    fn other_text_is_no_version() {
        for text in [
            "",
            ".",
            "1.",
            "1..2",
            "+1",
            "1.x",
            "1 ",
            "123456789",
            "1.1.1.1.1.1.1.1.1",
        ] {
            assert_eq!(text.parse::<Version>(), Err(VersionError), "{text}");
        }
    }

    use alloc::string::ToString;
}
