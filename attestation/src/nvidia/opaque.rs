//! What a device says of itself beside its measurements.
//!
//! ```text
//! field   u16 type, u16 length, value; little-endian, in any order, each type once
//! ```
//!
//! | type | field |
//! |---|---|
//! | 3 | DRIVER_VERSION: text |
//! | 6 | VBIOS_VERSION: 8 bytes (GPU), text (switch) |
//! | 11 | NVDEC0_STATUS: switch byte |
//! | 15, 17, 18 | CHIP_SKU, PROJECT, PROJECT_SKU: text |
//! | 20 | FWID: SHA-384 |
//! | 21 | PROTECTED_PCIE_STATUS: switch byte |
//! | 22 | SWITCH_PDI: 8 bytes; of a GPU, one for each link |
//! | 25 | LOCK_SWITCH_STATUS |
//! | 26 | SWITCH_GPU_PDIS: 8 bytes for each of 8 GPUs, then a table |
//! | 34 | OPAQUE_DATA_VERSION: at most 1 |
//! | 35 | CHIP_INFO: text |
//! | 36 | FEATURE_FLAG |
//!
//! A switch byte is AA for on and 55 for off. Text ends with zeros. The other types tell
//! nothing that a verdict needs; they are signed, and passed over.
//!
//! Source: NVIDIA Attestation SDK, opaque data of SPDM measurement responses.

use alloc::collections::BTreeSet;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use crate::reader::{Reader, Truncated};
use crate::register::Digest384;
use crate::tdx::Hex;

use super::architecture::Architecture;

/// Fields of a report that a verdict needs.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Opaque {
    /// Version of the driver; a switch has none.
    pub driver: Option<String>,
    /// Version of the firmware, as manifests write it: `96.00.5E.00.01`.
    pub vbios: Option<String>,
    /// Of the board.
    pub project: Option<String>,
    /// Of the board.
    pub project_sku: Option<String>,
    /// Of the chip.
    pub chip_sku: Option<String>,
    /// Name of the chip; not in reports of Hopper.
    pub chip: Option<String>,
    /// Firmware that holds the signing key; not in reports of older drivers.
    pub fwid: Option<Digest384>,
    /// Whether the first video decoder is on.
    pub nvdec0: Option<bool>,
    /// Whether this GPU is in the mode that protects links between GPUs by a trusted
    /// fabric.
    pub protected_pcie: Option<bool>,
    /// How the device is shared; see [`PROTECTED_PCIE`].
    pub feature_flag: Option<u32>,
    /// Who is at the other end of each link of a GPU, or the switch itself.
    pub switch_pdis: Vec<Hex<8>>,
    /// Who a switch connects.
    pub gpu_pdis: Vec<Hex<8>>,
    /// Whether a switch is locked.
    pub locked: Option<bool>,
}

/// The value of [`Opaque::feature_flag`] for protected PCIe.
pub const PROTECTED_PCIE: u32 = 2;

impl Opaque {
    /// Under which name NVIDIA's service has the manifest of the driver.
    #[must_use]
    pub fn driver_rim_id(&self, architecture: Architecture) -> Option<String> {
        let driver = self.driver.as_ref()?;
        match architecture {
            Architecture::Hopper => Some(format!("NV_GPU_DRIVER_GH100_{driver}")),
            Architecture::Blackwell => {
                let chip = self.chip.as_deref().unwrap_or("GB100");
                Some(format!("NV_GPU_CC_DRIVER_{chip}_{driver}"))
            }
            Architecture::Ls10 => None,
        }
    }

    /// Under which name NVIDIA's service has the manifest of the firmware.
    #[must_use]
    pub fn vbios_rim_id(&self, architecture: Architecture) -> Option<String> {
        let version = self.vbios.as_ref()?.replace('.', "");
        let id = match architecture.is_gpu() {
            true => {
                let project = self.project.as_ref()?;
                let (sku, chip) = (self.project_sku.as_ref()?, self.chip_sku.as_ref()?);
                format!("NV_GPU_VBIOS_{project}_{sku}_{chip}_{version}")
            }
            // A switch does not say which board it is on; there is one.
            false => format!("NV_SWITCH_BIOS_5612_0002_890_{version}"),
        };
        Some(id.to_ascii_uppercase())
    }

