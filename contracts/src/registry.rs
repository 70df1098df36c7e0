//! Registry: which software counts. What the contract keeps and hears, as in
//! `tolk/registry-types.tolk`.

use tycho_types::cell::{Cell, CellBuilder, CellContext, CellSlice, HashBytes, Lazy, Load, Store};
use tycho_types::dict::Dict;
use tycho_types::error::Error;
use tycho_types::models::StdAddr;

use attestation::register::{Digest384, TdRegisters};

use crate::cells::{Bytes, Moment};
use crate::messages::Lacks;

/// What Registry keeps.
///
/// ```text
/// _ collateral:MsgAddressInt turn:uint32 governance:^Governance policy:Policy
///   published:^Published waiting:(HashmapE 32 Waiting) = RegistryState;
/// ```
#[derive(Clone, Debug, Eq, Load, PartialEq, Store)]
pub struct State {
    /// Whose word on hardware counts.
    pub collateral: StdAddr,
    /// Of the next order.
    pub turn: u32,
    /// Who decides.
    pub governance: Lazy<Governance>,
    /// What is asked of every TD.
    pub policy: Policy,
    /// What counts.
    pub published: Lazy<Published>,
    /// Changes that can be watched, by their turn.
    pub waiting: Dict<u32, Waiting>,
}

impl State {
    /// Of a Registry that is deployed: nothing counts yet.
    pub fn new(
        collateral: StdAddr,
        governance: &Governance,
        policy: Policy,
    ) -> Result<Self, Error> {
        Ok(Self {
            collateral,
            turn: 0,
            governance: Lazy::new(governance)?,
            policy,
            published: Lazy::new(&Published::default())?,
            waiting: Dict::new(),
        })
    }
}

/// Who decides, and how long a change can be watched.
///
/// ```text
/// _ threshold:uint8 delay:uint32 builders:(HashmapE 8 uint256) = Governance;
/// ```
#[derive(Clone, Debug, Eq, Load, PartialEq, Store)]
pub struct Governance {
    /// So many have to sign.
    pub threshold: u8,
    /// Seconds.
    pub delay: u32,
    /// Ed25519.
    pub builders: Dict<u8, HashBytes>,
}

/// What is asked of every TD.
///
/// ```text
/// _ tolerated:Lacks min_evaluation:uint32 min_version:uint32 lifetime:uint32 = Policy;
/// ```
#[derive(Clone, Copy, Debug, Eq, Load, PartialEq, Store)]
pub struct Policy {
    /// What its platform may lack.
    pub tolerated: Lacks,
    /// The least TCB recovery that collateral must be from.
    pub min_evaluation: u32,
    /// The least version of a build.
    pub min_version: u32,
    /// For how many seconds an attestation counts at most.
    pub lifetime: u32,
}

/// What counts.
///
/// ```text
/// _ builds:(HashmapE 256 Build) configurations:(HashmapE 256 Configuration)
///   models:(HashmapE 256 Model) = Published;
/// ```
#[derive(Clone, Debug, Default, Eq, Load, PartialEq, Store)]
pub struct Published {
    /// By [`build_key`].
    pub builds: Dict<HashBytes, Build>,
    /// By [`configuration_key`].
    pub configurations: Dict<HashBytes, Configuration>,
    /// By the root hash of their verity disk.
    pub models: Dict<HashBytes, Model>,
}

/// A build of the image, in one shape of machine.
///
/// ```text
/// _ manifest:uint256 version:uint32 roles:uint8 until:uint40 = Build;
/// ```
#[derive(Clone, Copy, Debug, Eq, Load, PartialEq, Store)]
pub struct Build {
    /// SHA-256 of the release manifest.
    pub manifest: HashBytes,
    /// Of the release.
    pub version: u32,
    /// Bit 0: worker.
    pub roles: u8,
    /// When it stops counting.
    pub until: Moment,
}

/// A measured configuration.
///
/// ```text
/// _ model:uint256 until:uint40 = Configuration;
/// ```
#[derive(Clone, Copy, Debug, Eq, Load, PartialEq, Store)]
pub struct Configuration {
    /// Root hash of the model that it names.
    pub model: HashBytes,
    /// When it stops counting.
    pub until: Moment,
}

/// A model.
///
/// ```text
/// _ name:bits112 price_class:uint8 = Model;
/// ```
#[derive(Clone, Copy, Debug, Eq, Load, PartialEq, Store)]
pub struct Model {
    /// ASCII, left-aligned.
    pub name: Bytes<14>,
    /// Which price it has.
    pub price_class: u8,
}

/// A change that is waiting.
///
/// ```text
/// _ from:uint40 change:^Change = Waiting;
/// ```
#[derive(Clone, Debug, Eq, Load, PartialEq, Store)]
pub struct Waiting {
    /// When anyone can have it applied.
    pub from: Moment,
    /// What it is.
    pub change: Cell,
}

/// How the registry knows a build: SHA-256 of MRTD and RTMR0 to RTMR3.
#[must_use]
pub fn build_key(registers: &TdRegisters) -> HashBytes {
    HashBytes(*registers.build().as_bytes())
}

