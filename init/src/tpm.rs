//! Two TPM commands, enough to record one event and to see that it was the first.
//!
//! Integers are big-endian. Each command and response starts with a tag u16, its
//! whole size u32 and a code u32.
//!
//! Source: TCG TPM 2.0 Library Specification, part 3: `TPM2_PCR_Event`,
//! `TPM2_PCR_Read`; part 2 for the constants.

use attestation::reader::{Reader, Truncated};
use attestation::register::Digest256;

/// `TPM2_PCR_Event`: the TPM hashes `data` with each of its banks and extends `pcr`.
pub(crate) fn pcr_event(pcr: u8, data: &[u8; 48]) -> Vec<u8> {
    let mut body = Vec::new();
    body.extend_from_slice(&u32::from(pcr).to_be_bytes());
    // Authorisation area: 9 bytes, the empty password.
    body.extend_from_slice(&9_u32.to_be_bytes());
    body.extend_from_slice(&TPM_RS_PW.to_be_bytes());
    body.extend_from_slice(&[0; 5]); // no nonce, no attributes, no password
    body.extend_from_slice(&48_u16.to_be_bytes());
    body.extend_from_slice(data);
    command(TPM_ST_SESSIONS, TPM_CC_PCR_EVENT, &body)
}

/// Whether the TPM recorded the event.
pub(crate) fn pcr_event_done(response: &[u8]) -> Result<(), TpmError> {
    success(response).map(drop)
}

/// `TPM2_PCR_Read` of one register in the SHA-256 bank.
pub(crate) fn pcr_read(pcr: u8) -> Vec<u8> {
    let mut body = Vec::new();
    body.extend_from_slice(&1_u32.to_be_bytes());
    body.extend_from_slice(&TPM_ALG_SHA256.to_be_bytes());
    let selected = 1_u32.checked_shl(pcr.into()).unwrap_or_default();
    let [first, second, third, _] = selected.to_le_bytes();
    body.extend_from_slice(&[3, first, second, third]);
    command(TPM_ST_NO_SESSIONS, TPM_CC_PCR_READ, &body)
}

/// The register's value.
pub(crate) fn pcr_value(response: &[u8]) -> Result<Digest256, TpmError> {
    let mut body = success(response)?;
    body.u32_be("pcrUpdateCounter")?;
    exactly_one(&mut body, "bank")?;
    body.u16_be("hash algorithm")?;
    let size = body.u8("size of selection")?;
    body.slice("selection", size.into())?;
    exactly_one(&mut body, "digest")?;
    let size = body.u16_be("size of digest")?;
    if usize::from(size) != Digest256::LEN {
        return Err(TpmError::DigestSize { found: size });
    }
    let digest = body.array("digest")?;
    Ok(Digest256::from_bytes(*digest))
}

/// An inactive bank is left out of an answer: a count of 0.
fn exactly_one(body: &mut Reader<'_>, what: &'static str) -> Result<(), TpmError> {
    match body.u32_be("count")? {
        1 => Ok(()),
        found => Err(TpmError::Count { what, found }),
    }
}

fn command(tag: u16, code: u32, body: &[u8]) -> Vec<u8> {
    let size = HEADER.saturating_add(body.len());
    let mut command = Vec::with_capacity(size);
    command.extend_from_slice(&tag.to_be_bytes());
    command.extend_from_slice(&u32::try_from(size).unwrap_or(u32::MAX).to_be_bytes());
    command.extend_from_slice(&code.to_be_bytes());
    command.extend_from_slice(body);
    command
}

fn success(response: &[u8]) -> Result<Reader<'_>, TpmError> {
    let mut reader = Reader::new(response);
    reader.u16_be("tag")?;
    let size = reader.u32_be("responseSize")?;
    if usize::try_from(size) != Ok(response.len()) {
        return Err(TpmError::Size {
            stated: size,
            found: response.len(),
        });
    }
    match reader.u32_be("responseCode")? {
        0 => Ok(reader),
        code => Err(TpmError::Refused { code }),
    }
}

