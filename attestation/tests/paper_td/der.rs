//! DER, written value by value.

pub(crate) fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
    let len = u32::try_from(content.len()).unwrap();
    let [_, b, c, d] = len.to_be_bytes();
    let header = match len {
        0..0x80 => vec![tag, d],
        0x80..0x100 => vec![tag, 0x81, d],
        0x100..0x1_0000 => vec![tag, 0x82, c, d],
        _ => vec![tag, 0x83, b, c, d],
    };
    [&header, content].concat()
}

pub(crate) fn sequence(parts: &[Vec<u8>]) -> Vec<u8> {
    tlv(0x30, &parts.concat())
}

pub(crate) fn integer(bytes: &[u8]) -> Vec<u8> {
    tlv(0x02, bytes)
}

pub(crate) fn octets(bytes: &[u8]) -> Vec<u8> {
    tlv(0x04, bytes)
}

pub(crate) fn bits(bytes: &[u8]) -> Vec<u8> {
    tlv(0x03, &[&[0], bytes].concat())
}

pub(crate) fn oid(content: &[u8]) -> Vec<u8> {
    tlv(0x06, content)
}

pub(crate) fn boolean(value: bool) -> Vec<u8> {
    tlv(0x01, &[if value { 0xff } else { 0 }])
}

/// The same value with something after the last part of each of its constructed parts
/// in turn, however deep.
pub(crate) fn overfull(der: &[u8]) -> Vec<Vec<u8>> {
    let (tag, content, rest) = split(der);
    assert!(rest.is_empty(), "one value");
    if tag & CONSTRUCTED == 0 {
        return Vec::new();
    }
    let mut all = vec![tlv(tag, &[content, NULL].concat())];
    let mut done = 0;
    while done < content.len() {
        let (_, _, rest) = split(&content[done..]);
        let end = content.len() - rest.len();
        for part in overfull(&content[done..end]) {
            let whole = [&content[..done], &part, &content[end..]].concat();
            all.push(tlv(tag, &whole));
        }
        done = end;
    }
    all
}

/// Tag, content, and what follows.
fn split(der: &[u8]) -> (u8, &[u8], &[u8]) {
    let (header, len) = match der[1] {
        0x81 => (3, usize::from(der[2])),
        0x82 => (4, usize::from(u16::from_be_bytes([der[2], der[3]]))),
        len => (2, usize::from(len)),
    };
    let (content, rest) = der[header..].split_at(len);
    (der[0], content, rest)
}

const CONSTRUCTED: u8 = 0x20;
const NULL: &[u8] = &[5, 0];