/// How the registry knows a configuration: the first 256 bits of MRCONFIGID.
#[must_use]
pub fn configuration_key(mrconfigid: &Digest384) -> HashBytes {
    let mut key = HashBytes::ZERO;
    for (to, from) in key.0.iter_mut().zip(mrconfigid.as_bytes()) {
        *to = *from;
    }
    key
}

macro_rules! changes {
    ($(#[$doc:meta] $tag:literal $name:ident { $(#[$field_doc:meta] $field:ident: $kind:ty,)* })*) => {
        /// What builders decide.
        #[derive(Clone, Debug, Eq, PartialEq)]
        pub enum Change {
            $(#[$doc] $name { $(#[$field_doc] $field: $kind,)* },)*
        }

        impl Store for Change {
            fn store_into(
                &self,
                builder: &mut CellBuilder,
                context: &dyn CellContext,
            ) -> Result<(), Error> {
                match self {
                    $(Self::$name { $($field),* } => {
                        builder.store_u32($tag)?;
                        $($field.store_into(builder, context)?;)*
                    })*
                }
                Ok(())
            }
        }

        impl<'a> Load<'a> for Change {
            fn load_from(slice: &mut CellSlice<'a>) -> Result<Self, Error> {
                match slice.load_u32()? {
                    $($tag => Ok(Self::$name { $($field: Load::load_from(slice)?,)* }),)*
                    _ => Err(Error::InvalidTag),
                }
            }
        }
    };
}

changes! {
    /// `put_build#42554c44 build:uint256 record:Build`: it counts.
    0x4255_4c44 PutBuild {
        /// See [`build_key`].
        build: HashBytes,
        /// What is known of it.
        record: Build,
    }
    /// `put_configuration#434f4e46 configuration:uint256 record:Configuration`: it counts.
    0x434f_4e46 PutConfiguration {
        /// See [`configuration_key`].
        configuration: HashBytes,
        /// What is known of it.
        record: Configuration,
    }
    /// `put_model#4d4f444c model:uint256 record:Model`
    0x4d4f_444c PutModel {
        /// Root hash of its verity disk.
        model: HashBytes,
        /// What is known of it.
        record: Model,
    }
    /// `set_policy#504f4c49 policy:Policy`
    0x504f_4c49 SetPolicy {
        /// The new one.
        policy: Policy,
    }
    /// `set_governance#474f5645 governance:^Governance`
    0x474f_5645 SetGovernance {
        /// The new one.
        governance: Lazy<Governance>,
    }
    /// `set_code#55504752 code:^Cell`
    0x5550_4752 SetCode {
        /// The new one.
        code: Cell,
    }
    /// `end_build#454e4442 build:uint256 until:uint40`: at once, and only sooner.
    0x454e_4442 EndBuild {
        /// See [`build_key`].
        build: HashBytes,
        /// When it stops counting.
        until: Moment,
    }
    /// `end_configuration#454e4443 configuration:uint256 until:uint40`: likewise.
    0x454e_4443 EndConfiguration {
        /// See [`configuration_key`].
        configuration: HashBytes,
        /// When it stops counting.
        until: Moment,
    }
    /// `tighten#544f4c45 policy:Policy`: at once, and stricter in everything.
    0x544f_4c45 Tighten {
        /// The new one.
        policy: Policy,
    }
    /// `cancel#434e434c turn:uint32`: at once.
    0x434e_434c Cancel {
        /// Of a change that waits.
        turn: u32,
    }
}

/// What is signed: the hash of its cell.
///
/// ```text
/// order#4f524431 global_id:int32 registry:MsgAddressInt turn:uint32 valid_until:uint40
///   change:^Change = Order;
/// ```
#[derive(Clone, Debug, Eq, Load, PartialEq, Store)]
#[tlb(tag = "#4f524431")]
pub struct Order {
    /// Which network.
    pub global_id: i32,
    /// For which Registry.
    pub registry: StdAddr,
    /// As many orders were before it.
    pub turn: u32,
    /// When it is too late.
    pub valid_until: Moment,
    /// What is decided.
    pub change: Lazy<Change>,
}

/// Anyone brings a signed order.
///
/// ```text
/// decide#44454331 query_id:uint64 order:^Order signatures:(HashmapE 8 bits512) = Decide;
/// ```
#[derive(Clone, Debug, Load, Store)]
#[tlb(tag = "#44454331")]
pub struct Decide {
    /// Of the sender's choice.
    pub query_id: u64,
    /// What is signed.
    pub order: Lazy<Order>,
    /// By number of the builder.
    pub signatures: Dict<u8, Bytes<64>>,
}

/// Anyone has a change applied whose delay is over.
///
/// ```text
/// apply#4150504c query_id:uint64 turn:uint32 = Apply;
/// ```
#[derive(Clone, Debug, Eq, Load, PartialEq, Store)]
#[tlb(tag = "#4150504c")]
pub struct Apply {
    /// Of the sender's choice.
    pub query_id: u64,
    /// Of the change.
    pub turn: u32,
}
