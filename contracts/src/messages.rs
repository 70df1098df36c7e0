//! What the contracts say to each other in an attestation, as in `tolk/messages.tolk`.
//!
//! ```text
//! owner --Attest--> Node --Appraise--> Collateral --Admit--> Registry --Admitted--> Node
//! ```

use tycho_types::cell::{Cell, CellBuilder, CellContext, CellSlice, HashBytes, Lazy, Load, Store};
use tycho_types::error::Error;
use tycho_types::models::StdAddr;

use crate::cells::{Bytes, Moment, Rest};
use crate::node::Attestation;

/// What the quoting enclave reports of itself, and the PCK certificate of a platform.
/// Numbers are as in the bytes that were signed: what Intel writes little-endian is so.
///
/// ```text
/// _ issuer:uint256 is_processor_ca:Bool misc_select:uint32 attributes:uint128
///   signer:uint256 product_id:uint16 svn:uint16 components:uint128 pce_svn:uint8
///   serial:Bytes = Platform;
/// ```
#[derive(Clone, Debug, Eq, Load, PartialEq, Store)]
pub struct Platform {
    /// Coordinate of the key that issued the certificate.
    pub issuer: HashBytes,
    /// Under which of two names.
    pub is_processor_ca: bool,
    /// MISCSELECT, ATTRIBUTES, MRSIGNER, ISVPRODID, ISVSVN.
    pub enclave: Enclave,
    /// SVNs of 16 SGX components.
    pub components: u128,
    /// SVN of the provisioning certification enclave.
    pub pce_svn: u8,
    /// Of the certificate, with its length.
    pub serial: Rest,
}

/// Of a [`Platform`].
#[derive(Clone, Debug, Eq, Load, PartialEq, Store)]
pub struct Enclave {
    /// MISCSELECT.
    pub misc_select: u32,
    /// ATTRIBUTES.
    pub attributes: u128,
    /// MRSIGNER.
    pub signer: HashBytes,
    /// ISVPRODID.
    pub product_id: u16,
    /// ISVSVN.
    pub svn: u16,
}

/// What a quote says of a TD and of the TDX module, and what the platform's cell has no
/// place for.
///
/// ```text
/// _ build:uint256 pce_id:uint16 fmspc:uint48 configuration:bits384 launch_tcb:uint128 kind:(## 2) current_tcb:(kind >= 2)?uint128
///   = Software;
/// ```
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Software {
    /// SHA-256 of MRTD and RTMR0 to RTMR3.
    pub build: HashBytes,
    /// Which provisioning certification enclave.
    pub pce_id: u16,
    /// Family of the processor.
    pub fmspc: Bytes<6>,
    /// MRCONFIGID.
    pub configuration: Bytes<48>,
    /// TEE_TCB_SVN.
    pub launch_tcb: u128,
    /// Version 4, or body 2, 3 or 4 of version 5.
    pub kind: u8,
    /// TEE_TCB_SVN_2, where the quote has it.
    pub current_tcb: Option<u128>,
}

impl Store for Software {
    fn store_into(
        &self,
        builder: &mut CellBuilder,
        context: &dyn CellContext,
    ) -> Result<(), Error> {
        if self.current_tcb.is_some() != (self.kind >= 2) {
            return Err(Error::InvalidData);
        }
        self.build.store_into(builder, context)?;
        builder.store_u16(self.pce_id)?;
        self.fmspc.store_into(builder, context)?;
        self.configuration.store_into(builder, context)?;
        builder.store_u128(self.launch_tcb)?;
        builder.store_small_uint(self.kind, 2)?;
        match self.current_tcb {
            Some(tcb) => builder.store_u128(tcb),
            None => Ok(()),
        }
    }
}

