//! TCB info: Intel's table of the firmware levels of one processor family.
//!
//! A level names, for each of 16 SGX and 16 TDX components and for the PCE, the
//! version that a platform needs; the best level that a platform reaches gives
//! its status. The TDX module has levels of its own, by major version.
//!
//! Source: Intel SGX and TDX Provisioning Certification Service API, version 4,
//! "TCB info V3", and "Determine status of a TDX TCB".

use alloc::string::String;
use alloc::vec::Vec;

use serde::{Deserialize, Deserializer};

use crate::certificate::PublicKey;
use crate::time::{UnixTime, Window};

use super::advisories::Advisories;
use super::body::TdBody;
use super::document::{Document, DocumentError, Flaw, IsvLevel, isv_level, moment, status};
use super::hex::Hex;
use super::pck::Pck;
use super::status::TcbStatus;
use super::verify::VerifyError;

/// The table, best level first.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct TcbInfo {
    id: String,
    version: u32,
    #[serde(deserialize_with = "moment")]
    issue_date: UnixTime,
    #[serde(deserialize_with = "moment")]
    next_update: UnixTime,
    fmspc: Hex<6>,
    pce_id: Hex<2>,
    tcb_type: u32,
    #[serde(rename = "tcbEvaluationDataNumber")]
    pub(super) evaluation_number: u32,
    tdx_module: ModuleSigner,
    #[serde(default)]
    tdx_module_identities: Vec<ModuleIdentity>,
    tcb_levels: Vec<PlatformLevel>,
}

impl TcbInfo {
    /// Reads a signed table that holds at the stated time.
    pub(super) fn open(
        text: &str,
        key: PublicKey<'_>,
        at: UnixTime,
    ) -> Result<(Self, Window), DocumentError> {
        let document = Document::TcbInfo;
        let mut info: Self = document.open(text, key)?;
        document.expect("id", info.id.as_str(), "TDX")?;
        document.expect("version", info.version, 3)?;
        // Type 0: components compare one by one. No other rule is defined.
        document.expect("type", info.tcb_type, 0)?;
        if info.tcb_levels.is_empty() {
            let reason = "tcbLevels is empty".into();
            return Err(document.error(Flaw::Malformed { reason }));
        }
        let window = Window {
            from: info.issue_date,
            until: info.next_update,
        };
        document.check_window(window, at)?;
        // Intel's library does not rely on the order in the document either.
        info.tcb_levels
            .sort_by_key(|level| core::cmp::Reverse(level.tcb));
        Ok((info, window))
    }

    /// Refuses a table for other processors.
    pub(super) fn check_platform(&self, pck: &Pck) -> Result<(), VerifyError> {
        let platform = &pck.platform;
        if platform.fmspc != self.fmspc {
            return Err(VerifyError::Fmspc {
                found: platform.fmspc,
                expected: self.fmspc,
            });
        }
        if platform.pceid != self.pce_id {
            return Err(VerifyError::Pceid {
                found: platform.pceid,
                expected: self.pce_id,
            });
        }
        Ok(())
    }

    /// Refuses a TDX module that is not Intel's of that major version.
    pub(super) fn check_module(&self, body: &TdBody) -> Result<(), VerifyError> {
        let signer = self
            .module(&body.tee_tcb_svn)?
            .map_or(self.tdx_module, ModuleIdentity::signer);
        if *body.mrsignerseam.as_bytes() != signer.mrsigner.0 {
            return Err(VerifyError::ModuleSigner {
                found: Hex(*body.mrsignerseam.as_bytes()),
                expected: signer.mrsigner,
            });
        }
        let found = u64::from_le_bytes(body.seam_attributes);
        let expected = u64::from_le_bytes(signer.attributes.0);
        let mask = u64::from_le_bytes(signer.attributes_mask.0);
        // Bits that the mask leaves open are set by nobody.
        if found & mask != expected & mask || found & !mask != 0 {
            return Err(VerifyError::ModuleAttributes { found, expected });
        }
        Ok(())
    }

