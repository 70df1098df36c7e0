//! Evidence, cut into cells where the contracts want it cut.
//!
//! Of a quote, a QE report and a certificate a contract is given what varies, and puts
//! it between what it knows; lists and documents it is given whole. A cut needs no
//! trust: what a contract hashes is what was signed, or it refuses. Nothing here has
//! been verified.
//!
//! Layouts: the heads of `tolk/quote.tolk`, `qe-report.tolk`, `certificate.tolk`,
//! `pck.tolk`, `revocation-list.tolk` and `json.tolk`.

use attestation::certificate::{Certificate, Signed};
use attestation::der::{
    CONTEXT_0, CONTEXT_3, Der, DerError, ENUMERATED, INTEGER, OCTET_STRING, OID, SEQUENCE, UTC_TIME,
};
use attestation::pem::PemError;
use attestation::tdx::Document;
use sha2::{Digest as _, Sha256};
use tycho_types::cell::{Cell, CellBuilder, HashBytes};
use tycho_types::error::Error;

use crate::cells::{Bytes, Rest, chain};
use crate::messages::Enclave;
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
    #[error("{of} is not shaped as the contract knows it from byte {offset} on")]
    Shape {
        /// What was to be cut.
        of: &'static str,
        /// Where the piece begins that does not fit.
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
) -> Result<Signature, EvidenceError> {
    let digest = Sha256::digest(message).into();
    Signature::new(key, &digest, signature).map_err(|error| EvidenceError::Hint { of, error })
}

/// The same for what has its signature in DER.
pub(crate) fn hint_der(
    of: &'static str,
    signer: &Certificate<'_>,
    signed: &Signed<'_>,
) -> Result<Signature, EvidenceError> {
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

/// What varies in a quote's signed part.
pub(crate) struct QuoteCut<'a> {
    pub first: [u8; 120],
    pub rest: Cell,
    pub configuration: &'a [u8; 48],
    pub launch_tcb: &'a [u8; 16],
    /// As `messages.tolk` numbers them.
    pub kind: u8,
    pub current_tcb: Option<&'a [u8; 16]>,
}

pub(crate) fn quote(signed: &[u8]) -> Result<QuoteCut<'_>, EvidenceError> {
    let mut cut = Cut::new("quote", signed);
    let version: &[u8; 2] = cut.take()?;
    cut.literal(&[2, 0, 0x81, 0, 0, 0])?;
    let versions: &[u8; 4] = cut.take()?;
    cut.literal(&VENDOR)?;
    let user: &[u8; 20] = cut.take()?;
    let kind = match version {
        [4, 0] => 0,
        [5, 0] => match cut.take()? {
            [2, 0, 0x48, 2, 0, 0] => 1,
            [3, 0, 0x88, 2, 0, 0] => 2,
            [4, 0, 0x75, 3, 0, 0] => 3,
            _ => return Err(cut.here()),
        },
        _ => return Err(cut.here()),
    };
    let launch_tcb = cut.take()?;
    let seam: &[u8; 48] = cut.take()?;
    cut.zeros(56)?;
    let flags: &[u8; 16] = cut.take()?;
    let launch: &[u8; 48] = cut.take()?;
    let configuration = cut.take()?;
    cut.zeros(96)?;
    let register0: &[u8; 48] = cut.take()?;
    let registers12: &[u8; 96] = cut.take()?;
    let register3: &[u8; 48] = cut.take()?;
    let _report_data: &[u8; 64] = cut.take()?;
    let mut rest = vec![
        [&flags[..], launch, register0].concat(),
        registers12.to_vec(),
    ];
    let mut current_tcb = None;
    if kind >= 2 {
        current_tcb = Some(cut.take()?);
        cut.zeros(48)?;
    }
    if kind == 3 {
        cut.zeros(1)?;
        rest.push(cut.take::<80>()?.to_vec());
        cut.zeros(48)?;
        let made: &[u8; 52] = cut.take()?;
        cut.zeros(48)?;
        rest.push([&made[..], cut.take::<8>()?].concat());
    }
    cut.end()?;
    Ok(QuoteCut {
        first: sized(&[&versions[..], user, seam, register3].concat())?,
        rest: chain(&rest.iter().map(Vec::as_slice).collect::<Vec<_>>())?,
        configuration,
        launch_tcb,
        kind,
        current_tcb,
    })
}

