//! The firmware that a device's key belongs to, as its certificate names it.
//!
//! ```text
//! 2.23.133.5.4.1    Hopper, LS10: { version 1, device key, FWID }
//! 2.23.133.5.4.1.1  Blackwell:    { ..., [6] { FWID, ... }, ... }
//! FWID              { SHA-384, digest }
//! ```
//!
//! The first is the CompositeDeviceID of TCG's Implicit Identity Based Device
//! Attestation, revision 0.93, section 3.4; the second the DiceTcbInfo of TCG's DICE
//! Attestation Architecture 1.1, section 6.1.1.

use crate::certificate::Certificate;
use crate::der::{Der, DerError, OID, SEQUENCE};
use crate::register::Digest384;

/// The extension of a certificate that has one of the two.
pub(super) fn read(certificate: &Certificate<'_>) -> Result<Option<Digest384>, DerError> {
    let [composite, tcb_info] = EXTENSIONS.map(|oid| certificate.extension(oid));
    match (composite?, tcb_info?) {
        (None, None) => Ok(None),
        (Some(value), None) => read_composite(value).map(Some),
        (None, Some(value)) => read_tcb_info(value).map(Some),
        (Some(_), Some(_)) => Err(DerError::Value { field: "FWID" }),
    }
}

fn read_composite(value: &[u8]) -> Result<Digest384, DerError> {
    let mut outer = Der::new(value);
    let mut fields = outer.nested(SEQUENCE, "CompositeDeviceID")?;
    outer.end("CompositeDeviceID")?;
    if fields.u16("CompositeDeviceID version")? != 1 {
        return Err(DerError::Value {
            field: "CompositeDeviceID version",
        });
    }
    fields.value(SEQUENCE, "device key")?;
    let fwid = read_fwid(&mut fields)?;
    fields.end("CompositeDeviceID")?;
    Ok(fwid)
}

/// The first one counts: the layer that holds the key.
fn read_tcb_info(value: &[u8]) -> Result<Digest384, DerError> {
    let mut outer = Der::new(value);
    let mut fields = outer.nested(SEQUENCE, "DiceTcbInfo")?;
    outer.end("DiceTcbInfo")?;
    let (mut last, mut found) = (0, None);
    while let Some(tag) = fields.peek() {
        // Members are optional, and in the order of their tags.
        let member = tag & !CONSTRUCTED;
        if member <= last || !(FIRST_MEMBER..=LAST_MEMBER).contains(&member) {
            return Err(DerError::Value {
                field: "DiceTcbInfo",
            });
        }
        let content = fields.value(tag, "DiceTcbInfo")?;
        if tag == FWIDS {
            found = Some(read_fwid(&mut Der::new(content))?);
        }
        last = member;
    }
    found.ok_or(DerError::Missing { field: "FWID" })
}

fn read_fwid(fields: &mut Der<'_>) -> Result<Digest384, DerError> {
    let mut fwid = fields.nested(SEQUENCE, "FWID")?;
    if fwid.value(OID, "FWID")? != SHA384 {
        return Err(DerError::Value { field: "FWID" });
    }
    let digest = fwid.octets("FWID")?;
    fwid.end("FWID")?;
    Ok(Digest384::from_bytes(digest))
}

/// 2.23.133.5.4.1 and 2.23.133.5.4.1.1.
pub(super) const EXTENSIONS: [&[u8]; 2] = [
    &[0x67, 0x81, 0x05, 0x05, 0x04, 0x01],
    &[0x67, 0x81, 0x05, 0x05, 0x04, 0x01, 0x01],
];

/// 2.16.840.1.101.3.4.2.2.
const SHA384: &[u8] = &[0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x02];

/// `[0]` to `[9]`, and the bit of those that have parts.
const FIRST_MEMBER: u8 = 0x80;
const LAST_MEMBER: u8 = 0x89;
const CONSTRUCTED: u8 = 0x20;
/// `[6]`.
const FWIDS: u8 = 0xa6;
