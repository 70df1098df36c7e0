//! TPMS_ATTEST of a quote: what the attestation key signs.
//!
//! Big-endian. Source: TPM 2.0 Library, part 2, sections 10.12.12 (TPMS_ATTEST),
//! 10.12.4 (TPMS_QUOTE_INFO) and 10.6.2 (TPMS_PCR_SELECTION).

use sha2::{Digest, Sha256};

use super::key::ALG_SHA256;
use super::{PCR_COUNT, Pcrs};
use crate::binding::ReportData;
use crate::reader::{Reader, Truncated};

/// Checks that `attest` is a quote of exactly `pcrs`, made for `report_data`.
pub(super) fn check(
    attest: &[u8],
    report_data: &ReportData,
    pcrs: &Pcrs,
) -> Result<(), AttestError> {
    let mut reader = Reader::new(attest);
    let magic = reader.u32_be("magic")?;
    if magic != TPM_GENERATED {
        return Err(AttestError::Magic { found: magic });
    }
    let kind = reader.u16_be("type")?;
    if kind != ST_ATTEST_QUOTE {
        return Err(AttestError::Type { found: kind });
    }
    let _qualified_signer = read_2b(&mut reader, "qualifiedSigner")?;
    if read_2b(&mut reader, "extraData")? != report_data.0 {
        return Err(AttestError::ExtraData);
    }
    let _clock_info = reader.array::<17>("clockInfo")?;
    let _firmware_version = reader.u64_be("firmwareVersion")?;
    check_selection(&mut reader)?;
    if read_2b(&mut reader, "pcrDigest")? != digest(pcrs) {
        return Err(AttestError::PcrDigest);
    }
    match reader.rest().len() {
        0 => Ok(()),
        left => Err(AttestError::Trailing { left }),
    }
}

/// TPML_PCR_SELECTION: one bank, and no register more or less than ours.
fn check_selection(reader: &mut Reader<'_>) -> Result<(), AttestError> {
    let banks = reader.u32_be("selection count")?;
    let bank = reader.u16_be("hash")?;
    if (banks, bank) != (1, ALG_SHA256) {
        return Err(AttestError::Bank { banks, bank });
    }
    let len = reader.u8("sizeofSelect")?;
    match reader.slice("pcrSelect", usize::from(len))? {
        SELECTED => Ok(()),
        _ => Err(AttestError::Selection),
    }
}

fn read_2b<'a>(reader: &mut Reader<'a>, field: &'static str) -> Result<&'a [u8], Truncated> {
    let len = reader.u16_be(field)?;
    reader.slice(field, usize::from(len))
}

/// Over the values in ascending order, with the hash of the signature scheme.
fn digest(pcrs: &Pcrs) -> [u8; 32] {
    let hash = pcrs
        .iter()
        .fold(Sha256::new(), |hash, pcr| hash.chain_update(pcr.as_bytes()));
    hash.finalize().into()
}

const TPM_GENERATED: u32 = 0xff54_4347;
const ST_ATTEST_QUOTE: u16 = 0x8018;
/// PCR 0 is the lowest bit of the first byte; a PC's TPM has three bytes.
const SELECTED: &[u8] = &[0xff, 0xff, 0];

/// Why a signed structure is not the quote that was asked for.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum AttestError {
    /// Another bank, or several.
    #[error("quote is over {banks} banks, the first {bank:#06x}, expected {ALG_SHA256:#06x} alone")]
    Bank {
        /// Number of selections.
        banks: u32,
        /// TPM_ALG_ID of the first.
        bank: u16,
    },
    /// Made for another session, another moment, or another bundle.
    #[error("extraData is not this session's REPORTDATA: replayed or relayed")]
    ExtraData,
    /// Signed bytes that the TPM did not make.
    #[error("magic is {found:#010x}, expected {TPM_GENERATED:#010x}")]
    Magic {
        /// As read.
        found: u32,
    },
    /// The values shown are not those that were quoted.
    #[error("pcrDigest is not that of the PCR values shown")]
    PcrDigest,
    /// Other registers than 0 to 15.
    #[error("quote does not select exactly PCR 0 to {}", PCR_COUNT - 1)]
    Selection,
    /// The structure ended early.
    #[error("{left} bytes follow TPMS_ATTEST")]
    Trailing {
        /// Bytes left.
        left: usize,
    },
    /// The input ended inside a field.
    #[error(transparent)]
    Truncated(#[from] Truncated),
    /// A TPM signs other statements too.
    #[error("attestation type is {found:#06x}, expected {ST_ATTEST_QUOTE:#06x} (quote)")]
    Type {
        /// As read.
        found: u16,
    },
}