/// What varies in a quoting enclave's report: what Collateral is to know, and the rest.
pub(crate) fn qe_report(report: &[u8; 384]) -> Result<(Enclave, [u8; 48]), EvidenceError> {
    let mut cut = Cut::new("QE report", report);
    let cpu_svn: &[u8; 16] = cut.take()?;
    let misc_select = cut.take()?;
    cut.zeros(28)?;
    let attributes = cut.take()?;
    let measurement: &[u8; 32] = cut.take()?;
    cut.zeros(32)?;
    let signer = cut.take()?;
    cut.zeros(96)?;
    let product_id = cut.take()?;
    let svn = cut.take()?;
    cut.zeros(60)?;
    let _key: &[u8; 32] = cut.take()?;
    cut.zeros(32)?;
    cut.end()?;
    let enclave = Enclave {
        misc_select: u32::from_be_bytes(*misc_select),
        attributes: u128::from_be_bytes(*attributes),
        signer: HashBytes(*signer),
        product_id: u16::from_be_bytes(*product_id),
        svn: u16::from_be_bytes(*svn),
    };
    Ok((enclave, sized(&[&cpu_svn[..], measurement].concat())?))
}

/// The body of any certificate of Intel's.
pub(crate) fn certificate(body: &[u8]) -> Result<Cell, EvidenceError> {
    let head = certificate_head(body)?;
    cell_of(&[&head.fixed, head.serial], &[chunks(head.extensions)?])
}

/// The body of a PCK certificate.
pub(crate) struct PckCut<'a> {
    head: [u8; 90],
    before: &'a [u8],
    after: Vec<u8>,
    pub components: u128,
    pub pce_svn: u8,
    pub pce_id: u16,
    pub fmspc: Bytes<6>,
    /// With its length.
    pub serial: &'a [u8],
}

impl PckCut<'_> {
    /// With its signature. What is before the TCB fills what its cells have no use for.
    pub(crate) fn cell(&self, signature: &Signature) -> Result<Cell, EvidenceError> {
        let mut before = self.before;
        let mut cut = |len: usize| {
            let (piece, rest) = before.split_at_checked(len).unwrap_or((before, &[]));
            before = rest;
            piece
        };
        let head = [&self.head[..], cut(CELL.saturating_sub(self.head.len()))].concat();
        let pieces = chain(&[cut(CELL), cut(CELL)])?;
        let signed = CellBuilder::build_from((signature, Rest(before.to_vec())))?;
        cell_of(&[&head], &[pieces, cell_of(&[&self.after], &[])?, signed])
    }
}

pub(crate) fn pck(body: &[u8]) -> Result<PckCut<'_>, EvidenceError> {
    let head = certificate_head(body)?;
    let missing = DerError::Missing {
        field: "SGX TCB components",
    };
    let at = head
        .extensions
        .windows(COMPONENT_1.len())
        .position(|window| window == COMPONENT_1)
        .and_then(|at| at.checked_sub(2))
        .ok_or(missing)?;
    let (before, rest) = head.extensions.split_at_checked(at).ok_or(missing)?;
    let mut entries = Der::new(rest);
    let mut next = |tag, field| {
        let mut entry = entries.nested(SEQUENCE, field)?;
        entry.value(OID, field)?;
        entry.value(tag, field)
    };
    let mut components = [0; 16];
    let mut svn = |field| {
        let svn = Bytes::of_end(next(INTEGER, field)?);
        svn.map(|Bytes([svn])| svn).ok_or(DerError::Value { field })
    };
    for component in &mut components {
        *component = svn("SGX TCB components")?;
    }
    let pce_svn = svn("PCESVN")?;
    let cpu_svn: [u8; 16] = sized(next(OCTET_STRING, "CPUSVN")?)?;
    let pce_id = sized(next(OCTET_STRING, "PCEID")?)?;
    let fmspc = sized(next(OCTET_STRING, "FMSPC")?)?;
    let sgx_type: [u8; 1] = sized(next(ENUMERATED, "SGX type")?)?;
    Ok(PckCut {
        head: head.fixed,
        before,
        after: [&cpu_svn[..], &sgx_type, entries.rest()].concat(),
        components: u128::from_be_bytes(components),
        pce_svn,
        pce_id: u16::from_be_bytes(pce_id),
        fmspc: Bytes(fmspc),
        serial: head.serial,
    })
}

