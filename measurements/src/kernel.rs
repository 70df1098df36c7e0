//! What QEMU does to a kernel file before firmware reads it.
//!
//! QEMU is a Linux boot loader too, and as one it fills in the setup header of
//! the file it was given with `-kernel`. Later versions keep an untouched copy
//! (fw_cfg file `etc/boot/kernel`, from 10.0), which OVMF 2025.02 and later
//! prefer, and leave the header alone for confidential guests (from 10.2).
//!
//! Source: QEMU hw/i386/x86-common.c, x86_load_linux(); Linux
//! Documentation/arch/x86/boot.rst for the fields.

use alloc::borrow::Cow;

use attestation::reader::{Reader, Truncated};

use crate::hob::Memory;

/// How firmware gets the kernel.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Handover {
    /// The bytes of the file.
    Untouched,
    /// With the setup header filled in.
    FilledIn {
        /// Of the guest: the initrd is loaded as high as possible below 4 GiB.
        memory: Memory,
        /// In bytes.
        initrd_size: u32,
    },
}

/// The kernel as firmware reads and measures it.
pub fn served(kernel: &[u8], handover: Handover) -> Result<Cow<'_, [u8]>, KernelError> {
    let Handover::FilledIn {
        memory,
        initrd_size,
    } = handover
    else {
        return Ok(Cow::Borrowed(kernel));
    };
    let header = Header::read(kernel)?;
    let initrd_at = header.initrd_address(memory, initrd_size)?;
    let mut patched = kernel.to_vec();
    // type_of_loader: QEMU, version 0.
    put(&mut patched, 0x210, &[0xb0]);
    // loadflags: CAN_USE_HEAP.
    put(&mut patched, 0x211, &[header.load_flags | 0x80]);
    put(&mut patched, 0x218, &initrd_at.to_le_bytes());
    put(&mut patched, 0x21c, &initrd_size.to_le_bytes());
    // heap_end_ptr: cmdline_addr - real_addr - 0x200.
    put(&mut patched, 0x224, &0xfe00_u32.to_le_bytes());
    put(&mut patched, 0x228, &COMMAND_LINE_AT.to_le_bytes());
    Ok(Cow::Owned(patched))
}

struct Header {
    load_flags: u8,
    initrd_limit: u32,
}

impl Header {
    fn read(kernel: &[u8]) -> Result<Self, KernelError> {
        let mut reader = Reader::new(kernel);
        reader.slice("boot sector", 0x202)?;
        let magic = *reader.array::<4>("setup header magic")?;
        if magic != *b"HdrS" {
            return Err(KernelError::NotLinux);
        }
        let version = reader.u16_le("boot protocol version")?;
        if version < OLDEST_PROTOCOL {
            return Err(KernelError::Protocol { version });
        }
        reader.slice("setup header", 0x211 - 0x208)?;
        let load_flags = reader.u8("loadflags")?;
        reader.slice("setup header", 0x22c - 0x212)?;
        let initrd_addr_max = reader.u32_le("initrd_addr_max")?;
        reader.slice("setup header", 0x236 - 0x230)?;
        let extended_flags = reader.u16_le("xloadflags")?;
        Ok(Self {
            load_flags,
            initrd_limit: match extended_flags & CAN_BE_LOADED_ABOVE_4G {
                0 => initrd_addr_max,
                _ => u32::MAX,
            },
        })
    }

    /// As high as kernel and low memory allow, on a page boundary.
    fn initrd_address(&self, memory: Memory, size: u32) -> Result<u32, KernelError> {
        let low = memory.below_4_gib().saturating_sub(ACPI_DATA);
        let limit = match u32::try_from(low) {
            Ok(low) if low <= self.initrd_limit => low.saturating_sub(1),
            _ => self.initrd_limit,
        };
        match limit.checked_sub(size) {
            Some(address) => Ok(address & !0xfff),
            None => Err(KernelError::Initrd { size, limit }),
        }
    }
}

fn put(file: &mut [u8], at: usize, value: &[u8]) {
    if let Some((_, tail)) = file.split_at_mut_checked(at) {
        tail.iter_mut()
            .zip(value)
            .for_each(|(to, from)| *to = *from);
    }
}

