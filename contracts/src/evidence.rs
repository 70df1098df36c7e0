//! Evidence, cut into cells where the contracts want it cut.
//!
//! A cut needs no trust: a contract hashes what it gets, whole, and refuses what it
//! finds in the wrong place. Nothing here has been verified.
//!
//! Layouts: the heads of `tolk/quote.tolk`, `qe-report.tolk`, `certificate.tolk`,
//! `pck.tolk`, `revocation-list.tolk` and `json.tolk`.

use attestation::certificate::{Certificate, Signed};
use attestation::der::{CONTEXT_0, CONTEXT_3, Der, DerError, INTEGER, SEQUENCE, UTC_TIME};
use attestation::pem::PemError;
use attestation::tdx::Document;
use sha2::{Digest as _, Sha256};
use tycho_types::cell::{Cell, Lazy};
use tycho_types::error::Error;

use crate::cells::{Bytes, chain};
use crate::p256::{HintError, Signature};

/// Why evidence cannot be brought to a contract.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum EvidenceError {
    /// Larger than a cell, or than a message.
    #[error("{0}")]
    Cells(#[from] Error),
    /// Not DER of the expected shape.
    #[error("{0}")]
    Der(#[from] DerError),
    /// A signature that a contract has no way to check.
    #[error("signature of the {of}: {error}")]
    Hint {
        /// What is signed.
        of: &'static str,
        /// Why it cannot.
        error: HintError,
    },
    /// Shaped as the contract does not read it.
    #[error("{of} is not shaped as the contract reads it: no place to cut after byte {offset}")]
    Shape {
        /// What was to be cut.
        of: &'static str,
        /// Where the piece begins that is too long.
        offset: usize,
    },
    /// The PCK chain is not text of the expected form.
    #[error("PCK chain: {0}")]
    PckChain(#[from] PemError),
    /// Not the JSON that Intel serves.
    #[error("{0} is not a signed document of Intel's")]
    Document(Document),
}

/// Help to check that `key` (`x || y`) signed `message` with `signature` (`r || s`).
pub(crate) fn hint(
    of: &'static str,
    key: &[u8; 64],
    message: &[u8],
    signature: &[u8; 64],
) -> Result<Lazy<Signature>, EvidenceError> {
    let digest = Sha256::digest(message).into();
    let signature = Signature::new(key, &digest, signature)
        .map_err(|error| EvidenceError::Hint { of, error })?;
    Ok(Lazy::new(&signature)?)
}

/// The same for what has its signature in DER.
pub(crate) fn hint_der(
    of: &'static str,
    signer: &Certificate<'_>,
    signed: &Signed<'_>,
) -> Result<Lazy<Signature>, EvidenceError> {
    let mut outer = Der::new(signed.signature);
    let mut numbers = outer.nested(SEQUENCE, "signature")?;
    let bad = DerError::Value { field: "signature" };
    let mut fixed = [0; 64];
    for half in fixed.chunks_exact_mut(32) {
        let Bytes(number) = Bytes::<32>::of_end(numbers.unsigned("signature")?).ok_or(bad)?;
        half.copy_from_slice(&number);
    }
    hint(of, &key(signer)?, signed.body, &fixed)
}

/// `x || y` of a certificate's holder.
pub(crate) fn key(certificate: &Certificate<'_>) -> Result<[u8; 64], EvidenceError> {
    let bad = DerError::Value {
        field: "subject public key",
    };
    match certificate.key.point {
        [4, point @ ..] => point.try_into().map_err(|_| bad.into()),
        _ => Err(bad.into()),
    }
}

/// A quote's signed part.
pub(crate) fn quote(signed: &[u8]) -> Result<Cell, EvidenceError> {
    let head = match signed.first() {
        Some(4) => 112,
        _ => 118,
    };
    let lengths = [head, 120, 96, 96, 96, 112, 64, 81, 100, 56];
    Ok(chain(&pieces("quote", signed, &lengths)?)?)
}

/// A quoting enclave's report.
pub(crate) fn qe_report(report: &[u8; 384]) -> Result<Cell, EvidenceError> {
    Ok(chain(&pieces("QE report", report, &[96, 64, 100, 124])?)?)
}

/// The body of any certificate of Intel's.
pub(crate) fn certificate(body: &[u8]) -> Result<Cell, EvidenceError> {
    let (mut cells, extensions) = certificate_head(body)?;
    cells.extend(extensions.chunks(CELL));
    Ok(chain(&cells)?)
}

/// The body of a PCK certificate, and how many cells are between the first of its
/// extensions and its TCB components.
pub(crate) fn pck(body: &[u8]) -> Result<(Cell, u8), EvidenceError> {
    let (mut cells, extensions) = certificate_head(body)?;
    let missing = DerError::Missing {
        field: "SGX TCB components",
    };
    let at = extensions
        .windows(COMPONENT_1.len())
        .position(|window| window == COMPONENT_1)
        .and_then(|at| at.checked_sub(2))
        .ok_or(missing)?;
    let (before, mut rest) = extensions.split_at_checked(at).ok_or(missing)?;
    let before: Vec<_> = before.chunks(CELL).collect();
    let between = before.len().saturating_sub(1);
    cells.extend(before);
    // Components 1-6, 7-11, 12-16, PCESVN.
    for count in [6, 5, 5, 1] {
        let mut entries = Der::new(rest);
        let len = (0..count).try_fold(0_usize, |len, _| {
            let entry = entries.whole(SEQUENCE, "SGX TCB components")?;
            Ok::<_, DerError>(len.saturating_add(entry.len()))
        })?;
        let (piece, after) = rest.split_at_checked(len).ok_or(missing)?;
        cells.push(piece);
        rest = after;
    }
    // CPUSVN, PCEID, FMSPC, SGX type.
    let (names, rest) = rest.split_at_checked(90).ok_or(missing)?;
    cells.push(names);
    cells.extend(rest.chunks(CELL));
    let between = u8::try_from(between).map_err(|_| missing)?;
    Ok((chain(&cells)?, between))
}

/// The cells up to the key, and what follows it.
fn certificate_head(body: &[u8]) -> Result<(Vec<&[u8]>, &[u8]), EvidenceError> {
    let mut fields = Der::new(body).nested(SEQUENCE, "certificate")?;
    let version = fields.whole(CONTEXT_0, "version")?;
    let serial = fields.whole(INTEGER, "serial number")?;
    let algorithm = fields.whole(SEQUENCE, "signature algorithm")?;
    let issuer = fields.whole(SEQUENCE, "issuer")?;
    let validity = fields.whole(SEQUENCE, "validity")?;
    let subject = fields.whole(SEQUENCE, "subject")?;
    let key = fields.whole(SEQUENCE, "subject public key")?;
    let extensions = fields.whole(CONTEXT_3, "extensions")?;
    let lengths = [
        header_len(
            body,
            &[
                version, serial, algorithm, issuer, validity, subject, key, extensions,
            ],
        )
        .saturating_add(version.len())
        .saturating_add(serial.len()),
        algorithm.len().saturating_add(issuer.len()),
        validity.len(),
        subject.len(),
        key.len(),
    ];
    let head = lengths
        .iter()
        .fold(0_usize, |sum, len| sum.saturating_add(*len));
    let (head, _) = body.split_at_checked(head).unwrap_or((body, &[]));
    Ok((pieces("certificate", head, &lengths)?, extensions))
}

/// The body of a revocation list.
pub(crate) fn revocation_list(body: &[u8]) -> Result<Cell, EvidenceError> {
    let mut fields = Der::new(body).nested(SEQUENCE, "CRL")?;
    let version = fields.whole(INTEGER, "version")?;
    let algorithm = fields.whole(SEQUENCE, "signature algorithm")?;
    let issuer = fields.whole(SEQUENCE, "issuer")?;
    let this = fields.whole(UTC_TIME, "thisUpdate")?;
    let next = fields.whole(UTC_TIME, "nextUpdate")?;
    let listed = match fields.peek() {
        Some(SEQUENCE) => fields.whole(SEQUENCE, "revokedCertificates")?,
        _ => &[],
    };
    let extensions = fields.whole(CONTEXT_0, "crlExtensions")?;

    let parts = [version, algorithm, issuer, this, next, listed, extensions];
    let mut places = vec![header_len(body, &parts).saturating_add(version.len())];
    let mut add = |len: usize| {
        let last = places.last().copied().unwrap_or_default();
        places.push(last.saturating_add(len));
    };
    add(algorithm.len().saturating_add(issuer.len()));
    add(this.len().saturating_add(next.len()));
    if !listed.is_empty() {
        let mut entries = Der::new(listed).nested(SEQUENCE, "revokedCertificates")?;
        let mut all = Vec::new();
        while !entries.is_empty() {
            all.push(entries.whole(SEQUENCE, "revoked certificate")?);
        }
        add(header_len(listed, &all));
        all.iter().for_each(|entry| add(entry.len()));
    }
    Ok(chain(&packed("revocation list", body, &places)?)?)
}

/// The signed text of one of Intel's documents, and its signature.
pub(crate) fn document(
    kind: Document,
    text: &str,
) -> Result<(&str, [u8; 64], Cell), EvidenceError> {
    let (text, signature) = kind.split(text).ok_or(EvidenceError::Document(kind))?;
    let mut places: Vec<usize> = PLACES
        .iter()
        .flat_map(|literal| text.match_indices(literal))
        .map(|(at, _)| at)
        .collect();
    places.sort_unstable();
    let cells = packed("document", text.as_bytes(), &places)?;
    Ok((text, signature, chain(&cells)?))
}

/// Cuts at `lengths`; those that lie beyond the end are not there.
fn pieces<'a>(
    of: &'static str,
    mut bytes: &'a [u8],
    lengths: &[usize],
) -> Result<Vec<&'a [u8]>, EvidenceError> {
    let whole = bytes.len();
    let mut pieces = Vec::new();
    for len in lengths {
        if bytes.is_empty() {
            break;
        }
        let offset = whole.saturating_sub(bytes.len());
        let (piece, rest) = bytes
            .split_at_checked(*len)
            .filter(|_| *len <= CELL)
            .ok_or(EvidenceError::Shape { of, offset })?;
        pieces.push(piece);
        bytes = rest;
    }
    match bytes.len() {
        0 => Ok(pieces),
        left => Err(EvidenceError::Shape {
            of,
            offset: whole.saturating_sub(left),
        }),
    }
}