impl<'a> Load<'a> for Software {
    fn load_from(slice: &mut CellSlice<'a>) -> Result<Self, Error> {
        let build = HashBytes::load_from(slice)?;
        let pce_id = slice.load_u16()?;
        let fmspc = Bytes::load_from(slice)?;
        let configuration = Bytes::load_from(slice)?;
        let launch_tcb = slice.load_u128()?;
        let kind = slice.load_small_uint(2)?;
        let current_tcb = match kind >= 2 {
            true => Some(slice.load_u128()?),
            false => None,
        };
        Ok(Self {
            build,
            pce_id,
            fmspc,
            configuration,
            launch_tcb,
            kind,
            current_tcb,
        })
    }
}

/// Node asks Collateral, and names the Registry to go on with.
///
/// ```text
/// appraise#41505031 query_id:uint64 registry:MsgAddressInt until:uint40
///   platform:^Platform software:^Software claim:^Claim = Appraise;
/// ```
#[derive(Clone, Debug, Load, Store)]
#[tlb(tag = "#41505031")]
pub struct Appraise {
    /// Of the sender's choice.
    pub query_id: u64,
    /// Who goes on.
    pub registry: StdAddr,
    /// The end of the platform's certificate.
    pub until: Moment,
    /// Where.
    pub platform: Lazy<Platform>,
    /// What runs there.
    pub software: Lazy<Software>,
    /// Comes back with the answer.
    pub claim: Cell,
}

/// Collateral vouches to Registry for the hardware under a TD.
///
/// ```text
/// admit#41444d31 query_id:uint64 node:MsgAddressInt lacks:uint8 evaluation:uint32
///   until:uint40 software:^Software claim:^Claim = Admit;
/// ```
#[derive(Clone, Debug, Load, Store)]
#[tlb(tag = "#41444d31")]
pub struct Admit {
    /// Of the sender's choice.
    pub query_id: u64,
    /// Who asked.
    pub node: StdAddr,
    /// What the platform lacks.
    pub lacks: Lacks,
    /// Number of the TCB recovery that the collateral was made after.
    pub evaluation: u32,
    /// The end of everything that this rests on.
    pub until: Moment,
    /// What runs there.
    pub software: Lazy<Software>,
    /// Comes back with the answer.
    pub claim: Cell,
}

/// Registry tells the Node that it counts.
///
/// ```text
/// admitted#41444d32 query_id:uint64 attestation:^Attestation = Admitted;
/// ```
#[derive(Clone, Debug, Load, Store)]
#[tlb(tag = "#41444d32")]
pub struct Admitted {
    /// Of the sender's choice.
    pub query_id: u64,
    /// What was proved.
    pub attestation: Lazy<Attestation>,
}

/// Why it does not.
///
/// ```text
/// refused#52454655 query_id:uint64 exit_code:int32 = Refused;
/// ```
#[derive(Clone, Debug, Eq, Load, PartialEq, Store)]
#[tlb(tag = "#52454655")]
pub struct Refused {
    /// Of the sender's choice.
    pub query_id: u64,
    /// Of the contract that refused.
    pub exit_code: i32,
}

/// What is left of a message's value.
///
/// ```text
/// excesses#d53276db query_id:uint64 = Excesses;
/// ```
#[derive(Clone, Debug, Eq, Load, PartialEq, Store)]
#[tlb(tag = "#d53276db")]
pub struct Excesses {
    /// Of the sender's choice.
    pub query_id: u64,
}

/// What a status of Intel's says is missing: a sum of the constants here.
///
/// ```text
/// _ lacks:uint8 = Lacks;
/// ```
#[derive(Clone, Copy, Debug, Default, Eq, Load, PartialEq, Store)]
pub struct Lacks(pub u8);

impl Lacks {
    /// SWHardeningNeeded.
    pub const HARDENING: Self = Self(1);
    /// ConfigurationNeeded.
    pub const CONFIGURATION: Self = Self(2);
    /// OutOfDate.
    pub const UPDATE: Self = Self(4);
    /// Revoked.
    pub const TRUST: Self = Self(8);
    /// TDRelaunchAdvised.
    pub const RELAUNCH: Self = Self(16);
    /// Intel names advisories.
    pub const ADVISED: Self = Self(32);
}