/// 2.12, which introduced xloadflags.
const OLDEST_PROTOCOL: u16 = 0x20c;
/// XLF_CAN_BE_LOADED_ABOVE_4G.
const CAN_BE_LOADED_ABOVE_4G: u16 = 2;
const COMMAND_LINE_AT: u32 = 0x2_0000;
/// PCMachineClass.acpi_data_size: QEMU keeps this much low memory free.
const ACPI_DATA: u64 = 0x2_8000;

/// Why a file cannot be what QEMU boots.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum KernelError {
    /// No room below the limit.
    #[error("initrd of {size} bytes does not fit below {limit:#x}")]
    Initrd {
        /// In bytes.
        size: u32,
        /// Highest address that it may take.
        limit: u32,
    },
    /// No setup header.
    #[error("not a Linux kernel: no \"HdrS\" at offset 0x202")]
    NotLinux,
    /// Older than any kernel with an EFI stub that measures.
    #[error("boot protocol is {version:#x}, expected at least {OLDEST_PROTOCOL:#x}")]
    Protocol {
        /// As read.
        version: u16,
    },
    /// The file ended inside a field.
    #[error(transparent)]
    Truncated(#[from] Truncated),
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;
    use alloc::vec;
    use alloc::vec::Vec;

    fn kernel() -> Vec<u8> {
        let mut file = vec![0; 0x300];
        put(&mut file, 0x202, b"HdrS\x0f\x02");
        put(&mut file, 0x211, &[1]);
        put(&mut file, 0x22c, &0x7fff_ffff_u32.to_le_bytes());
        put(&mut file, 0x236, &[3]);
        file
    }

    fn filled_in(mib: u32, initrd_size: u32) -> Result<Cow<'static, [u8]>, KernelError> {
        let memory = Memory { mib };
        let handover = Handover::FilledIn {
            memory,
            initrd_size,
        };
        served(&kernel(), handover).map(|served| Cow::Owned(served.into_owned()))
    }

    #[test]
    fn an_untouched_kernel_is_the_file() {
        let file = b"anything";
        assert_eq!(served(file, Handover::Untouched).unwrap(), &file[..]);
    }

    #[test]
    fn the_filled_in_fields_are_those_of_a_boot_loader() {
        let file = filled_in(2048, 0x1800).unwrap();
        let mut expected = kernel();
        put(&mut expected, 0x210, &[0xb0, 0x81]);
        // 2 GiB - 0x28000 - 1 - 0x1800, rounded down to a page.
        put(&mut expected, 0x218, &0x7ffd_6000_u32.to_le_bytes());
        put(&mut expected, 0x21c, &0x1800_u32.to_le_bytes());
        put(&mut expected, 0x224, &0xfe00_u32.to_le_bytes());
        put(&mut expected, 0x228, &0x2_0000_u32.to_le_bytes());
        assert_eq!(file, expected);
    }

    #[test]
    fn above_the_split_memory_does_not_matter() {
        assert_eq!(filled_in(2816, 1).unwrap(), filled_in(65536, 1).unwrap());
        assert_ne!(filled_in(2048, 1).unwrap(), filled_in(2047, 1).unwrap());
    }

    #[test]
    fn each_wrong_file_has_its_error() {
        let handover = Handover::FilledIn {
            memory: Memory { mib: 1 },
            initrd_size: 1 << 20,
        };
        let error = |file: &[u8]| served(file, handover).unwrap_err().to_string();
        assert_eq!(
            error(&kernel()),
            "initrd of 1048576 bytes does not fit below 0xd7fff"
        );
        let mut old = kernel();
        old[0x206] = 0x0b;
        assert_eq!(
            error(&old),
            "boot protocol is 0x20b, expected at least 0x20c"
        );
        assert_eq!(
            error(&[0; 0x300]),
            "not a Linux kernel: no \"HdrS\" at offset 0x202"
        );
        for cut in 0..0x238 {
            assert!(
                matches!(
                    served(&kernel()[..cut], handover),
                    Err(KernelError::Truncated(_))
                ),
                "cut at {cut:#x}"
            );
        }
    }
}
