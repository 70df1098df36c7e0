//! One TCG_PCR_EVENT2 (section 10.2.2), and what it says in words.

use alloc::string::String;
use core::fmt;

use super::{ALG_SHA256, ALG_SHA384, Bank, Kind, Register};
use crate::reader::{Reader, Truncated};
use crate::register::{Digest256, Digest384};

/// One record of a log. Its digests agree with its data where the data is what
/// was hashed.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct Event<'a> {
    /// What was extended.
    pub register: Register,
    /// `eventType`.
    pub kind: Kind,
    /// In the SHA-256 bank, if the log has one.
    pub sha256: Option<Digest256>,
    /// In the SHA-384 bank, if the log has one.
    pub sha384: Option<Digest384>,
    /// The firmware's words. Only where [`Self::proved`] are they what was hashed.
    pub data: &'a [u8],
}

impl<'a> Event<'a> {
    pub(super) fn read(
        reader: &mut Reader<'a>,
        bank: Bank,
        algorithms: &[(u16, usize)],
    ) -> Result<Self, EventError> {
        let index = reader.u32_le("pcrIndex")?;
        if index > bank.last() {
            return Err(EventError::Register { index });
        }
        let kind = Kind(reader.u32_le("eventType")?);
        let (sha256, sha384) = read_digests(reader, kind, algorithms)?;
        let len = reader.u32_le("eventSize")?;
        let data = reader.slice("event", usize::try_from(len).unwrap_or(usize::MAX))?;
        let event = Self {
            register: Register { bank, index },
            kind,
            sha256,
            sha384,
            data,
        };
        event.check()?;
        Ok(event)
    }

    fn check(&self) -> Result<(), EventError> {
        if self.register.bank == Bank::Mr && self.register.index == 0 && self.extends() {
            return Err(EventError::Mrtd { kind: self.kind });
        }
        if self.kind == Kind::SEPARATOR && !matches!(self.data, [0, 0, 0, 0] | [255, 255, 255, 255])
        {
            return Err(EventError::Separator);
        }
        let Some(preimage) = self.preimage()? else {
            return Ok(());
        };
        let agrees = self
            .sha256
            .is_none_or(|found| found == Digest256::of(preimage))
            && self
                .sha384
                .is_none_or(|found| found == Digest384::of(preimage));
        match agrees {
            true => Ok(()),
            false => Err(EventError::Digest {
                kind: self.kind,
                register: self.register,
            }),
        }
    }

    /// Whether the digests were recomputed from the data.
    #[must_use]
    pub fn proved(&self) -> bool {
        matches!(self.preimage(), Ok(Some(_)))
    }

    /// The bytes that the digest must be of, where the log holds them.
    fn preimage(&self) -> Result<Option<&'a [u8]>, EventError> {
        Ok(match self.kind {
            // Table 27: EV_EFI_VARIABLE_BOOT measures VariableData only.
            Kind::EFI_VARIABLE_BOOT => Some(Variable::parse(self.data)?.data),
            kind if kind.is_variable() => {
                Variable::parse(self.data)?;
                Some(self.data)
            }
            kind if kind.hashes_its_data() => Some(self.data),
            _ => None,
        })
    }

    /// EV_NO_ACTION is a remark in the log (section 10.4.5).
    #[must_use]
    pub fn extends(&self) -> bool {
        self.kind != Kind::NO_ACTION
    }
}

impl Kind {
    const fn is_variable(self) -> bool {
        matches!(
            self,
            Self::EFI_VARIABLE_DRIVER_CONFIG
                | Self::EFI_VARIABLE_BOOT
                | Self::EFI_VARIABLE_BOOT2
                | Self::EFI_VARIABLE_AUTHORITY
        )
    }
}

type Digests = (Option<Digest256>, Option<Digest384>);

