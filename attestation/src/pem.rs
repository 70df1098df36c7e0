//! Certificates as text (RFC 7468): base64 between two fixed lines.
//!
//! Nothing may stand between certificates, and after the last only what Intel's
//! quote generator leaves there: line ends and zero bytes.

use alloc::vec::Vec;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// Exactly `N` certificates in DER.
pub fn certificates<const N: usize>(text: &[u8]) -> Result<[Vec<u8>; N], PemError> {
    let mut rest = str::from_utf8(text).unwrap_or_default();
    let mut found = [const { Vec::new() }; N];
    for (index, certificate) in found.iter_mut().enumerate() {
        let (der, after) = first(rest).ok_or(PemError::Block { index, expected: N })?;
        (*certificate, rest) = (der, after);
    }
    match rest.trim_end_matches(['\0', '\r', '\n']).is_empty() {
        true => Ok(found),
        false => Err(PemError::Trailing {
            expected: N,
            left: rest.len(),
        }),
    }
}

/// What follows the first certificate.
#[must_use]
pub fn after_first(text: &[u8]) -> &[u8] {
    str::from_utf8(text)
        .ok()
        .and_then(first)
        .map_or(&[], |(_, rest)| rest.as_bytes())
}

/// Why text is not the chain that was expected.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum PemError {
    /// A certificate is missing or is no base64 between its two lines.
    #[error("certificate {index} of {expected} in the PEM chain is missing or malformed")]
    Block {
        /// From zero.
        index: usize,
        /// How many there must be.
        expected: usize,
    },
    /// There is more.
    #[error("{left} bytes after the {expected} certificates of the PEM chain")]
    Trailing {
        /// How many certificates there must be.
        expected: usize,
        /// How many bytes follow.
        left: usize,
    },
}

fn first(text: &str) -> Option<(Vec<u8>, &str)> {
    let (begin, mut rest) = line(text);
    if begin != "-----BEGIN CERTIFICATE-----" {
        return None;
    }
    // Up to the line that ends it, which begins with what base64 does not have.
    let characters = rest.find('-')?;
    let mut der = Vec::with_capacity(base64::decoded_len_estimate(characters));
    while !rest.is_empty() {
        let (content, after) = line(rest);
        rest = after;
        if content == "-----END CERTIFICATE-----" {
            return Some((der, rest));
        }
        let mut decoded = [0; LINE_LEN];
        let len = STANDARD.decode_slice(content, &mut decoded).ok()?;
        der.extend_from_slice(decoded.get(..len)?);
    }
    None
}

/// The next line, which the end of the text may end too.
fn line(text: &str) -> (&str, &str) {
    let (content, rest) = text.split_once('\n').unwrap_or((text, ""));
    (content.strip_suffix('\r').unwrap_or(content), rest)
}

/// 64 characters of base64 (RFC 7468, section 2) are 48 bytes.
const LINE_LEN: usize = 48;

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;
    use proptest::prelude::*;

    const ONE: &[u8] = b"-----BEGIN CERTIFICATE-----\nAQID\n-----END CERTIFICATE-----\n";

    #[test]
    fn certificates_are_read_in_order() {
        let crlf = b"-----BEGIN CERTIFICATE-----\r\nBA==\r\n-----END CERTIFICATE-----";
        let text = [ONE, crlf].concat();
        let [first, second] = certificates::<2>(&text).unwrap();
        assert_eq!((&first[..], &second[..]), (&[1, 2, 3][..], &[4][..]));
        assert_eq!(after_first(&text), crlf);
    }

    #[test]
    fn padding_of_real_quotes_is_taken() {
        assert!(certificates::<1>(&[ONE, b"\n\0"].concat()).is_ok());
    }

    #[test]
    fn another_number_of_certificates_is_refused() {
        let error = certificates::<2>(ONE).unwrap_err();
        assert_eq!(
            error.to_string(),
            "certificate 1 of 2 in the PEM chain is missing or malformed"
        );
        let error = certificates::<1>(&ONE.repeat(2)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "59 bytes after the 1 certificates of the PEM chain"
        );
    }

    #[test]
    fn text_that_is_not_strictly_pem_is_refused() {
        for text in [
            &b""[..],
            b"-----BEGIN CERTIFICATE-----\n",
            b"-----BEGIN CERTIFICATE-----\nAQID\n",
            b"-----BEGIN CERTIFICATE-----AQID-----END CERTIFICATE-----",
            b"-----BEGIN CERTIFICATE-----\nAQ ID\n-----END CERTIFICATE-----\n",
            b"-----BEGIN CERTIFICATE-----\nAQI\n-----END CERTIFICATE-----\n",
            b"-----BEGIN CERTIFICATE-----\nAR==\n-----END CERTIFICATE-----\n",
            b"-----BEGIN X509 CRL-----\nAQID\n-----END X509 CRL-----\n",
            b" -----BEGIN CERTIFICATE-----\nAQID\n-----END CERTIFICATE-----\n",
        ] {
            assert!(certificates::<1>(text).is_err(), "{text:?}");
        }
        for (begin, end) in [
            ("-----BEGIN CERTIFICATE----", "-----END CERTIFICATE-----"),
            ("----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"),
            ("------BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"),
            ("-----BEGIN CERTIFICATE------", "-----END CERTIFICATE-----"),
            ("-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE----"),
            ("-----BEGIN CERTIFICATE-----", "----END CERTIFICATE-----"),
            ("-----BEGIN CERTIFICATE-----", "-----END  CERTIFICATE-----"),
            ("-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----x"),
            ("-----BEGIN CERTIFICATE-----", "-----END X509 CRL-----"),
            ("-----BEGIN CERTIFICATE----- ", "-----END CERTIFICATE-----"),
            ("-----BEGIN CERTIFICATE-----", " -----END CERTIFICATE-----"),
            ("-----begin certificate-----", "-----end certificate-----"),
            (
                "-----BEGIN TRUSTED CERTIFICATE-----",
                "-----END TRUSTED CERTIFICATE-----",
            ),
            ("-----END CERTIFICATE-----", "-----BEGIN CERTIFICATE-----"),
            ("-----BEGIN CERTIFICATE-----", "-----BEGIN CERTIFICATE-----"),
            (
                "-----BEGIN CERTIFICATE-----\nKey: value\n",
                "-----END CERTIFICATE-----",
            ),
            ("\n-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"),
            (
                "\u{feff}-----BEGIN CERTIFICATE-----",
                "-----END CERTIFICATE-----",
            ),
        ] {
            let text = [begin, "AQID", end, ""].join("\n");
            let error = certificates::<1>(text.as_bytes());
            let refused = PemError::Block {
                index: 0,
                expected: 1,
            };
            assert_eq!(error, Err(refused), "{text:?}");
        }
        let long = [b"-----BEGIN CERTIFICATE-----\n", &[b'A'; 68][..], b"\n"].concat();
        let long = [&long[..], b"-----END CERTIFICATE-----\n"].concat();
        assert!(certificates::<1>(&long).is_err(), "a line of 68 characters");
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>) {
            certificates::<3>(&bytes).ok();
        }
    }
}