/// Cuts at some of `places`, which ascend, into as few cells as will do.
fn packed<'a>(
    of: &'static str,
    bytes: &'a [u8],
    places: &[usize],
) -> Result<Vec<&'a [u8]>, EvidenceError> {
    let mut pieces = Vec::new();
    let (mut start, mut end) = (0_usize, 0_usize);
    for place in places.iter().copied().chain([bytes.len()]) {
        if place.saturating_sub(start) > CELL {
            pieces.push(bytes.get(start..end).unwrap_or_default());
            start = end;
        }
        if place.saturating_sub(start) > CELL {
            return Err(EvidenceError::Shape { of, offset: start });
        }
        end = place;
    }
    pieces.push(bytes.get(start..end).unwrap_or_default());
    Ok(pieces)
}

/// How long the header is of what consists of `parts`.
fn header_len(whole: &[u8], parts: &[&[u8]]) -> usize {
    parts
        .iter()
        .fold(whole.len(), |left, part| left.saturating_sub(part.len()))
}

/// Bytes in a cell.
const CELL: usize = 127;

/// Where a document may be cut: before texts that the contract compares, none of which
/// follows a number.
const PLACES: [&str; 14] = [
    "\"issueDate\":\"",
    "\",\"nextUpdate\":\"",
    "\"fmspc\":\"",
    "\"mrsigner\":\"",
    "\",\"attributes\":\"",
    "\"tdxModuleIdentities\":[",
    "{\"id\":\"TDX_",
    "{\"tcb\":{",
    "{\"svn\":",
    "],\"pcesvn\":",
    "\"tcbDate\":\"",
    ",\"advisoryIDs\":[",
    "\"INTEL-SA-",
    "\"tcbEvaluationDataNumber\":",
];

/// OID 1.2.840.113741.1.13.1.2.1, with tag and length.
const COMPONENT_1: [u8; 13] = [
    0x06, 0x0b, 0x2a, 0x86, 0x48, 0x86, 0xf8, 0x4d, 0x01, 0x0d, 0x01, 0x02, 0x01,
];
