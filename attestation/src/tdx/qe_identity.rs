//! The TD quoting enclave: what it reports of itself, and what Intel says it is.
//!
//! ```text
//! size  field of the QE report
//!   16  CPUSVN, MISCSELECT (4), reserved (28), ATTRIBUTES (16)
//!   32  MRENCLAVE, reserved (32), MRSIGNER (32), reserved (96)
//!    4  ISVPRODID (2), ISVSVN (2), reserved (60)
//!   64  REPORTDATA: SHA-256(attestation key || authentication data), then zeros
//! ```
//!
//! Source: Intel SDM volume 3D, "REPORT"; PCS API version 4, "Enclave identity V2".

use alloc::string::String;
use alloc::vec::Vec;

use serde::Deserialize;

use crate::certificate::PublicKey;
use crate::reader::{Reader, Truncated};
use crate::time::{UnixTime, Window};

use super::document::{Document, DocumentError, IsvLevel, isv_level, moment};
use super::hex::Hex;
use super::verify::VerifyError;

/// Which enclave may make attestation keys.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct QeIdentity {
    id: String,
    version: u32,
    #[serde(deserialize_with = "moment")]
    issue_date: UnixTime,
    #[serde(deserialize_with = "moment")]
    next_update: UnixTime,
    #[serde(rename = "tcbEvaluationDataNumber")]
    pub(super) evaluation_number: u32,
    miscselect: Hex<4>,
    miscselect_mask: Hex<4>,
    attributes: Hex<16>,
    attributes_mask: Hex<16>,
    mrsigner: Hex<32>,
    isvprodid: u16,
    tcb_levels: Vec<IsvLevel>,
}

impl QeIdentity {
    /// Reads a signed identity that holds at the stated time.
    pub(super) fn open(
        text: &str,
        key: PublicKey<'_>,
        at: UnixTime,
    ) -> Result<(Self, Window), DocumentError> {
        let document = Document::QeIdentity;
        let identity: Self = document.open(text, key)?;
        document.expect("id", identity.id.as_str(), "TD_QE")?;
        document.expect("version", identity.version, 2)?;
        let window = Window {
            from: identity.issue_date,
            until: identity.next_update,
        };
        document.check_window(window, at)?;
        Ok((identity, window))
    }

    /// Refuses another enclave, and says what is known of this one's version.
    pub(super) fn assess(&self, report: &QeReport) -> Result<&IsvLevel, VerifyError> {
        let masked = |field, found: &[u8], expected: &[u8], mask: &[u8]| {
            let equal =
                |((found, expected), mask): ((&u8, &u8), &u8)| found & mask == expected & mask;
            match found.iter().zip(expected).zip(mask).all(equal) {
                true => Ok(()),
                false => Err(VerifyError::QeIdentity {
                    field,
                    found: hex::encode(found),
                    expected: hex::encode(expected),
                }),
            }
        };
        let Hex(misc_mask) = &self.miscselect_mask;
        masked(
            "miscselect",
            &report.miscselect,
            &self.miscselect.0,
            misc_mask,
        )?;
        let Hex(mask) = &self.attributes_mask;
        masked("attributes", &report.attributes, &self.attributes.0, mask)?;
        masked("mrsigner", &report.mrsigner, &self.mrsigner.0, &[0xff; 32])?;
        let (found, expected) = (report.isvprodid, self.isvprodid);
        masked(
            "isvprodid",
            &found.to_be_bytes(),
            &expected.to_be_bytes(),
            &[0xff; 2],
        )?;
        isv_level(&self.tcb_levels, report.isvsvn).ok_or(VerifyError::QeLevel {
            isvsvn: report.isvsvn,
        })
    }
}

/// The part of a QE report that is judged.
#[derive(Clone, Copy, Debug)]
pub(super) struct QeReport {
    miscselect: [u8; 4],
    attributes: [u8; 16],
    mrsigner: [u8; 32],
    isvprodid: u16,
    pub(super) isvsvn: u16,
    /// All reserved fields are zero.
    pub(super) reserved_clear: bool,
    pub(super) report_data: [u8; 64],
}

impl QeReport {
    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self, Truncated> {
        reader.array::<16>("CPUSVN")?;
        let miscselect = *reader.array("MISCSELECT")?;
        let reserved_1 = reader.array::<28>("reserved")?;
        let attributes = *reader.array("ATTRIBUTES")?;
        reader.array::<32>("MRENCLAVE")?;
        let reserved_2 = reader.array::<32>("reserved")?;
        let mrsigner = *reader.array("MRSIGNER")?;
        let reserved_3 = reader.array::<96>("reserved")?;
        let isvprodid = reader.u16_le("ISVPRODID")?;
        let isvsvn = reader.u16_le("ISVSVN")?;
        let reserved_4 = reader.array::<60>("reserved")?;
        let clear = |bytes: &[u8]| bytes.iter().all(|byte| *byte == 0);
        Ok(Self {
            miscselect,
            attributes,
            mrsigner,
            isvprodid,
            isvsvn,
            reserved_clear: clear(reserved_1)
                && clear(reserved_2)
                && clear(reserved_3)
                && clear(reserved_4),
            report_data: *reader.array("REPORTDATA")?,
        })
    }
}
