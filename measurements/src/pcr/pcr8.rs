//! PCR 8: the measured configuration. Extended by our init, so it is in no firmware log.

use attestation::register::Digest384;

use crate::bank::{Bank, Register, Source};
use crate::digests::Digests;

/// Extends the one event of init: TPM2_PCR_Event over the 48 bytes of the
/// configuration's SHA-384, which each bank hashes again (TPM 2.0 part 3, section 22.3).
pub fn extend(bank: &mut Bank, config: Digest384) {
    let digests = Digests::of(config.as_bytes());
    bank.extend(Register::Pcr(8), digests, "configuration", Source::Config);
}

#[cfg(test)]
mod tests {
    use super::*;
    use attestation::register::Digest256;

    #[test]
    fn the_digest_is_hashed_once_more() {
        let config = Digest384::of(b"version = 1\n");
        let mut bank = Bank::default();
        extend(&mut bank, config);
        let event = Digest256::of(config.as_bytes());
        let expected = Digest256::of(&[&[0; 32][..], event.as_bytes()].concat());
        assert_eq!(bank.pcr(8), expected);
    }
}
