//! PCK certificates: which platform signs, and at which TCB.
//!
//! Intel's extension 1.2.840.113741.1.13.1 is a sequence of (identifier, value):
//! ```text
//! .1 PPID 16   .2 TCB: .1-.16 components, .17 PCESVN, .18 CPUSVN 16
//! .3 PCEID 2   .4 FMSPC 6   .5 SGX type
//! .6 platform instance 16, .7 configuration: under the platform CA only
//! ```
//! Every certificate that Intel issues has them in this order.
//!
//! Source: Intel SGX PCK Certificate and CRL Profile Specification, revision 1.5,
//! section 1.3.5.

use crate::certificate::Certificate;
use crate::der::{Der, DerError, ENUMERATED, OID, SEQUENCE};
use crate::register::Digest256;

use super::hex::Hex;

/// Who vouches for a quote: for pins and for the record.
#[derive(Clone, Copy, Debug, Eq, PartialEq, serde::Serialize)]
pub struct Platform {
    /// Names the processor package, or the set of them.
    pub ppid: Hex<16>,
    /// Names the platform as registered with Intel; none under the processor CA.
    pub instance: Option<Hex<16>>,
    /// Family, model, stepping, type and customised SKU of the processor.
    pub fmspc: Hex<6>,
    /// Which provisioning certification enclave.
    pub pceid: Hex<2>,
    /// SHA-256 of the PCK certificate.
    pub pck: Digest256,
    /// How the platform was set up; none under the processor CA.
    pub configuration: Option<Configuration>,
}

/// How a platform of several packages was set up.
#[derive(Clone, Copy, Debug, Eq, PartialEq, serde::Serialize)]
pub struct Configuration {
    /// Packages may be added after the platform was registered.
    pub dynamic_platform: bool,
    /// Intel keeps the platform's keys.
    pub cached_keys: bool,
    /// Hyper-threading is on.
    pub smt: bool,
}

/// What a PCK certificate attests.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pck {
    pub(super) platform: Platform,
    /// SVNs of the 16 SGX components.
    pub(super) components: [u8; 16],
    pub(super) pcesvn: u16,
}

impl Pck {
    /// Reads Intel's extension. The certificate still has to be verified.
    pub(super) fn read(der: &[u8], certificate: &Certificate<'_>) -> Result<Self, DerError> {
        let value = certificate.extension(SGX)?.ok_or(DerError::Missing {
            field: "SGX extension",
        })?;
        let mut outer = Der::new(value);
        let mut fields = outer.nested(SEQUENCE, "SGX extension")?;
        outer.end("SGX extension")?;

        let ppid = Hex(entry(&mut fields, &[1], "PPID", Der::octets)?);
        let (components, pcesvn) = entry(&mut fields, &[2], "TCB", read_tcb)?;
        let pceid = Hex(entry(&mut fields, &[3], "PCEID", Der::octets)?);
        let fmspc = Hex(entry(&mut fields, &[4], "FMSPC", Der::octets)?);
        entry(&mut fields, &[5], "SGX type", read_sgx_type)?;
        let instance = optional(&mut fields, &[6], "platform instance", Der::octets)?;
        let configuration = optional(&mut fields, &[7], "configuration", Configuration::read)?;
        fields.end("SGX extension")?;
        Ok(Self {
            platform: Platform {
                ppid,
                instance: instance.map(Hex),
                fmspc,
                pceid,
                pck: Digest256::of(der),
                configuration,
            },
            components,
            pcesvn,
        })
    }
}

impl Configuration {
    fn read(der: &mut Der<'_>, field: &'static str) -> Result<Self, DerError> {
        let mut fields = der.nested(SEQUENCE, field)?;
        let configuration = Self {
            dynamic_platform: entry(&mut fields, &[7, 1], "dynamic platform", Der::boolean)?,
            cached_keys: entry(&mut fields, &[7, 2], "cached keys", Der::boolean)?,
            smt: entry(&mut fields, &[7, 3], "SMT enabled", Der::boolean)?,
        };
        fields.end(field)?;
        Ok(configuration)
    }
}

/// Standard, scalable, or scalable with integrity.
fn read_sgx_type(der: &mut Der<'_>, field: &'static str) -> Result<(), DerError> {
    match der.value(ENUMERATED, field)? {
        [0..=2] => Ok(()),
        _ => Err(DerError::Value { field }),
    }
}

fn read_tcb(der: &mut Der<'_>, field: &'static str) -> Result<([u8; 16], u16), DerError> {
    let mut fields = der.nested(SEQUENCE, field)?;
    let mut components = [0; 16];
    for (number, component) in (1..).zip(&mut components) {
        let svn = entry(&mut fields, &[2, number], "TCB component", Der::u16)?;
        *component = svn.try_into().map_err(|_| DerError::Value {
            field: "TCB component",
        })?;
    }
    let pcesvn = entry(&mut fields, &[2, 17], "PCESVN", Der::u16)?;
    entry(&mut fields, &[2, 18], "CPUSVN", Der::octets::<16>)?;
    fields.end(field)?;
    Ok((components, pcesvn))
}

/// The next pair, whose identifier must be Intel's with this ending.
fn entry<'a, T>(
    fields: &mut Der<'a>,
    ending: &[u8],
    field: &'static str,
    read: impl FnOnce(&mut Der<'a>, &'static str) -> Result<T, DerError>,
) -> Result<T, DerError> {
    let mut pair = fields.nested(SEQUENCE, field)?;
    if pair.value(OID, field)?.strip_prefix(SGX) != Some(ending) {
        return Err(DerError::Missing { field });
    }
    let value = read(&mut pair, field)?;
    pair.end(field)?;
    Ok(value)
}

fn optional<'a, T>(
    fields: &mut Der<'a>,
    ending: &[u8],
    field: &'static str,
    read: impl FnOnce(&mut Der<'a>, &'static str) -> Result<T, DerError>,
) -> Result<Option<T>, DerError> {
    match fields.is_empty() {
        true => Ok(None),
        false => entry(fields, ending, field, read).map(Some),
    }
}

/// 1.2.840.113741.1.13.1.
const SGX: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf8, 0x4d, 0x01, 0x0d, 0x01];
