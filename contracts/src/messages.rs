//! What the contracts say to each other in an attestation, as in `tolk/messages.tolk`.
//!
//! ```text
//! owner --Attest--> Node --Appraise--> Collateral --Admit--> Registry --Admitted--> Node
//! ```

use tycho_types::cell::{Cell, HashBytes, Lazy, Load, Store};
use tycho_types::models::StdAddr;

use crate::cells::{Bytes, Moment};

/// Which software runs in a TD.
///
/// ```text
/// _ build:uint256 configuration:bits384 = Software;
/// ```
#[derive(Clone, Debug, Eq, Load, PartialEq, Store)]
pub struct Software {
    /// SHA-256 of MRTD and RTMR0 to RTMR3.
    pub build: HashBytes,
    /// MRCONFIGID.
    pub configuration: Bytes<48>,
}

/// What a platform's certificate and its TDX module say of the platform.
///
/// ```text
/// _ issuer:uint256 is_processor_ca:Bool serial:uint160 not_after:uint40 fmspc:uint48
///   pce_id:uint16 components:uint128 pce_svn:uint16 launch_tcb:uint128
///   current_tcb:(Maybe uint128) = Platform;
/// ```
#[derive(Clone, Debug, Eq, Load, PartialEq, Store)]
pub struct Platform {
    /// Coordinate of the key that issued the certificate.
    pub issuer: HashBytes,
    /// Under which of two names.
    pub is_processor_ca: bool,
    /// Of the certificate.
    pub serial: Bytes<20>,
    /// Of the certificate.
    pub not_after: Moment,
    /// Family of the processor.
    pub fmspc: Bytes<6>,
    /// Which provisioning certification enclave.
    pub pce_id: u16,
    /// SVNs of 16 SGX components.
    pub components: u128,
    /// SVN of that enclave.
    pub pce_svn: u16,
    /// TEE_TCB_SVN.
    pub launch_tcb: u128,
    /// TEE_TCB_SVN_2, where the quote has it.
    pub current_tcb: Option<u128>,
}

/// What the quoting enclave reports of itself.
///
/// ```text
/// _ misc_select:uint32 attributes:uint128 signer:uint256 product_id:uint16 svn:uint16
///   = Enclave;
/// ```
#[derive(Clone, Debug, Eq, Load, PartialEq, Store)]
pub struct Enclave {
    /// MISCSELECT, in memory order.
    pub misc_select: u32,
    /// ATTRIBUTES, in memory order.
    pub attributes: u128,
    /// MRSIGNER.
    pub signer: HashBytes,
    /// ISVPRODID.
    pub product_id: u16,
    /// ISVSVN.
    pub svn: u16,
}

/// Node asks Collateral, and names the Registry to go on with.
///
/// ```text
/// appraise#41505031 query_id:uint64 registry:MsgAddressInt enclave:Enclave
///   platform:^Platform software:^Software claim:^Claim = Appraise;
/// ```
#[derive(Clone, Debug, Load, Store)]
#[tlb(tag = "#41505031")]
pub struct Appraise {
    /// Of the sender's choice.
    pub query_id: u64,
    /// Who goes on.
    pub registry: StdAddr,
    /// Who made the attestation key.
    pub enclave: Enclave,
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
/// admitted#41444d32 query_id:uint64 until:uint40 build:uint256 model:uint256
///   claim:^Claim = Admitted;
/// ```
#[derive(Clone, Debug, Load, Store)]
#[tlb(tag = "#41444d32")]
pub struct Admitted {
    /// Of the sender's choice.
    pub query_id: u64,
    /// For how long.
    pub until: Moment,
    /// See [`Software::build`].
    pub build: HashBytes,
    /// Root hash of the model that the configuration names.
    pub model: HashBytes,
    /// What was asked for.
    pub claim: Cell,
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