/// What every certificate of Intel's has, and what varies in it.
struct Head<'a> {
    /// Length of the whole, notBefore, notAfter and key.
    fixed: [u8; 90],
    /// With its length.
    serial: &'a [u8],
    extensions: &'a [u8],
}

fn certificate_head(body: &[u8]) -> Result<Head<'_>, EvidenceError> {
    let mut whole = Cut::new("certificate", body);
    whole.literal(&[0x30, 0x82])?;
    let length: &[u8; 2] = whole.take()?;
    let mut fields = Der::new(body).nested(SEQUENCE, "certificate")?;
    fields.whole(CONTEXT_0, "version")?;
    let (_, serial) = fields
        .whole(INTEGER, "serial number")?
        .split_at_checked(1)
        .unwrap_or_default();
    fields.whole(SEQUENCE, "signature algorithm")?;
    fields.whole(SEQUENCE, "issuer")?;
    let mut validity = fields.nested(SEQUENCE, "validity")?;
    let from = validity.value(UTC_TIME, "notBefore")?;
    let until = validity.value(UTC_TIME, "notAfter")?;
    fields.whole(SEQUENCE, "subject")?;
    let key = fields.whole(SEQUENCE, "subject public key")?;
    let extensions = fields.whole(CONTEXT_3, "extensions")?;
    let (_, point) = key
        .split_at_checked(key.len().saturating_sub(64))
        .unwrap_or_default();
    let digits = |time: &'_ [u8]| time.split_last().map(|(_, digits)| digits.to_vec());
    let times = [digits(from), digits(until)].map(Option::unwrap_or_default);
    let fixed = [&length[..], &times.concat(), point].concat();
    Ok(Head {
        fixed: sized(&fixed)?,
        serial,
        extensions,
    })
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

/// A cell of some values that refers to some cells.
pub(crate) fn cell_of(values: &[&[u8]], cells: &[Cell]) -> Result<Cell, EvidenceError> {
    let bytes = values.concat();
    let mut builder = CellBuilder::new();
    let bits = u16::try_from(bytes.len().saturating_mul(8)).map_err(|_| Error::CellOverflow)?;
    builder.store_raw(&bytes, bits)?;
    for cell in cells {
        builder.store_reference(cell.clone())?;
    }
    Ok(builder.build()?)
}

fn chunks(bytes: &[u8]) -> Result<Cell, EvidenceError> {
    Ok(chain(&bytes.chunks(CELL).collect::<Vec<_>>())?)
}

fn sized<const N: usize>(bytes: &[u8]) -> Result<[u8; N], EvidenceError> {
    let bad = DerError::Value { field: "values" };
    Ok(bytes.try_into().map_err(|_| bad)?)
}

/// Reads what has a place in a structure.
struct Cut<'a> {
    of: &'static str,
    whole: usize,
    rest: &'a [u8],
}

impl<'a> Cut<'a> {
    const fn new(of: &'static str, bytes: &'a [u8]) -> Self {
        Self {
            of,
            whole: bytes.len(),
            rest: bytes,
        }
    }

