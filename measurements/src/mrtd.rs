//! MRTD: what the TDX module hashes while the VMM builds the TD.
//!
//! Depends on the firmware file and the order of two calls, on nothing else:
//! not on memory size, processors or devices.
//!
//! Source: Intel TDX Module Base Architecture Specification, section 12.2.1
//! "MRTD: Build-Time Measurement Register"; order of calls: Linux
//! arch/x86/kvm/vmx/tdx.c, tdx_gmem_post_populate().

use attestation::register::Digest384;
use sha2::{Digest, Sha384};

use crate::tdvf::{PAGE, Section, Tdvf};

/// In which order a VMM adds and measures the pages of a section.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Pass {
    /// Page by page: add, then measure. Linux 6.16 and later.
    Single,
    /// All pages added, then all measured. Older vendor trees.
    Two,
}

/// MRTD of a TD that starts from this firmware.
#[must_use]
pub fn mrtd(tdvf: &Tdvf<'_>, pass: Pass) -> Digest384 {
    let mut hash = Sha384::new();
    // TDVF Design Guide, section 11: sections with PAGE.AUG are added at run time.
    for section in tdvf.sections().iter().filter(|section| !section.aug) {
        match pass {
            Pass::Single => pages(section).for_each(|(address, data)| {
                add(&mut hash, address);
                extend(&mut hash, section, address, data);
            }),
            Pass::Two => {
                pages(section).for_each(|(address, _)| add(&mut hash, address));
                pages(section)
                    .for_each(|(address, data)| extend(&mut hash, section, address, data));
            }
        }
    }
    Digest384::from_bytes(hash.finalize().into())
}

/// Address and content (zeros after its end) of each page.
fn pages<'a>(section: &Section<'a>) -> impl Iterator<Item = (u64, &'a [u8])> + use<'a> {
    let contents = section.data.chunks(4096).chain(core::iter::repeat(&[][..]));
    let (start, end) = (
        section.address,
        section.address.saturating_add(section.memory_size),
    );
    (start..end).step_by(4096).zip(contents)
}

/// TDH.MEM.PAGE.ADD: "MEM.PAGE.ADD" in 16 bytes, the address in 8, zeros to 128.
fn add(hash: &mut Sha384, address: u64) {
    hash.update(b"MEM.PAGE.ADD\0\0\0\0");
    hash.update(address.to_le_bytes());
    hash.update([0; 104]);
}

/// TDH.MR.EXTEND, 256 bytes at a time: the same frame, then the content.
fn extend(hash: &mut Sha384, section: &Section<'_>, page: u64, data: &[u8]) {
    if !section.extend {
        return;
    }
    let contents = data.chunks(256).chain(core::iter::repeat(&[][..]));
    for (address, content) in (page..page.saturating_add(PAGE)).step_by(256).zip(contents) {
        hash.update(b"MR.EXTEND\0\0\0\0\0\0\0");
        hash.update(address.to_le_bytes());
        hash.update([0; 104]);
        hash.update(content);
        hash.update([0; 256].get(content.len()..).unwrap_or_default());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tdvf::tests::firmware;
    use crate::vectors;
    use alloc::string::ToString;

    /// Published by two projects and seen in a real quote.
    #[test]
    fn ubuntu_firmware_gives_the_value_of_a_real_quote() {
        let Some(file) = vectors::firmware("ubuntu-2025.02-3ubuntu2") else {
            return;
        };
        let tdvf = Tdvf::parse(&file).unwrap();
        assert_eq!(
            mrtd(&tdvf, Pass::Single).to_string(),
            "7357a10d2e2724dffe68813e3cc4cfcde6814d749f2fb62e3953e54f6e0b50a2\
             19786afe2cd478f684b52c61837e1114",
        );
    }

    /// Computed by an independent script.
    #[test]
    fn debian_firmware_gives_both_recorded_values() {
        let Some(file) = vectors::firmware("debian-2025.02-8+deb13u1") else {
            return;
        };
        let tdvf = Tdvf::parse(&file).unwrap();
        assert_eq!(
            mrtd(&tdvf, Pass::Single).to_string(),
            "bdc6fb145880f06f30c8b346b8dce2a99d9351b56892df22f80fcf6574caa9f9\
             c31df8e8576d53b4d0cd1c3f28910e11",
        );
        assert_eq!(
            mrtd(&tdvf, Pass::Two).to_string(),
            "456f07902150d008bb913c3e1e84e9297f735a6c83cd2a957a1f0a8bbedb06df\
             188e3837ae48d32c73d473d097dc0db2",
        );
    }

    #[test]
    fn only_measured_content_counts() {
        let file = firmware();
        let value = |file: &[u8]| mrtd(&Tdvf::parse(file).unwrap(), Pass::Single);
        let mut changed = file.clone();
        changed[4095] ^= 1;
        assert_ne!(value(&file), value(&changed));
        let mut unmeasured = changed.clone();
        unmeasured[4096 + 44] = 0;
        let mut other = unmeasured.clone();
        other[0] ^= 1;
        assert_eq!(value(&unmeasured), value(&other), "without MR.EXTEND");
    }
}
