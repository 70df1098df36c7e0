//! Device-mapper requests: the bytes that its three ioctls take and give.
//!
//! ```text
//! offset  size  field
//!      0    12  version: 4, 0, 0
//!     12     4  size of everything; set by whoever makes the call
//!     16     4  offset of the payload: 312
//!     20     4  number of targets
//!     28     4  flags: 1 = read only, 0x8000 = holds a secret
//!     40     8  device number, filled in by the kernel
//!     48   128  name
//!    312        one target: start u64, length u64 (sectors), status u32,
//!               size u32, type [16], parameters with a NUL, padding to 8
//! ```
//!
//! Native byte order. Source: Linux, `include/uapi/linux/dm-ioctl.h`.

use attestation::config::KEY_LEN;
use attestation::verity::Verity;
use zeroize::Zeroizing;

/// Names a new device.
pub(crate) fn create(name: &str) -> Vec<u8> {
    header(name, 0, READ_ONLY)
}

/// What a device does with the one under it. Read-only, from its first sector on.
#[derive(Debug)]
pub(crate) struct Target {
    kind: &'static str,
    parameters: Zeroizing<String>,
    sectors: u64,
}

impl Target {
    /// Yields what the root hash stands for, or stops the machine.
    pub(crate) fn verity(disk: &str, verity: &Verity) -> Self {
        Self {
            kind: "verity",
            parameters: Zeroizing::new(verity.table(disk)),
            sectors: verity.sectors(),
        }
    }

    /// Decrypts each block of 4096 bytes under its number (Linux,
    /// `Documentation/admin-guide/device-mapper/dm-crypt.rst`).
    pub(crate) fn crypt(device: &str, sectors: u64, key: &[u8; KEY_LEN]) -> Self {
        let mut parameters = Zeroizing::new(String::with_capacity(LONGEST));
        parameters.push_str("aes-xts-plain64 ");
        for byte in key {
            let digit = |value: u8| char::from_digit(value.into(), 16).unwrap_or_default();
            parameters.extend([digit(byte >> 4), digit(byte & 15)]);
        }
        parameters.push_str(" 0 ");
        parameters.push_str(device);
        parameters.push_str(" 0 2 sector_size:4096 iv_large_sectors");
        Self {
            kind: "crypt",
            parameters,
            sectors,
        }
    }
}

/// Gives the device its table.
pub(crate) fn load(name: &str, target: &Target) -> Zeroizing<Vec<u8>> {
    let parameters = &*target.parameters;
    let size = TARGET
        .saturating_add(parameters.len())
        .saturating_add(1) // NUL
        .next_multiple_of(8);

    let mut request = Zeroizing::new(Vec::with_capacity(HEADER.saturating_add(size)));
    request.extend(header(name, 1, READ_ONLY | SECURE_DATA));
    request.extend_from_slice(&0_u64.to_ne_bytes());
    request.extend_from_slice(&target.sectors.to_ne_bytes());
    request.extend_from_slice(&0_u32.to_ne_bytes());
    request.extend_from_slice(&u32::try_from(size).unwrap_or(u32::MAX).to_ne_bytes());
    put_text(&mut request, target.kind, 16);
    put_text(&mut request, parameters, size.saturating_sub(TARGET));
    request
}

/// Makes the table the one in use.
pub(crate) fn resume(name: &str) -> Vec<u8> {
    header(name, 0, READ_ONLY)
}

/// The minor number that the kernel gave to a created device.
pub(crate) fn minor(created: &[u8]) -> Option<u64> {
    let number = created.get(40..48)?.try_into().ok()?;
    Some(nix::sys::stat::minor(u64::from_ne_bytes(number)))
}

fn header(name: &str, targets: u32, flags: u32) -> Vec<u8> {
    let mut header = Vec::with_capacity(HEADER);
    for field in [4, 0, 0, 0, 312, targets, 0, flags, 0, 0, 0, 0_u32] {
        header.extend_from_slice(&field.to_ne_bytes());
    }
    put_text(&mut header, name, 128);
    header.resize(HEADER, 0);
    header
}

/// `text` in a field of `width` bytes, which keeps at least one NUL.
fn put_text(to: &mut Vec<u8>, text: &str, width: usize) {
    let end = to.len().saturating_add(width);
    let kept = text.bytes().take(width.saturating_sub(1));
    to.extend(kept);
    to.resize(end, 0);
}

const HEADER: usize = 312;
const TARGET: usize = 40;
const READ_ONLY: u32 = 1;
/// The kernel wipes its copies of the request.
const SECURE_DATA: u32 = 1 << 15;
/// Of a crypt target's parameters: never moved, so that no copy of the key stays behind.
const LONGEST: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_holds_version_offset_and_name() {
        let request = create("cocoon-root");
        assert_eq!(request.len(), 312);
        assert_eq!(request[..4], 4_u32.to_ne_bytes());
        assert_eq!(request[16..20], 312_u32.to_ne_bytes());
        assert_eq!(request[28..32], 1_u32.to_ne_bytes(), "read only");
        assert_eq!(request[48..60], *b"cocoon-root\0");
        assert_eq!(request, resume("cocoon-root"));
    }

    #[test]
    fn a_table_is_one_verity_target_as_long_as_the_data() {
        let digest = "7".repeat(64);
        let text = format!("sha256:{digest}:{digest}:3");
        let verity: Verity = text.parse().unwrap();
        let request = load("model-m", &Target::verity("/dev/vdb", &verity));
        assert_eq!(request[28..32], 0x8001_u32.to_ne_bytes(), "wiped");
        assert_eq!(request[20..24], 1_u32.to_ne_bytes(), "one target");
        let target = &request[312..];
        assert_eq!(target[..8], [0; 8], "from the first sector");
        assert_eq!(target[8..16], 24_u64.to_ne_bytes());
        assert_eq!(
            target[20..24],
            u32::try_from(target.len()).unwrap().to_ne_bytes()
        );
        assert_eq!(target[24..31], *b"verity\0");
        assert_eq!(target.len() % 8, 0);
        let parameters = verity.table("/dev/vdb");
        assert!(target[40..].starts_with(parameters.as_bytes()));
        assert_eq!(target[40 + parameters.len()], 0);
    }

    #[test]
    fn a_key_is_in_the_table_as_dm_crypt_reads_it() {
        let key = std::array::from_fn(|index| u8::try_from(index * 4).unwrap());
        let target = Target::crypt("/dev/dm-1", 24, &key);
        let digits: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
        let expected =
            format!("aes-xts-plain64 {digits} 0 /dev/dm-1 0 2 sector_size:4096 iv_large_sectors");
        assert_eq!(*target.parameters, expected);
        assert!(target.parameters.capacity() >= LONGEST && expected.len() < LONGEST);
        let request = load("plain-m", &target);
        assert_eq!(request[312 + 8..312 + 16], 24_u64.to_ne_bytes());
        assert_eq!(request[312 + 24..312 + 30], *b"crypt\0");
    }

    #[test]
    fn a_name_too_long_for_its_field_is_cut_before_the_nul() {
        let request = create(&"x".repeat(200));
        assert_eq!(request.len(), 312);
        assert_eq!(request[48 + 127], 0);
    }

    #[test]
    fn the_minor_number_is_read_from_the_answer() {
        let mut answer = create("x");
        answer[40..48].copy_from_slice(&nix::sys::stat::makedev(254, 3).to_ne_bytes());
        assert_eq!(minor(&answer), Some(3));
        assert_eq!(minor(&answer[..47]), None);
    }
}