    fn take<const N: usize>(&mut self) -> Result<&'a [u8; N], EvidenceError> {
        let (piece, rest) = self.rest.split_first_chunk().ok_or_else(|| self.here())?;
        self.rest = rest;
        Ok(piece)
    }

    fn literal(&mut self, expected: &[u8]) -> Result<(), EvidenceError> {
        self.rest = self
            .rest
            .strip_prefix(expected)
            .ok_or_else(|| self.here())?;
        Ok(())
    }

    fn zeros(&mut self, count: usize) -> Result<(), EvidenceError> {
        let (_, rest) = self
            .rest
            .split_at_checked(count)
            .filter(|(zeros, _)| zeros.iter().all(|byte| *byte == 0))
            .ok_or_else(|| self.here())?;
        self.rest = rest;
        Ok(())
    }

    fn end(&self) -> Result<(), EvidenceError> {
        self.rest
            .is_empty()
            .then_some(())
            .ok_or_else(|| self.here())
    }

    const fn here(&self) -> EvidenceError {
        EvidenceError::Shape {
            of: self.of,
            offset: self.whole.saturating_sub(self.rest.len()),
        }
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

/// QE vendor 939a7233-f79c-4ca9-940a-0db3957f0607.
const VENDOR: [u8; 16] = [
    0x93, 0x9a, 0x72, 0x33, 0xf7, 0x9c, 0x4c, 0xa9, 0x94, 0x0a, 0x0d, 0xb3, 0x95, 0x7f, 0x06, 0x07,
];

/// OID 1.2.840.113741.1.13.1.2.1, with tag and length.
const COMPONENT_1: [u8; 13] = [
    0x06, 0x0b, 0x2a, 0x86, 0x48, 0x86, 0xf8, 0x4d, 0x01, 0x0d, 0x01, 0x02, 0x01,
];

#[cfg(test)]
mod tests {
    use ::tests::pki::{Intel, Platform};
    use ::tests::quote::{QuotingEnclave, TdState};
    use ::tests::td::Td;
    use proptest::prelude::*;

    use super::*;

    /// Reads all that `bytes` could be, and says what was cut.
    fn cut(bytes: &[u8]) -> [bool; 5] {
        let report = bytes.first_chunk().map(qe_report);
        let text = String::from_utf8_lossy(bytes);
        [
            quote(bytes).is_ok(),
            matches!(report, Some(Ok(_))),
            certificate(bytes).is_ok(),
            pck(bytes).is_ok(),
            revocation_list(bytes).is_ok() || document(Document::TcbInfo, &text).is_ok(),
        ]
    }

    fn quote_and_certificate() -> (Vec<u8>, Vec<u8>) {
        let intel = Intel::new(&[1; 32], &Platform::SAMPLE);
        let enclave = QuotingEnclave::new(&[2; 32], &intel);
        let bytes = enclave.quote(&TdState::new(Td::REGISTERS, Td::MRCONFIGID), &[3; 64]);
        let parsed = attestation::tdx::Quote::parse(&bytes).unwrap();
        let parts = parsed.unverified_parts();
        let [leaf, _, _] = attestation::pem::certificates(parts.pck_chain).unwrap();
        let leaf = Certificate::parse(&leaf).unwrap().signed.body.to_vec();
        (parts.signed.to_vec(), leaf)
    }

    #[test]
    fn no_proper_prefix_of_a_quote_or_a_certificate_is_one() {
        let (signed, leaf) = quote_and_certificate();
        assert!(quote(&signed).is_ok());
        assert!(pck(&leaf).is_ok() && certificate(&leaf).is_ok());
        for len in 0..signed.len() {
            assert!(quote(&signed[..len]).is_err(), "{len}");
        }
        for len in 0..leaf.len() {
            assert!(pck(&leaf[..len]).is_err(), "{len}");
            assert!(certificate(&leaf[..len]).is_err(), "{len}");
        }
    }

    #[test]
    fn what_does_not_fit_is_named_with_its_place() {
        let (mut signed, _) = quote_and_certificate();
        signed[280] = 1;
        let error = quote(&signed).err().unwrap();
        assert_eq!(
            error.to_string(),
            "quote is not shaped as the contract knows it from byte 280 on"
        );
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..1500)) {
            cut(&bytes);
        }

        #[test]
        fn a_changed_byte_never_panics(at in any::<prop::sample::Index>(), byte in any::<u8>()) {
            let (signed, leaf) = quote_and_certificate();
            for mut bytes in [signed, leaf] {
                let at = at.index(bytes.len());
                bytes[at] = byte;
                cut(&bytes);
            }
        }
    }
}