    /// What Intel says of the platform with these SVNs.
    pub(super) fn assess(
        &self,
        pck: &Pck,
        tee_tcb_svn: &[u8; 16],
    ) -> Result<Assessment<'_>, VerifyError> {
        let platform = self
            .tcb_levels
            .iter()
            .find(|level| level.reached_by(pck, tee_tcb_svn))
            .ok_or(VerifyError::PlatformLevel)?;
        let [isvsvn, version, ..] = *tee_tcb_svn;
        let module = match self.module(tee_tcb_svn)? {
            None => None,
            Some(identity) => Some(
                isv_level(&identity.tcb_levels, isvsvn.into())
                    .ok_or(VerifyError::ModuleLevel { version, isvsvn })?,
            ),
        };
        Ok(Assessment { platform, module })
    }

    /// The module's identity; before major version 1 the table has but one.
    fn module(&self, tee_tcb_svn: &[u8; 16]) -> Result<Option<&ModuleIdentity>, VerifyError> {
        let [_, version, ..] = *tee_tcb_svn;
        if version == 0 {
            return Ok(None);
        }
        self.tdx_module_identities
            .iter()
            .find(|identity| identity.version == Some(version))
            .map(Some)
            .ok_or(VerifyError::ModuleVersion { version })
    }
}

/// The levels that a platform and its TDX module have reached.
#[derive(Clone, Copy, Debug)]
pub(super) struct Assessment<'a> {
    platform: &'a PlatformLevel,
    module: Option<&'a IsvLevel>,
}

impl<'a> Assessment<'a> {
    pub(super) fn status(&self) -> TcbStatus {
        self.module.map_or(self.platform.tcb_status, |module| {
            self.platform.tcb_status.and(module.tcb_status)
        })
    }

    /// The older of the two levels' dates.
    pub(super) fn date(&self) -> UnixTime {
        self.module.map_or(self.platform.tcb_date, |module| {
            self.platform.tcb_date.min(module.tcb_date)
        })
    }

    pub(super) fn advisories(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        let module = self.module.into_iter();
        let module = module.flat_map(|module| module.advisories.iter());
        self.platform.advisories.iter().chain(module)
    }
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct PlatformLevel {
    tcb: PlatformTcb,
    #[serde(deserialize_with = "moment")]
    tcb_date: UnixTime,
    #[serde(deserialize_with = "status")]
    tcb_status: TcbStatus,
    #[serde(default, rename = "advisoryIDs")]
    advisories: Advisories,
}

impl PlatformLevel {
    fn reached_by(&self, pck: &Pck, tee_tcb_svn: &[u8; 16]) -> bool {
        let reached = |(has, needs): (&u8, &Component)| *has >= needs.svn;
        // From major version 1 on, 0 and 1 are the module's, with levels of its own.
        let skip = match tee_tcb_svn {
            [_, 0, ..] => 0,
            _ => 2,
        };
        let tdx = tee_tcb_svn.iter().zip(&self.tcb.tdxtcbcomponents);
        pck.components
            .iter()
            .zip(&self.tcb.sgxtcbcomponents)
            .all(reached)
            && pck.pcesvn >= self.tcb.pcesvn
            && tdx.skip(skip).all(reached)
    }
}

/// Compares as Intel sorts levels: SGX components, then PCE, then TDX components.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd)]
struct PlatformTcb {
    sgxtcbcomponents: [Component; 16],
    pcesvn: u16,
    tdxtcbcomponents: [Component; 16],
}

#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd)]
struct Component {
    svn: u8,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ModuleIdentity {
    #[serde(rename = "id", deserialize_with = "major_version")]
    version: Option<u8>,
    mrsigner: Hex<48>,
    attributes: Hex<8>,
    attributes_mask: Hex<8>,
    tcb_levels: Vec<IsvLevel>,
}

impl ModuleIdentity {
    const fn signer(&self) -> ModuleSigner {
        ModuleSigner {
            mrsigner: self.mrsigner,
            attributes: self.attributes,
            attributes_mask: self.attributes_mask,
        }
    }
}

/// Reads an identifier like `TDX_01`; others may be there, and name no version.
fn major_version<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u8>, D::Error> {
    let digits = <&str>::deserialize(from)?.strip_prefix("TDX_");
    let digits = digits.filter(|digits| digits.len() == 2);
    Ok(digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()))
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ModuleSigner {
    mrsigner: Hex<48>,
    attributes: Hex<8>,
    attributes_mask: Hex<8>,
}
