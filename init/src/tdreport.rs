//! TDREPORT: what the TDX module says of the TD that asks.
//!
//! ```text
//! offset  size  field
//!      0   256  REPORTMACSTRUCT; its first byte is the TEE type, 0x81
//!    256   239  TEE_TCB_INFO
//!    495    17  reserved
//!    512   512  TDINFO_STRUCT: ATTRIBUTES 8, XFAM 8, MRTD 48, MRCONFIGID 48,
//!               MROWNER 48, MROWNERCONFIG 48, RTMR0..3 48 each, ...
//! ```
//!
//! It comes straight from the module by an instruction, so init believes it;
//! nobody else should, without the signature that a quote has.
//!
//! Source: Intel TDX Module 1.5 ABI Specification, "TDREPORT_STRUCT",
//! "TDINFO_STRUCT".

use attestation::reader::{Reader, Truncated};
use attestation::register::Digest384;

/// The fields that say which configuration the TD was made for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct TdReport {
    /// Chosen by whoever made the TD, fixed since then.
    pub(crate) mrconfigid: Digest384,
    /// Extended by nobody in a TD of ours.
    pub(crate) rtmr3: Digest384,
}

impl TdReport {
    /// Reads the fields of interest.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, TdReportError> {
        let mut reader = Reader::new(bytes);
        let tee_type = reader.u8("TEE type")?;
        if tee_type != TEE_TDX {
            return Err(TdReportError::TeeType { found: tee_type });
        }
        reader.array::<511>("REPORTMACSTRUCT and TEE_TCB_INFO")?;
        reader.array::<64>("ATTRIBUTES, XFAM and MRTD")?;
        let mrconfigid = register(&mut reader, "MRCONFIGID")?;
        reader.array::<240>("MROWNER to RTMR2")?;
        let rtmr3 = register(&mut reader, "RTMR3")?;
        reader.array::<112>("end of TDINFO_STRUCT")?;
        Ok(Self { mrconfigid, rtmr3 })
    }
}

fn register(reader: &mut Reader<'_>, field: &'static str) -> Result<Digest384, Truncated> {
    reader.array(field).copied().map(Digest384::from_bytes)
}

/// Why bytes are not a TDREPORT.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum TdReportError {
    /// For another kind of TEE.
    #[error("TEE type is {found:#x}, expected {TEE_TDX:#x} (TDX)")]
    TeeType {
        /// As read.
        found: u8,
    },
    /// The end came early.
    #[error(transparent)]
    Truncated(#[from] Truncated),
}

/// Size in bytes.
pub(crate) const LEN: usize = 1024;

const TEE_TDX: u8 = 0x81;

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A report as the module lays it out.
    pub(crate) fn report(mrconfigid: Digest384, rtmr3: Digest384) -> [u8; 1024] {
        let mut report = [0xee; 1024];
        report[0] = 0x81;
        report[512 + 64..512 + 112].copy_from_slice(mrconfigid.as_bytes());
        report[512 + 352..512 + 400].copy_from_slice(rtmr3.as_bytes());
        report
    }

    #[test]
    fn both_registers_are_where_the_specification_puts_them() {
        let (mrconfigid, rtmr3) = (Digest384::of(b"config"), Digest384::of(b"rtmr3"));
        let parsed = TdReport::parse(&report(mrconfigid, rtmr3)).unwrap();
        assert_eq!(parsed, TdReport { mrconfigid, rtmr3 });
    }

    #[test]
    fn every_proper_prefix_is_truncated() {
        let report = report(Digest384::ZERO, Digest384::ZERO);
        for cut in 0..report.len() {
            let error = TdReport::parse(&report[..cut]).unwrap_err();
            assert!(matches!(error, TdReportError::Truncated(_)), "{cut}");
        }
    }

    #[test]
    fn a_report_of_another_tee_is_refused() {
        let mut report = report(Digest384::ZERO, Digest384::ZERO);
        report[0] = 0;
        let error = TdReport::parse(&report).unwrap_err();
        assert_eq!(error.to_string(), "TEE type is 0x0, expected 0x81 (TDX)");
    }
}
