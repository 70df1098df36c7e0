//! What evidence is about: one definition of REPORTDATA for every platform.
//!
//! ```text
//! EKM        = TLS-Exporter("EXPORTER-cocoon-attest-v1", SHA-384(nonce || ALPN || role), 64)
//! Binding    = SHA-512("cocoon/attest/v1\0" || SHA-384(SPKI) || EKM || nonce)
//!            | SHA-512("cocoon/sealed/v1\0" || keyset digest || nonce)
//! TreeHead   = of the tree over the bindings that one quote serves (batch.rs)
//! REPORTDATA = SHA-512("cocoon/quote/v1\0" || TreeHead || G || SHA-384(state))
//! G          = SHA-384 over the length-prefixed GPU reports and chains
//! ```
//!
//! The exporter names one TLS session and the nonce one moment in it, so that
//! evidence of another session, or of an earlier moment, has another value. A client
//! that seals its requests has no session: its evidence is about a keyset. A
//! leaked TLS key alone does not help: relaying needs this session's secrets.
//! All fields have fixed widths, so nothing can move across a boundary.
//!
//! TDX carries the value in REPORTDATA, a TPM in TPMS_ATTEST.extraData.
//!
//! Source: RFC 8446, section 7.5 (exporters); the construction follows
//! draft-fossati-seat-expat in spirit: evidence after the handshake.

use core::fmt;

use sha2::{Digest, Sha256, Sha384, Sha512};

use crate::register::{Digest256, Digest384};

/// Application protocol of an attested connection. Nothing else is spoken.
pub const ALPN: &[u8] = b"cocoon/1";

/// Exporter label (RFC 8446, section 7.5).
pub const EXPORTER_LABEL: &[u8] = b"EXPORTER-cocoon-attest-v1";

/// Keying material that both ends of one TLS session derive from its secrets.
pub type KeyingMaterial = [u8; 64];

/// The verifier's fresh random number.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Nonce(pub [u8; 32]);

impl Nonce {
    /// Exporter context: ties the keying material to this nonce.
    #[must_use]
    pub fn exporter_context(&self) -> Digest384 {
        let hash = Sha384::new()
            .chain_update(self.0)
            .chain_update(ALPN)
            .chain_update(b"worker");
        Digest384::from_bytes(hash.finalize().into())
    }
}

/// One nonce in one TLS session with the holder of one key.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Binding([u8; 64]);

impl Binding {
    /// `spki` is SHA-384 of the server certificate's SubjectPublicKeyInfo.
    #[must_use]
    pub fn new(spki: &Digest384, ekm: &KeyingMaterial, nonce: &Nonce) -> Self {
        let hash = Sha512::new()
            .chain_update(b"cocoon/attest/v1\0")
            .chain_update(spki.as_bytes())
            .chain_update(ekm)
            .chain_update(nonce.0);
        Self(hash.finalize().into())
    }

    /// Of the keyset with this digest, outside any session.
    #[must_use]
    pub fn sealed(keyset: &Digest256, nonce: &Nonce) -> Self {
        let hash = Sha512::new()
            .chain_update(b"cocoon/sealed/v1\0")
            .chain_update(keyset.as_bytes())
            .chain_update(nonce.0);
        Self(hash.finalize().into())
    }

    /// For the leaf of a tree.
    pub(crate) const fn as_bytes(&self) -> &[u8; 64] {
        &self.0
    }
}

/// The 64 bytes that a TD or a TPM signs along with its registers.
#[derive(Clone, Copy, Eq, PartialEq)]
pub struct ReportData(pub [u8; 64]);

impl ReportData {
    /// For the certificate: SHA-256 of the claims buffer, then zeros.
    ///
    /// Source: Interoperable RA-TLS, SGX/TDX evidence formats. Never equal to a
    /// session's value, whose upper half is part of a SHA-512.
    #[must_use]
    pub fn of_claims(claims_buffer: &[u8]) -> Self {
        let mut bytes = [0; 64];
        let (low, _) = bytes.split_at_mut(32);
        low.copy_from_slice(&Sha256::digest(claims_buffer));
        Self(bytes)
    }
}

impl fmt::Display for ReportData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ReportData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPKI: Digest384 = Digest384::from_bytes([1; 48]);
    const EKM: KeyingMaterial = [2; 64];
    const NONCE: Nonce = Nonce([3; 32]);

    #[test]
    fn key_session_and_nonce_each_change_the_binding() {
        let binding = Binding::new(&SPKI, &EKM, &NONCE);
        assert_ne!(binding, Binding::new(&Digest384::ZERO, &EKM, &NONCE));
        assert_ne!(binding, Binding::new(&SPKI, &[0; 64], &NONCE));
        assert_ne!(binding, Binding::new(&SPKI, &EKM, &Nonce([0; 32])));
        assert_ne!(NONCE.exporter_context(), Nonce([0; 32]).exporter_context());
    }

    #[test]
    fn keyset_and_nonce_each_change_the_binding_of_a_sealed_client() {
        let binding = Binding::sealed(&Digest256::ZERO, &NONCE);
        let other = Digest256::from_bytes([1; 32]);
        assert_ne!(binding, Binding::sealed(&other, &NONCE));
        assert_ne!(binding, Binding::sealed(&Digest256::ZERO, &Nonce([0; 32])));
    }

    #[test]
    fn a_certificate_claim_ends_in_zeros() {
        let claims = ReportData::of_claims(b"claims");
        assert_eq!(claims.0[..32], Sha256::digest(b"claims")[..]);
        assert_eq!(claims.0[32..], [0; 32]);
    }
}
