//! Attestation reports of NVIDIA devices: an SPDM request, and the response to it.
//!
//! ```text
//! request   11 e0 01 ff, nonce 32, slot 00
//! response  11 60 00 00, number of blocks u8, their size u24
//!           block: index u8 from 1, 01, 33 00, 01, 30 00, SHA-384
//!           nonce 32, size of opaque data u16, opaque data
//!           signature: r || s
//! ```
//!
//! Numbers are little-endian. A GPU has 64 blocks, a switch 31. The signature is over all
//! that stands before it, the request included, so that the requester's nonce is what
//! makes a report fresh.
//!
//! Source: DMTF DSP0274, SPDM 1.1, section 10.11 (GET_MEASUREMENTS).

use alloc::vec::Vec;

use crate::reader::{Reader, Truncated};
use crate::register::Digest384;

use super::opaque::{Opaque, OpaqueError};

/// A well-formed report that nobody has verified yet.
#[derive(Clone, Debug)]
pub struct Report<'a> {
    pub(super) nonce: &'a [u8; 32],
    pub(super) measurements: Vec<Digest384>,
    pub(super) opaque: Opaque,
    pub(super) signed: &'a [u8],
    pub(super) signature: &'a [u8; 96],
}

impl<'a> Report<'a> {
    /// Reads one report and nothing after it.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, ReportError> {
        let mut reader = Reader::new(bytes);
        expect(&mut reader, "GET_MEASUREMENTS", [0x11, 0xe0, 0x01, 0xff])?;
        let nonce = reader.array("requester nonce")?;
        expect(&mut reader, "slot", [0])?;
        expect(&mut reader, "MEASUREMENTS", [0x11, 0x60, 0x00, 0x00])?;
        let measurements = read_blocks(&mut reader)?;
        reader.array::<32>("responder nonce")?;
        let len = reader.u16_le("opaque length")?;
        let opaque = reader.slice("opaque data", len.into())?;
        let signed = reader.consumed();
        let signature = reader.array("signature")?;
        let left = reader.rest().len();
        if left != 0 {
            return Err(ReportError::Trailing { left });
        }
        Ok(Self {
            opaque: Opaque::parse(opaque, measurements.len() == SWITCH_BLOCKS)?,
            nonce,
            measurements,
            signed,
            signature,
        })
    }

    /// What it says of the device, before anyone has checked the signature: enough to
    /// know which manifests to ask for.
    #[must_use]
    pub const fn unverified_opaque(&self) -> &Opaque {
        &self.opaque
    }

    /// Of a GPU, otherwise of a switch.
    #[must_use]
    pub fn is_gpu(&self) -> bool {
        self.measurements.len() == GPU_BLOCKS
    }
}

/// Why bytes are not a report.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ReportError {
    /// A measurement block is not the one that has to stand there.
    #[error("measurement block {number} is not SHA-384 number {number}")]
    Block {
        /// From one.
        number: u8,
    },
    /// The number of blocks, or their size together, is that of no device.
    #[error("{blocks} measurement blocks of {size} bytes, expected 64 of 3520 or 31 of 1705")]
    Blocks {
        /// How many.
        blocks: u8,
        /// All of them, in bytes.
        size: u32,
    },
    /// A message is another one.
    #[error("{field} at offset {offset} is not the one that a report has")]
    Message {
        /// Name in the specification.
        field: &'static str,
        /// Bytes before it.
        offset: usize,
    },
    /// The device's own fields.
    #[error(transparent)]
    Opaque(#[from] OpaqueError),
    /// There is more.
    #[error("{left} bytes after the signature")]
    Trailing {
        /// How many.
        left: usize,
    },
    /// It ends too early.
    #[error(transparent)]
    Truncated(#[from] Truncated),
}

impl ReportError {
    /// Stable name, for scripts.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Block { .. } | Self::Blocks { .. } => "report-blocks",
            Self::Message { .. } => "report-message",
            Self::Opaque(_) => "report-opaque",
            Self::Trailing { .. } => "report-trailing",
            Self::Truncated(_) => "report-truncated",
        }
    }
}

fn read_blocks(reader: &mut Reader<'_>) -> Result<Vec<Digest384>, ReportError> {
    let blocks = reader.u8("number of blocks")?;
    let [a, b, c] = *reader.array("measurement record length")?;
    let size = u32::from_le_bytes([a, b, c, 0]);
    let count = usize::from(blocks);
    let fits = u32::from(blocks).checked_mul(BLOCK_LEN) == Some(size);
    if !fits || !matches!(count, GPU_BLOCKS | SWITCH_BLOCKS) {
        return Err(ReportError::Blocks { blocks, size });
    }
    let mut measurements = Vec::with_capacity(count);
    for number in 1..=blocks {
        // SPDM, table 44; DMTF specification, 51 bytes; raw bit clear, immutable ROM or
        // firmware digest; 48 bytes.
        if *reader.array("block header")? != [number, 1, 51, 0, 1, 48, 0] {
            return Err(ReportError::Block { number });
        }
        measurements.push(Digest384::from_bytes(*reader.array("measurement")?));
    }
    Ok(measurements)
}

fn expect<const N: usize>(
    reader: &mut Reader<'_>,
    field: &'static str,
    expected: [u8; N],
) -> Result<(), ReportError> {
    let offset = reader.offset();
    match *reader.array(field)? == expected {
        true => Ok(()),
        false => Err(ReportError::Message { field, offset }),
    }
}

/// Header of seven bytes, value of 48.
const BLOCK_LEN: u32 = 55;
const GPU_BLOCKS: usize = 64;
const SWITCH_BLOCKS: usize = 31;
