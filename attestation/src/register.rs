//! Measurement registers and the digests they hold.
//!
//! A register says nothing about who reported it: that is the quote's part.

use core::fmt;
use core::str::FromStr;

use sha2::{Digest, Sha256, Sha384};

macro_rules! digest {
    ($name:ident, $len:literal, $hash:ty, $doc:literal) => {
        #[doc = $doc]
        #[derive(Clone, Copy, Eq, Hash, Ord, PartialEq, PartialOrd)]
        pub struct $name([u8; $len]);

        impl $name {
            /// Hashes `bytes`.
            #[must_use]
            pub fn of(bytes: &[u8]) -> Self {
                Self(<$hash>::digest(bytes).into())
            }

            /// `H(self || event)`: how every measurement register moves.
            #[must_use]
            pub fn extend(self, event: Self) -> Self {
                let next = <$hash>::new().chain_update(self.0).chain_update(event.0);
                Self(next.finalize().into())
            }

            /// Takes bytes that are a digest already.
            #[must_use]
            pub const fn from_bytes(bytes: [u8; $len]) -> Self {
                Self(bytes)
            }

            /// The raw bytes, in memory order.
            #[must_use]
            pub const fn as_bytes(&self) -> &[u8; $len] {
                &self.0
            }

            /// Width in bytes.
            pub const LEN: usize = $len;

            /// All bits clear: a register at reset.
            pub const ZERO: Self = Self([0; $len]);
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = DigestError;

            /// Exactly the lower-case form that `Display` writes.
            fn from_str(text: &str) -> Result<Self, DigestError> {
                let mut bytes = [0; $len];
                let error = DigestError { expected: $len };
                if text.bytes().any(|byte| byte.is_ascii_uppercase()) {
                    return Err(error);
                }
                hex::decode_to_slice(text, &mut bytes).map_err(|_| error)?;
                Ok(Self(bytes))
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                let text = <alloc::borrow::Cow<'de, str>>::deserialize(from)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

digest!(
    Digest256,
    32,
    Sha256,
    "Output of SHA-256, and one TPM register of that bank."
);
digest!(
    Digest384,
    48,
    Sha384,
    "Output of SHA-384, and one TDX register."
);

/// Text that is not a digest.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("not a digest: expected {} lower-case hex digits", expected.saturating_mul(2))]
pub struct DigestError {
    /// Width in bytes of the digest that was wanted.
    pub expected: usize,
}

/// What a TDX module reports about a TD, apart from its attributes.
///
/// Source: Intel TDX Module Base Architecture Specification, "TDINFO_STRUCT".
#[derive(
    Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, serde::Deserialize, serde::Serialize,
)]
#[serde(deny_unknown_fields)]
pub struct TdRegisters {
    /// Build-time measurement: the firmware.
    pub mrtd: Digest384,
    /// Firmware settings, memory map, ACPI, variables.
    pub rtmr0: Digest384,
    /// Kernel.
    pub rtmr1: Digest384,
    /// Command line and initrd.
    pub rtmr2: Digest384,
    /// Free for the guest; ours leaves it at reset.
    pub rtmr3: Digest384,
}

impl TdRegisters {
    /// Names the build: SHA-256 of all five, in order.
    #[must_use]
    pub fn build(&self) -> Digest256 {
        let registers = [
            &self.mrtd,
            &self.rtmr0,
            &self.rtmr1,
            &self.rtmr2,
            &self.rtmr3,
        ];
        let hash = registers.into_iter().fold(Sha256::new(), |hash, register| {
            hash.chain_update(register.as_bytes())
        });
        Digest256::from_bytes(hash.finalize().into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn extend_hashes_old_value_then_event() {
        let event = Digest256::of(b"event");
        let expected = Digest256::of(&[&[0; 32][..], event.as_bytes()].concat());
        assert_eq!(Digest256::ZERO.extend(event), expected);
    }

    #[test]
    fn text_form_is_lower_case_hex_both_ways() {
        let digest = Digest384::of(b"x");
        assert_eq!(digest.to_string().parse(), Ok(digest));
        assert_eq!(
            digest.to_string().to_uppercase().parse::<Digest384>(),
            Err(DigestError { expected: 48 })
        );
    }

    #[test]
    fn a_digest_of_another_width_is_refused() {
        let error = Digest256::of(b"x").to_string().parse::<Digest384>();
        assert_eq!(
            error.unwrap_err().to_string(),
            "not a digest: expected 96 lower-case hex digits"
        );
    }
}
