//! What a TD report says of a TD: measurements, attributes, and the TCB under it.
//!
//! ```text
//! size  field
//!   16  TEE_TCB_SVN: [0] TDX module SVN, [1] its major version, [2] microcode, ...
//!   48  MRSEAM, MRSIGNERSEAM (48), SEAMATTRIBUTES (8)
//!    8  TDATTRIBUTES, XFAM (8)
//!   48  MRTD, MRCONFIGID, MROWNER, MROWNERCONFIG, RTMR0 to RTMR3: eight times 48
//!   64  REPORTDATA
//!   64  type 3, 4: TEE_TCB_SVN_2 (16) as it is now, MRSERVICETD (48)
//!  237  type 4: VMID, TD_ID, device information, service TDs, initial TCB
//! ```
//!
//! The TDX module fills everything in; REPORTDATA and the RTMRs come from the
//! guest, MRCONFIGID, MROWNER and MROWNERCONFIG from the host at launch.
//!
//! Source: Intel TDX Module ABI Specification, "TDREPORT_STRUCT"; Intel
//! `sgx_quote_5.h` for body types 3 and 4.

use alloc::collections::BTreeMap;
use core::fmt;

use crate::binding::ReportData;
use crate::reader::{Reader, Truncated};
use crate::register::{Digest384, TdRegisters};

use super::quote::BodyType;

/// A TD report body.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct TdBody {
    /// SVNs of the TDX module and of what is under it, when the TD was launched.
    pub tee_tcb_svn: [u8; 16],
    /// Measurement of the TDX module.
    pub mrseam: Digest384,
    /// Signer of the TDX module; zero for Intel's.
    pub mrsignerseam: Digest384,
    /// Attributes of the TDX module, in memory order.
    pub seam_attributes: [u8; 8],
    /// Attributes of the TD.
    pub attributes: TdAttributes,
    /// Processor state that the TD may use.
    pub xfam: Xfam,
    /// MRTD and the four RTMRs.
    pub registers: TdRegisters,
    /// Set by the host at launch; ours is the digest of the measured configuration.
    pub mrconfigid: Digest384,
    /// Set by the host at launch.
    pub mrowner: Digest384,
    /// Set by the host at launch.
    pub mrownerconfig: Digest384,
    /// Chosen by the guest.
    pub report_data: ReportData,
    /// What only TDX 1.5 says.
    pub td15: Option<Td15>,
}

/// Fields of body types 3 and 4.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Td15 {
    /// SVNs as they are now, after updates that kept the TD running.
    pub tee_tcb_svn_2: [u8; 16],
    /// Service TDs bound to this one.
    pub mrservicetd: Digest384,
    /// What only type 4 says.
    pub ex: Option<Td15Ex>,
}

/// Fields of body type 4 that bear on trust.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Td15Ex {
    /// Partition that the report is about; zero for a TD without partitions.
    pub vmid: u8,
    /// Service TDs bound at creation.
    pub initial_service_td: Digest384,
    /// Service TDs bound now.
    pub current_service_td: Digest384,
}

impl TdBody {
    pub(super) fn read(reader: &mut Reader<'_>, body_type: BodyType) -> Result<Self, Truncated> {
        let tee_tcb_svn = *reader.array("TEE_TCB_SVN")?;
        let mrseam = digest(reader, "MRSEAM")?;
        let mrsignerseam = digest(reader, "MRSIGNERSEAM")?;
        let seam_attributes = *reader.array("SEAMATTRIBUTES")?;
        let attributes = TdAttributes(reader.u64_le("TDATTRIBUTES")?);
        let xfam = Xfam(reader.u64_le("XFAM")?);
        let mrtd = digest(reader, "MRTD")?;
        let mrconfigid = digest(reader, "MRCONFIGID")?;
        let mrowner = digest(reader, "MROWNER")?;
        let mrownerconfig = digest(reader, "MROWNERCONFIG")?;
        let registers = TdRegisters {
            mrtd,
            rtmr0: digest(reader, "RTMR0")?,
            rtmr1: digest(reader, "RTMR1")?,
            rtmr2: digest(reader, "RTMR2")?,
            rtmr3: digest(reader, "RTMR3")?,
        };
        let report_data = ReportData(*reader.array("REPORTDATA")?);
        let td15 = match body_type {
            BodyType::Td10 => None,
            BodyType::Td15 | BodyType::Td15Ex => Some(Td15::read(reader, body_type)?),
        };
        Ok(Self {
            tee_tcb_svn,
            mrseam,
            mrsignerseam,
            seam_attributes,
            attributes,
            xfam,
            registers,
            mrconfigid,
            mrowner,
            mrownerconfig,
            report_data,
            td15,
        })
    }