/// TPML_DIGEST_VALUES: each algorithm of the header once (section 10.2.2).
fn read_digests(
    reader: &mut Reader<'_>,
    kind: Kind,
    algorithms: &[(u16, usize)],
) -> Result<Digests, EventError> {
    let count = reader.u32_le("digest count")?;
    if usize::try_from(count) != Ok(algorithms.len()) {
        return Err(EventError::DigestCount {
            count,
            expected: algorithms.len(),
        });
    }
    let (mut sha256, mut sha384) = (None, None);
    for (expected, size) in algorithms {
        let id = reader.u16_le("hashAlg")?;
        if id != *expected {
            return Err(EventError::Algorithm {
                id,
                expected: *expected,
            });
        }
        let digest = reader.slice("digest", *size)?;
        if kind == Kind::NO_ACTION && digest.iter().any(|byte| *byte != 0) {
            return Err(EventError::NoActionDigest);
        }
        match id {
            ALG_SHA256 => sha256 = digest.try_into().ok().map(Digest256::from_bytes),
            ALG_SHA384 => sha384 = digest.try_into().ok().map(Digest384::from_bytes),
            _ => (),
        }
    }
    Ok((sha256, sha384))
}

/// UEFI_VARIABLE_DATA (section 10.2.6).
struct Variable<'a> {
    name: String,
    data: &'a [u8],
}

impl<'a> Variable<'a> {
    fn parse(bytes: &'a [u8]) -> Result<Self, EventError> {
        let mut reader = Reader::new(bytes);
        let _vendor = reader.array::<16>("variable GUID")?;
        let chars = usize::try_from(reader.u64_le("variable name length")?).ok();
        let len = usize::try_from(reader.u64_le("variable data length")?).ok();
        let chars = chars.and_then(|chars| chars.checked_mul(2));
        let name = utf16(reader.slice("variable name", chars.unwrap_or(usize::MAX))?);
        let data = reader.slice("variable data", len.unwrap_or(usize::MAX))?;
        match reader.rest().len() {
            0 => Ok(Self { name, data }),
            left => Err(EventError::VariableTail { left }),
        }
    }
}

/// The event in words: what was measured, and the input it came from.
impl fmt::Display for Event<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            Kind::SEPARATOR => f.write_str("separator: the firmware's own measurements end here"),
            Kind::EFI_ACTION | Kind::ACTION => write!(f, "firmware: \"{}\"", Text(self.data)),
            Kind::S_CRTM_VERSION => write!(f, "firmware version \"{}\"", utf16(self.data)),
            Kind::EFI_GPT_EVENT => f.write_str("boot disk: partition table"),
            Kind::EVENT_TAG => self.tag(f),
            Kind::EFI_BOOT_SERVICES_APPLICATION => self.image(f),
            Kind::EFI_HANDOFF_TABLES2 => write!(f, "memory map (TD HOB): {}", Named(self.data)),
            Kind::EFI_PLATFORM_FIRMWARE_BLOB2 => {
                write!(f, "firmware volume {}", Named(self.data))
            }
            Kind::PLATFORM_CONFIG_FLAGS | Kind::POST_CODE => {
                write!(f, "settings from the VMM: \"{}\"", Text(self.data))
            }
            Kind::IPL => write!(f, "boot loader: \"{}\"", Text(self.data)),
            Kind::NO_ACTION => write!(f, "remark: \"{}\"", Text(self.data)),
            kind => match Variable::parse(self.data) {
                Ok(variable) if kind.is_variable() => variable.fmt(f),
                _ => write!(f, "{kind}, {} bytes", self.data.len()),
            },
        }
    }
}

impl Event<'_> {
    /// TCG_PCClientTaggedEvent, as the Linux EFI stub writes it
    /// (drivers/firmware/efi/libstub: initrd 0x8f3b22ec, load options 0x8f3b22ed).
    fn tag(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut reader = Reader::new(self.data);
        match reader.u32_le("taggedEventID") {
            Ok(0x8f3b_22ec) => f.write_str("initrd"),
            Ok(0x8f3b_22ed) => f.write_str("kernel command line"),
            Ok(id) => write!(f, "tag {id:#010x}: \"{}\"", Text(reader.rest())),
            Err(_) => f.write_str("tag without an id"),
        }
    }

    /// UEFI_IMAGE_LOAD_EVENT (section 10.2.3): four words, then a device path.
    fn image(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.data.get(32..).unwrap_or_default();
        match path.windows(QEMU_KERNEL.len()).any(|at| at == QEMU_KERNEL) {
            true => f.write_str("kernel (-kernel)"),
            false => match file_path(path) {
                Some(file) => write!(f, "EFI application {file}"),
                None => f.write_str("EFI application without a file name"),
            },
        }
    }
}