/// Why a response is not the answer.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum TpmError {
    /// Nothing, or more than was asked for.
    #[error("TPM answered {found} {what}s, expected 1: is the SHA-256 bank active?")]
    Count {
        /// Of what.
        what: &'static str,
        /// How many.
        found: u32,
    },
    /// A digest of another bank.
    #[error("TPM digest has {found} bytes, expected 32")]
    DigestSize {
        /// As read.
        found: u16,
    },
    /// TPM 2.0 part 2, `TPM_RC`.
    #[error("TPM answered response code {code:#x}")]
    Refused {
        /// As read.
        code: u32,
    },
    /// The header does not fit the response.
    #[error("TPM response has {found} bytes and says {stated}")]
    Size {
        /// In the header.
        stated: u32,
        /// Received.
        found: usize,
    },
    /// The response ended inside a field.
    #[error("TPM response: {0}")]
    Truncated(#[from] Truncated),
}

const HEADER: usize = 10;
const TPM_ALG_SHA256: u16 = 0x000b;
const TPM_CC_PCR_EVENT: u32 = 0x0000_013c;
const TPM_CC_PCR_READ: u32 = 0x0000_017e;
const TPM_RS_PW: u32 = 0x4000_0009;
const TPM_ST_NO_SESSIONS: u16 = 0x8001;
const TPM_ST_SESSIONS: u16 = 0x8002;

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What a TPM answers to [`pcr_event`].
    pub(crate) fn event_response() -> Vec<u8> {
        command(TPM_ST_SESSIONS, 0, &[0; 4])
    }

    /// What a TPM answers to [`pcr_read`].
    pub(crate) fn read_response(value: &Digest256) -> Vec<u8> {
        let body = [
            &[0, 0, 0, 25][..],
            &[0, 0, 0, 1, 0x00, 0x0b, 3, 0, 1, 0],
            &[0, 0, 0, 1, 0, 32],
            value.as_bytes(),
        ];
        command(TPM_ST_NO_SESSIONS, 0, &body.concat())
    }

    #[test]
    fn an_event_is_tagged_sized_and_authorised_by_the_empty_password() {
        let command = pcr_event(8, &[0xdd; 48]);
        let expected = [
            &[0x80, 0x02, 0, 0, 0, 77, 0, 0, 0x01, 0x3c][..],
            &[0, 0, 0, 8],
            &[0, 0, 0, 9, 0x40, 0, 0, 9, 0, 0, 0, 0, 0],
            &[0, 48],
            &[0xdd; 48],
        ];
        assert_eq!(command, expected.concat());
    }

    #[test]
    fn a_read_selects_one_register_of_one_bank() {
        let expected = [
            &[0x80, 0x01, 0, 0, 0, 20, 0, 0, 0x01, 0x7e][..],
            &[0, 0, 0, 1, 0, 0x0b, 3, 0, 1, 0],
        ];
        assert_eq!(pcr_read(8), expected.concat());
    }

    #[test]
    fn a_value_is_read_back() {
        let value = Digest256::of(b"value");
        assert_eq!(pcr_value(&read_response(&value)), Ok(value));
        assert_eq!(pcr_event_done(&event_response()), Ok(()));
    }

    #[test]
    fn every_proper_prefix_is_refused() {
        let response = read_response(&Digest256::ZERO);
        for cut in 0..response.len() {
            assert!(pcr_value(&response[..cut]).is_err(), "{cut}");
            // Also with a header that fits.
            let Some(body) = response[..cut].get(HEADER..) else {
                continue;
            };
            let shorter = command(TPM_ST_NO_SESSIONS, 0, body);
            assert!(pcr_value(&shorter).is_err(), "{cut}");
        }
    }

    #[test]
    fn other_answers_are_refused_by_name() {
        let mut failed = event_response();
        failed[9] = 0x01;
        let no_bank = command(TPM_ST_NO_SESSIONS, 0, &[0; 12]);
        let mut sha384 = read_response(&Digest256::ZERO);
        sha384[HEADER + 4 + 10 + 4 + 1] = 48;
        let reason = |response: &[u8]| pcr_value(response).unwrap_err().to_string();
        assert_eq!(reason(&failed), "TPM answered response code 0x1");
        assert_eq!(
            reason(&no_bank),
            "TPM answered 0 banks, expected 1: is the SHA-256 bank active?"
        );
        assert_eq!(reason(&sha384), "TPM digest has 48 bytes, expected 32");
        assert_eq!(
            reason(&[&event_response()[..], &[0]].concat()),
            "TPM response has 15 bytes and says 14"
        );
        assert_eq!(
            reason(&[0x80]),
            "TPM response: tag at offset 0 needs 2 bytes, 1 left"
        );
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(body: Vec<u8>) {
            let _value = pcr_value(&body);
            let _value = pcr_value(&command(TPM_ST_SESSIONS, 0, &body));
        }
    }
}
