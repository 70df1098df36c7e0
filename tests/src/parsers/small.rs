//! The smallest files that the readers of a release's artefacts take.

use super::paper_td::der::{bits, integer, octets, oid, sequence, tlv};

/// Firmware: a page of code, a page for hand-off blocks, and the table that says so.
pub(super) fn tdvf() -> Vec<u8> {
    let mut file = vec![0x5a; 4096];
    let at = file.len();
    file.extend(b"TDVF");
    file.extend(words(&[16 + 2 * 32, 1, 2]));
    // Data offset and size, address and size as 64 bits, kind, attributes.
    file.extend(words(&[0, 4096, 0xffc0_0000, 0, 4096, 0, 0, 1]));
    file.extend(words(&[0, 0, 0x80_9000, 0, 4096, 0, 2, 0]));
    let entry = file.len();
    file.extend([0; 4]);
    file.extend([&[22, 0], &TDX_METADATA[..]].concat());
    file.extend([&[40, 0], &TABLE_FOOTER[..]].concat());
    file.extend([0; 32]);
    let distance = size(file.len().abs_diff(at));
    put(&mut file, entry, &distance);
    file
}

/// A firmware volume around a compressed one.
pub(super) fn volume() -> Vec<u8> {
    let packed = hex::decode(PACKED).expect("is hex");
    let section = [&[2], &LZMA[..], &[24, 0, 1, 0], &packed].concat();
    let section = sized(3, &section);
    let mut file = vec![0xaa; 18];
    file.extend([0x0b, 0]);
    file.extend(&size(section.len().saturating_add(24))[..3]);
    file.push(0xf8);
    file.extend(section);
    let mut volume = [&[0; 16], &FFS2[..]].concat();
    volume.extend(size(file.len().saturating_add(72)));
    volume.extend([0; 4]);
    volume.extend(b"_FVH");
    volume.extend([0, 0, 0, 0, 72, 0, 0, 0, 0, 0, 0, 2]);
    volume.resize(72, 0);
    volume.extend(file);
    volume
}

/// A PE32+ image of one section.
pub(super) fn pe() -> Vec<u8> {
    let mut file = vec![0; 512];
    for (at, bytes) in [
        (0, &b"MZ"[..]),
        (60, &[64]),
        (64, b"PE\0\0"),
        (68, &[0x64, 0x86, 1]),
        (84, &[240]),
        (88, &[0x0b, 2]),
        (88 + 60, &[0, 2]),
        (88 + 108, &[16]),
        (328 + 16, &[16]),
        (328 + 20, &[0, 2]),
    ] {
        put(&mut file, at, bytes);
    }
    file.extend([1; 16]);
    file
}

/// An OCSP response (RFC 6960, section 4.2.1) with so many answers.
pub(super) fn ocsp(count: usize) -> Vec<u8> {
    let time = || tlv(0x18, b"20260101000000Z");
    let id = [
        sequence(&[oid(SHA256)]),
        octets(&[1; 32]),
        octets(&[2; 32]),
        integer(&[3]),
    ];
    let single = [sequence(&id), tlv(0x80, &[]), time(), tlv(0xa0, &time())];
    let data = sequence(&[
        tlv(0xa2, &octets(&[4; 20])),
        time(),
        sequence(&vec![sequence(&single); count]),
    ]);
    let basic = sequence(&[data, sequence(&[oid(ECDSA_WITH_SHA384)]), bits(&[5; 70])]);
    let bytes = sequence(&[oid(OCSP_BASIC), octets(&basic)]);
    sequence(&[tlv(0x0a, &[0]), tlv(0xa0, &bytes)])
}

/// A kernel's boot sector and setup header, protocol 2.15.
pub(super) fn kernel() -> Vec<u8> {
    let mut file = vec![0; 1024];
    put(&mut file, 0x202, b"HdrS\x0f\x02");
    put(&mut file, 0x22c, &[0xff, 0xff, 0xff, 0x7f]);
    file
}

/// A cpio archive of the two files that an initrd has.
pub(super) fn initrd(verity: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, content) in [
        ("init", &b"program"[..]),
        ("verity", verity),
        ("TRAILER!!!", b""),
    ] {
        let fields = [1, 0o100_644, 0, 0, 1, 0, content.len(), 0, 0, 0, 0];
        let fields: String = fields.iter().map(|field| format!("{field:08X}")).collect();
        let name_size = name.len().saturating_add(1);
        bytes.extend(format!("070701{fields}{name_size:08X}00000000{name}\0").bytes());
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes.extend(content);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
    }
    bytes
}

/// `content` behind its length, which counts itself, in so many bytes.
fn sized(width: usize, content: &[u8]) -> Vec<u8> {
    let len = size(content.len().saturating_add(width));
    [&len[..width], content].concat()
}

fn size(len: usize) -> [u8; 4] {
    u32::try_from(len).expect("is small").to_le_bytes()
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

fn put(file: &mut [u8], at: usize, bytes: &[u8]) {
    let places = file.iter_mut().skip(at).zip(bytes);
    places.for_each(|(place, byte)| *place = *byte);
}

// 2.16.840.1.101.3.4.2.1, 1.2.840.10045.4.3.3, 1.3.6.1.5.5.7.48.1.1.
const SHA256: &[u8] = &[0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01];
const ECDSA_WITH_SHA384: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x03];
const OCSP_BASIC: &[u8] = &[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x30, 0x01, 0x01];

/// Two sections that hold volumes, by `xz --format=lzma`.
const PACKED: &str =
    "5d00000400ffffffffffffffff00037ffc032989d0a36a7332917a16d2e05f1a94f09b1ed36e7a80ffe6278000";

// GUIDs in memory order: see `measurements`, `tdvf` and `volume`.
const TDX_METADATA: [u8; 16] = *b"\x35\x65\x7a\xe4\x4a\x98\x98\x47\x86\x5e\x46\x85\xa7\xbf\x8e\xc2";
const TABLE_FOOTER: [u8; 16] = *b"\xde\x82\xb5\x96\xb2\x1f\xf7\x45\xba\xea\xa3\x66\xc5\x5a\x08\x2d";
const FFS2: [u8; 16] = *b"\x78\xe5\x8c\x8c\x3d\x8a\x1c\x4f\x99\x35\x89\x61\x85\xc3\x2d\xd3";
const LZMA: [u8; 16] = *b"\x98\x58\x4e\xee\x14\x39\x59\x42\x9d\x6e\xdc\x7b\xd7\x94\x03\xcf";