    /// Everything that was measured or set at launch, by name.
    #[must_use]
    pub fn digests(&self) -> BTreeMap<&'static str, Digest384> {
        let registers = &self.registers;
        BTreeMap::from([
            ("mrtd", registers.mrtd),
            ("rtmr0", registers.rtmr0),
            ("rtmr1", registers.rtmr1),
            ("rtmr2", registers.rtmr2),
            ("rtmr3", registers.rtmr3),
            ("mrconfigid", self.mrconfigid),
            ("mrowner", self.mrowner),
            ("mrownerconfig", self.mrownerconfig),
            ("mrseam", self.mrseam),
        ])
    }
}

impl Td15 {
    fn read(reader: &mut Reader<'_>, body_type: BodyType) -> Result<Self, Truncated> {
        Ok(Self {
            tee_tcb_svn_2: *reader.array("TEE_TCB_SVN_2")?,
            mrservicetd: digest(reader, "MRSERVICETD")?,
            ex: match body_type {
                BodyType::Td15Ex => Some(Td15Ex::read(reader)?),
                BodyType::Td10 | BodyType::Td15 => None,
            },
        })
    }
}

impl Td15Ex {
    fn read(reader: &mut Reader<'_>) -> Result<Self, Truncated> {
        let vmid = reader.u8("VMID")?;
        reader.array::<32>("TD_ID")?;
        reader.array::<48>("DEV_INFO")?;
        let initial_service_td = digest(reader, "INIT_SERVICE_TD_HASH")?;
        reader.array::<8>("INIT_SERVICE_TD_ATTRIBUTES")?;
        reader.array::<16>("INIT_CPUSVN")?;
        reader.array::<16>("INIT_TEE_TCB_SVN")?;
        reader.array::<12>("INIT_TEE_FMSPC")?;
        let current_service_td = digest(reader, "CUR_SERVICE_TD_HASH")?;
        reader.array::<8>("CUR_SERVICE_TD_ATTRIBUTES")?;
        Ok(Self {
            vmid,
            initial_service_td,
            current_service_td,
        })
    }
}

macro_rules! bits {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Eq, PartialEq)]
        pub struct $name(pub u64);

        impl $name {
            /// Whether all bits set here are set in `allowed`.
            #[must_use]
            pub const fn within(self, allowed: Self) -> bool {
                self.0 & !allowed.0 == 0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:#018x}", self.0)
            }
        }

        impl core::str::FromStr for $name {
            type Err = &'static str;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                text.strip_prefix("0x")
                    .and_then(|digits| u64::from_str_radix(digits, 16).ok())
                    .map(Self)
                    .ok_or("not a 64-bit mask: expected 0x and hex digits")
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                let text = <alloc::borrow::Cow<'de, str>>::deserialize(from)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

bits! {
    /// TDATTRIBUTES as a number: bit 0 is DEBUG.
    TdAttributes
}

bits! {
    /// XFAM as a number: extended processor state, numbered as in XCR0 and IA32_XSS.
    Xfam
}

impl TdAttributes {
    /// DEBUG (0) and the profiling bits (4-6): the host sees into the TD.
    pub const UNDER_DEBUG: Self = Self(0x71);

    /// The TD gets no exception on pages that the host took away, but stops.
    /// Without it the host can make the guest's kernel take a #VE anywhere.
    pub const SEPT_VE_DISABLE: Self = Self(1 << 28);

    /// Those that do not weaken a TD: ICSSD (16), LASS (27), SEPT_VE_DISABLE (28),
    /// PKS (30), KL (31), PERFMON (63). Not MIGRATABLE, nor what binds service TDs.
    pub const HARMLESS: Self =
        Self(1 << 16 | 1 << 27 | Self::SEPT_VE_DISABLE.0 | 1 << 30 | 1 << 31 | 1 << 63);

    /// Must be zero: bits 1-3, 7-15, 23-26 and 32-61.
    ///
    /// Source: Intel TDX Module ABI Specification 348551-008US, table 3.23.
    pub const RESERVED: Self = Self(0x3fff_ffff_0780_ff8e);
}

impl Xfam {
    /// x87, SSE, AVX, AVX-512, PKRU, CET, user interrupts and AMX. Neither PT (8)
    /// nor LBR (15), which record where the guest's code goes.
    pub const HARMLESS: Self = Self(0x0006_5ae7);
}

fn digest(reader: &mut Reader<'_>, field: &'static str) -> Result<Digest384, Truncated> {
    reader
        .array(field)
        .map(|bytes| Digest384::from_bytes(*bytes))
}