/// Vendor media node of the file system in which OVMF shows QEMU's -kernel
/// (OvmfPkg, QemuKernelLoaderFsDxe: 1428f772-b64a-441e-b8c3-9ebdd7f893c7).
const QEMU_KERNEL: &[u8] = &[
    4, 3, 20, 0, 0x72, 0xf7, 0x28, 0x14, 0x4a, 0xb6, 0x1e, 0x44, 0xb8, 0xc3, 0x9e, 0xbd, 0xd7,
    0xf8, 0x93, 0xc7,
];

/// The last file path node (UEFI 2.10, section 10.3.5.4) of a device path.
fn file_path(path: &[u8]) -> Option<String> {
    let mut reader = Reader::new(path);
    let mut found = None;
    while let (Ok(kind), Ok(len)) = (reader.array("type"), reader.u16_le("length")) {
        let data = reader
            .slice("node", usize::from(len).checked_sub(4)?)
            .ok()?;
        if kind == &[4, 4] {
            found = Some(utf16(data));
        }
    }
    found
}

impl fmt::Display for Variable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "UEFI variable {}, {} bytes", self.name, self.data.len())
    }
}

/// A one-byte length, that many characters, then what is of no interest here.
struct Named<'a>(&'a [u8]);

impl fmt::Display for Named<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut reader = Reader::new(self.0);
        let name = reader
            .u8("length")
            .and_then(|len| reader.slice("name", usize::from(len)));
        write!(f, "\"{}\"", Text(name.unwrap_or_default()))
    }
}

/// Up to the first NUL, printable characters only: a log may not write on a terminal.
struct Text<'a>(&'a [u8]);

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.0.split(|byte| *byte == 0).next().unwrap_or_default();
        text.escape_ascii().fmt(f)
    }
}

/// UTF-16LE up to the first NUL, printable characters only.
fn utf16(bytes: &[u8]) -> String {
    let (units, _) = bytes.as_chunks::<2>();
    let units = units.iter().map(|unit| u16::from_le_bytes(*unit));
    char::decode_utf16(units.take_while(|unit| *unit != 0))
        .map(|char| char.unwrap_or(char::REPLACEMENT_CHARACTER))
        .flat_map(char::escape_debug)
        .collect()
}

/// Why one record is refused.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum EventError {
    /// Not in the header's order.
    #[error("digest algorithm is {id:#06x}, the header lists {expected:#06x} here")]
    Algorithm {
        /// As read.
        id: u16,
        /// By the header.
        expected: u16,
    },
    /// The data is what must have been hashed, and was not.
    #[error("{kind} in {register}: the digest is not that of the event data")]
    Digest {
        /// Event type.
        kind: Kind,
        /// Where it went.
        register: Register,
    },
    /// One digest for each algorithm.
    #[error("{count} digests, the header lists {expected} algorithms")]
    DigestCount {
        /// As read.
        count: u32,
        /// By the header.
        expected: usize,
    },
    /// MRTD is closed before any firmware runs.
    #[error("{kind} claims to extend MRTD, which cannot be extended")]
    Mrtd {
        /// Event type.
        kind: Kind,
    },
    /// A remark has nothing to extend.
    #[error("EV_NO_ACTION with a digest, expected zeros")]
    NoActionDigest,
    /// No such register.
    #[error("register index {index} does not exist")]
    Register {
        /// As read.
        index: u32,
    },
    /// 1 says that the firmware failed (section 3.3.2.2); the rest is undefined.
    #[error("separator is neither 00000000 nor ffffffff: the firmware reports an error")]
    Separator,
    /// The input ended inside a field.
    #[error(transparent)]
    Truncated(#[from] Truncated),
    /// The lengths inside disagree with the event's.
    #[error("{left} bytes follow the UEFI variable")]
    VariableTail {
        /// Bytes left.
        left: usize,
    },
}
