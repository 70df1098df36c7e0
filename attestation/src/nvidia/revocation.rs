//! What NVIDIA says of certificates that it took back: lists, and answers to questions.
//!
//! Its lists are for what the root and the identity CAs issued, its OCSP service answers
//! for all but the last certificate of a device. Whatever is about other certificates
//! than those at hand is passed over, so that one set can serve a whole machine; what is
//! about them has to hold. Whether all have to be covered, a policy says.

use alloc::vec::Vec;

use crate::certificate::{CRL_SIGN, Certificate};
use crate::crl::{Crl, CrlError};
use crate::ocsp::{OcspError, Response, Status};
use crate::time::{UnixTime, Window};

use super::chain::Fault;

/// Revocation lists and OCSP responses, read and not verified yet.
#[derive(Clone, Debug, Default)]
pub struct Revocation<'a> {
    lists: Vec<Crl<'a>>,
    responses: Vec<Response<'a>>,
}

impl<'a> Revocation<'a> {
    /// Reads lists and responses in DER.
    pub fn parse(
        lists: impl IntoIterator<Item = &'a [u8]>,
        responses: impl IntoIterator<Item = &'a [u8]>,
    ) -> Result<Self, RevocationError> {
        let list = |(index, der)| {
            Crl::parse(der).map_err(|error| RevocationError::Crl {
                index,
                error: error.into(),
            })
        };
        let response = |(index, der)| {
            Response::parse(der).map_err(|error| RevocationError::Ocsp { index, error })
        };
        Ok(Self {
            lists: lists
                .into_iter()
                .enumerate()
                .map(list)
                .collect::<Result<_, _>>()?,
            responses: responses
                .into_iter()
                .enumerate()
                .map(response)
                .collect::<Result<_, _>>()?,
        })
    }

    /// Until when it is known that a certificate was not revoked, if anything here is
    /// about it.
    pub(super) fn check(
        &self,
        certificate: &Certificate<'_>,
        issuer: &Certificate<'_>,
        at: UnixTime,
    ) -> Result<Option<Window>, Fault> {
        let serial = certificate.serial;
        let mut windows = Vec::new();
        for list in self
            .lists
            .iter()
            .filter(|list| list.unverified_issuer() == issuer.subject)
        {
            if issuer.key_usage & CRL_SIGN == 0 {
                return Err(Fault::Crl(CrlError::Issuer));
            }
            let verified = list.clone().verify(issuer.subject, issuer.key, at);
            let (revoked, window) = verified.map_err(Fault::Crl)?;
            if revoked.contains(serial) {
                return Err(Fault::Revoked { serial });
            }
            windows.push(window);
        }
        for response in &self.responses {
            if !response.is_about(serial, issuer) {
                continue;
            }
            let (status, window) = response.verify(serial, issuer, at).map_err(Fault::Ocsp)?;
            match status {
                Status::Good => windows.push(window),
                Status::Revoked => return Err(Fault::Revoked { serial }),
                Status::Unknown => return Err(Fault::Unknown { serial }),
            }
        }
        Ok(windows.into_iter().reduce(Window::and))
    }
}

/// Why something is neither a list nor a response.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum RevocationError {
    /// Not a revocation list.
    #[error("revocation list {index}")]
    Crl {
        /// From zero.
        index: usize,
        /// What is wrong with it.
        #[source]
        error: CrlError,
    },
    /// Not an answer.
    #[error("OCSP response {index}")]
    Ocsp {
        /// From zero.
        index: usize,
        /// What is wrong with it.
        #[source]
        error: OcspError,
    },
}

impl RevocationError {
    /// Stable name, for scripts.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Crl { .. } => "crl-malformed",
            Self::Ocsp {
                error: OcspError::Unsuccessful { .. },
                ..
            } => "ocsp-unsuccessful",
            Self::Ocsp { .. } => "ocsp-malformed",
        }
    }
}