    /// Reads all fields; `switch` tells whose report it is.
    pub(super) fn parse(bytes: &[u8], switch: bool) -> Result<Self, OpaqueError> {
        let (mut opaque, mut seen) = (Self::default(), BTreeSet::new());
        let mut reader = Reader::new(bytes);
        while !reader.rest().is_empty() {
            let kind = reader.u16_le("opaque field type")?;
            let len = reader.u16_le("opaque field length")?;
            let value = reader.slice("opaque field", len.into())?;
            if !seen.insert(kind) {
                return Err(OpaqueError::Twice { kind });
            }
            opaque
                .set(kind, value, switch)
                .ok_or(OpaqueError::Value { kind, len })?;
        }
        Ok(opaque)
    }

    fn set(&mut self, kind: u16, value: &[u8], switch: bool) -> Option<()> {
        match kind {
            3 => self.driver = Some(text(value)?),
            6 if switch => self.vbios = Some(text(value)?),
            6 => self.vbios = Some(vbios(value.try_into().ok()?)),
            11 => self.nvdec0 = Some(on(value)?),
            15 => self.chip_sku = Some(text(value)?),
            17 => self.project = Some(text(value)?),
            18 => self.project_sku = Some(text(value)?),
            20 => self.fwid = Some(Digest384::from_bytes(value.try_into().ok()?)),
            21 => self.protected_pcie = Some(on(value)?),
            22 => self.switch_pdis = pdis(value)?,
            25 => self.locked = Some(number(value)? == 1),
            26 => self.gpu_pdis = pdis(value.get(..GPU_PDIS)?)?,
            34 if number(value)? > NEWEST => return None,
            35 => self.chip = Some(text(value)?),
            36 => self.feature_flag = Some(number(value)?),
            _ => {}
        }
        Some(())
    }
}

/// Why opaque data cannot be read.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum OpaqueError {
    /// It ends inside a field.
    #[error("in opaque data, {0}")]
    Truncated(#[from] Truncated),
    /// A field occurs twice.
    #[error("opaque field {kind} occurs twice")]
    Twice {
        /// Its type.
        kind: u16,
    },
    /// A field has a value that it cannot have.
    #[error("opaque field {kind} of {len} bytes has a value that is not known")]
    Value {
        /// Its type.
        kind: u16,
        /// Its size.
        len: u16,
    },
}

/// Something to read, without what pads it.
fn text(value: &[u8]) -> Option<String> {
    let end = value.iter().rposition(|byte| !matches!(byte, 0 | b' '));
    let text = value.get(..=end?)?;
    let readable = text.iter().all(u8::is_ascii_graphic);
    String::from_utf8(text.to_vec()).ok().filter(|_| readable)
}

/// The middle is where the bytes, reversed, begin to be read; the byte before it is last.
fn vbios([a, b, c, d, e, ..]: [u8; 8]) -> String {
    format!("{d:02X}.{c:02X}.{b:02X}.{a:02X}.{e:02X}")
}

fn on(value: &[u8]) -> Option<bool> {
    match value {
        [0xaa] => Some(true),
        [0x55] => Some(false),
        _ => None,
    }
}

/// Little-endian, of any width up to four bytes.
fn number(value: &[u8]) -> Option<u32> {
    let mut bytes = [0; 4];
    bytes.get_mut(..value.len())?.copy_from_slice(value);
    (!value.is_empty()).then_some(u32::from_le_bytes(bytes))
}

fn pdis(value: &[u8]) -> Option<Vec<Hex<8>>> {
    let (pdis, []) = value.as_chunks() else {
        return None;
    };
    Some(pdis.iter().copied().map(Hex).collect())
}

/// Eight GPUs; what follows them is a table of ports.
const GPU_PDIS: usize = 64;
/// The newest version that this reads.
const NEWEST: u32 = 1;
