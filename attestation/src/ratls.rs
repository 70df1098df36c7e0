//! Evidence in a certificate, in the form that other verifiers read.
//!
//! ```text
//! extension  2.23.133.5.4.9 (tcg-dice-conceptual-message-wrapper), not critical
//! value      60000([ quote, claims-buffer ])
//! claims     { "pubkey-hash": << [ 7, SHA-384(SubjectPublicKeyInfo) ] >> }
//! REPORTDATA SHA-256(claims-buffer), then zeros
//! ```
//!
//! It names a key and no session, so it may be relayed by whoever holds the key:
//! fit for an early look, not for trust.
//!
//! Source: Interoperable RA-TLS (Confidential Computing Consortium), "X.509 Cert
//! and Evidence Formats" and "SGX / TDX Evidence Tags and Formats"; hash numbers
//! from IANA's named information registry.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use minicbor::bytes::ByteVec;
use minicbor::data::Tagged;

use crate::cbor::{self, CborError};
use crate::register::Digest384;

/// tcg-dice-conceptual-message-wrapper.
pub const EVIDENCE_OID: &[u64] = &[2, 23, 133, 5, 4, 9];

/// The claims buffer that binds a quote to a public key.
#[must_use]
pub fn claims_for(spki: &[u8]) -> Vec<u8> {
    let hash = ByteVec::from(Digest384::of(spki).as_bytes().to_vec());
    let entry = ByteVec::from(cbor::encode(&(SHA_384, hash)));
    cbor::encode(&BTreeMap::from([(PUBKEY_HASH, entry)]))
}

/// The value of the certificate extension.
#[must_use]
pub fn extension(quote: &[u8], claims: &[u8]) -> Vec<u8> {
    let quote = ByteVec::from(quote.to_vec());
    let claims = ByteVec::from(claims.to_vec());
    cbor::encode(&TeeQuote::new((quote, claims)))
}

/// Reads the extension back: quote and claims buffer.
pub fn read_extension(value: &[u8]) -> Result<(Vec<u8>, Vec<u8>), CborError> {
    let evidence: TeeQuote = cbor::decode(value)?;
    let (quote, claims) = evidence.into_value();
    Ok((quote.into(), claims.into()))
}

/// "Intel TEE quote, including all SGX and TDX ECDSA quote types".
type TeeQuote = Tagged<60000, (ByteVec, ByteVec)>;

const PUBKEY_HASH: &str = "pubkey-hash";

/// In IANA's named information hash algorithm registry.
const SHA_384: u8 = 7;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_extension_is_the_registered_form() {
        let value = extension(&[0xaa], &[0xbb]);
        // tag 60000 (0xea60), array of two byte strings
        assert_eq!(value, [0xd9, 0xea, 0x60, 0x82, 0x41, 0xaa, 0x41, 0xbb]);
        assert_eq!(read_extension(&value), Ok(([0xaa].into(), [0xbb].into())));
    }

    #[test]
    fn claims_hold_the_hash_of_the_key() {
        let claims = claims_for(b"key");
        let hash = Digest384::of(b"key");
        // map of one: text(11), bytes(52) around [7, bytes(48)]
        let head = [
            &[0xa1, 0x6b][..],
            b"pubkey-hash",
            &[0x58, 0x34, 0x82, 0x07, 0x58, 0x30],
        ];
        assert_eq!(claims, [&head.concat()[..], hash.as_bytes()].concat());
    }

    #[test]
    fn every_proper_prefix_of_the_extension_is_refused() {
        let value = extension(&[1; 30], &claims_for(b"key"));
        for cut in 0..value.len() {
            assert!(read_extension(&value[..cut]).is_err(), "cut at {cut}");
        }
    }
}
