//! What a client shows to be taken for the payer of a Channel before it pays anything.
//!
//! ```text
//! cocoon-pass: CHANNEL.UNTIL.SIGNATURE
//! ```
//!
//! The address, Unix seconds, and in base64url Ed25519 by the key of the Channel's vouchers
//! over SHA-256 of `cocoon pass\n`, the network's number, CHANNEL and UNTIL, a line each. A
//! voucher would not do: the chain publishes those that were claimed.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use chain::wallet::Key;
use sha2::{Digest as _, Sha256};
use tycho_types::cell::HashBytes;
use tycho_types::models::StdAddr;

/// The header that it comes in.
pub const PASS: &str = "cocoon-pass";

/// As it came: nobody has looked whose key signed it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Pass {
    channel: StdAddr,
    until: u32,
    signature: [u8; 64],
}

impl Pass {
    /// Of a Channel on a network, for a few minutes from `now`, in Unix seconds.
    #[must_use]
    pub fn new(key: &Key, global_id: i32, channel: StdAddr, now: u32) -> Self {
        let until = now.saturating_add(HOLDS);
        let hash = HashBytes(hash(global_id, &channel, until));
        Self {
            signature: key.sign(&hash),
            channel,
            until,
        }
    }

    /// Whose it says it is.
    #[must_use]
    pub const fn channel(&self) -> &StdAddr {
        &self.channel
    }

    /// Whether the holder of `key` made it, and it holds now.
    pub fn check(&self, key: &HashBytes, global_id: i32, now: u32) -> Result<(), PassError> {
        if self.until < now || self.until > now.saturating_add(LONGEST) {
            let until = self.until;
            return Err(PassError::Time { until, now });
        }
        let hash = hash(global_id, &self.channel, self.until);
        let signed = UnparsedPublicKey::new(&ED25519, &key.0).verify(&hash, &self.signature);
        signed.map_err(|_| PassError::Forged)
    }
}

impl FromStr for Pass {
    type Err = PassError;

    fn from_str(text: &str) -> Result<Self, PassError> {
        let mut parts = text.splitn(3, '.');
        let mut part = || parts.next().ok_or(PassError::Form);
        let (channel, until, signature) = (part()?, part()?, part()?);
        // It wants whole groups of three.
        let mut bytes = [0; 66];
        let decoded = BASE64_URL_SAFE_NO_PAD.decode_slice(signature, &mut bytes);
        let signature = bytes.first_chunk().filter(|_| decoded == Ok(64));
        let pass = Self {
            channel: channel.parse().map_err(|_| PassError::Form)?,
            until: until.parse().map_err(|_| PassError::Form)?,
            signature: *signature.ok_or(PassError::Form)?,
        };
        // One text for each: what is signed is what was written.
        match pass.to_string() == text {
            true => Ok(pass),
            false => Err(PassError::Form),
        }
    }
}

impl fmt::Display for Pass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let signature = BASE64_URL_SAFE_NO_PAD.encode(self.signature);
        write!(f, "{}.{}.{signature}", self.channel, self.until)
    }
}

fn hash(global_id: i32, channel: &StdAddr, until: u32) -> [u8; 32] {
    let text = format!("cocoon pass\n{global_id}\n{channel}\n{until}\n");
    Sha256::digest(text).into()
}

/// Seconds.
const HOLDS: u32 = 300;

/// For clocks that are fast.
const LONGEST: u32 = 3600;

/// Why a pass shows nothing.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum PassError {
    /// By another key, or of another network.
    #[error("the pass is not signed by the key of its Channel")]
    Forged,
    /// Something else.
    #[error("a pass is a Channel's address, Unix seconds and a signature, with dots between")]
    Form,
    /// Over, or for longer than anyone needs.
    #[error("the pass holds until {until}, and now is {now}")]
    Time {
        /// Unix seconds.
        until: u32,
        /// Unix seconds.
        now: u32,
    },
}

#[cfg(test)]
#[allow(clippy::arithmetic_side_effects, reason = "a panic is a failure")]
mod tests {
    use super::*;

    use proptest::prelude::*;

    const NOW: u32 = 1_800_000_000;
    const NETWORK: i32 = -777;

    fn key(number: u8) -> Key {
        Key::from_seed([number; 32])
    }

    fn pass() -> Pass {
        let channel = StdAddr::new(0, HashBytes([7; 32]));
        Pass::new(&key(1), NETWORK, channel, NOW)
    }

    #[test]
    fn a_pass_is_read_as_it_was_written_and_holds_for_its_key_network_and_time() {
        let text = pass().to_string();
        let read: Pass = text.parse().unwrap();
        assert_eq!(read, pass());
        // As `web/test/payment.test.mjs` has it.
        let expected = "0:0707070707070707070707070707070707070707070707070707070707070707.\
             1800000300.8sO8RbMpydBgSKfLrp8JmWxEQCHHGDpP901R6gkjWGv0cx8jgZyjKQeS26j3cXq5MpIk0ZtG\
             RJZNSmCuOFxeCg";
        assert_eq!(text, expected);
        let check = |key: u8, network, now| read.check(&self::key(key).public(), network, now);
        assert_eq!(check(1, NETWORK, NOW), Ok(()));
        assert_eq!(check(2, NETWORK, NOW), Err(PassError::Forged));
        assert_eq!(check(1, -239, NOW), Err(PassError::Forged));
        let until = NOW + HOLDS;
        for now in [until + 1, until - LONGEST - 1] {
            assert_eq!(check(1, NETWORK, now), Err(PassError::Time { until, now }));
        }
        let other = Pass {
            channel: StdAddr::new(0, HashBytes([8; 32])),
            ..read.clone()
        };
        let checked = other.check(&key(1).public(), NETWORK, NOW);
        assert_eq!(checked, Err(PassError::Forged));
    }

    #[test]
    fn no_part_of_one_is_a_pass_and_there_is_one_text_for_each() {
        let text = pass().to_string();
        for end in 0..text.len() {
            assert_eq!(text[..end].parse::<Pass>(), Err(PassError::Form), "{end}");
        }
        for other in [
            format!("{text}A"),
            text.replacen("0:", "00:", 1),
            text.replacen(".18", ".018", 1),
            text.replacen(".18", ".+18", 1),
        ] {
            assert_eq!(other.parse::<Pass>(), Err(PassError::Form), "{other}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_a_panic(text in ".*") {
            drop(text.parse::<Pass>());
        }
    }
}
