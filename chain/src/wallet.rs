//! Wallet v5 (revision 1): what its owner signs.
//!
//! ```text
//! _ is_signature_allowed:Bool seqno:uint32 wallet_id:uint32 public_key:uint256
//!   extensions:(HashmapE 256 Bool) = WalletData;
//! signed#7369676e wallet_id:uint32 valid_until:uint32 seqno:uint32 actions:(Maybe ^OutList)
//!   has_other_actions:Bool signature:bits512 = SignedExternal;
//! action_send_msg#0ec3c86d mode:uint8 message:^Message = OutAction;
//! ```
//!
//! The signature is Ed25519 over the hash of the cell without it. What the wallet is, its
//! number and its turn are read from its proved state.
//!
//! Source: github.com/ton-blockchain/wallet-contract-v5, `types.tlb`.

use tycho_crypto::ed25519::{KeyPair, SecretKey};
use tycho_types::cell::{
    Cell, CellBuilder, CellFamily as _, CellSliceParts, HashBytes, Lazy, Load, Store,
};
use tycho_types::dict::Dict;
use tycho_types::error::Error;
use tycho_types::models::{
    ExtInMsgInfo, IntAddr, MessageLayout, MsgInfo, OutAction, OwnedMessage, OwnedRelaxedMessage,
    RelaxedIntMsgInfo, RelaxedMsgInfo, SendMsgFlags, StateInit, StdAddr,
};
use tycho_types::num::Tokens;
use zeroize::ZeroizeOnDrop;

use crate::account::State;

/// What a wallet keeps.
#[derive(Clone, Debug, Eq, Load, PartialEq, Store)]
pub struct Data {
    /// Whether a signature counts, or extensions only.
    pub is_signature_allowed: bool,
    /// Messages so far.
    pub seqno: u32,
    /// Of which network and number.
    pub wallet_id: u32,
    /// Ed25519.
    pub public_key: HashBytes,
    /// Contracts that may act for it.
    pub extensions: Dict<HashBytes, bool>,
}

/// An owner's key.
#[derive(Clone, ZeroizeOnDrop)]
pub struct Key([u8; 32]);

impl core::fmt::Debug for Key {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        formatter.write_str("Key")
    }
}

impl Key {
    /// From the 32 bytes that RFC 8032 calls the private key.
    #[must_use]
    pub const fn from_seed(seed: [u8; 32]) -> Self {
        Self(seed)
    }

    /// From 64 hex digits.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut seed = [0; 32];
        hex::decode_to_slice(text.trim(), &mut seed).ok()?;
        Some(Self(seed))
    }

    /// What others know of it.
    #[must_use]
    pub fn public(&self) -> HashBytes {
        HashBytes(self.pair().public_key.to_bytes())
    }

    /// Signs the hash of a cell.
    #[must_use]
    pub fn sign(&self, hash: &HashBytes) -> [u8; 64] {
        self.pair().sign_raw(&hash.0)
    }

    fn pair(&self) -> KeyPair {
        KeyPair::from(&SecretKey::from_bytes(self.0))
    }
}

/// A message that a wallet is told to send.
#[derive(Clone, Debug)]
pub struct Order {
    /// To whom.
    pub to: StdAddr,
    /// Nanotons.
    pub value: u128,
    /// Whether what is refused comes back.
    pub bounce: bool,
    /// What is said.
    pub body: Cell,
    /// A contract that is made by it.
    pub init: Option<StateInit>,
}

/// A wallet as it is now.
#[derive(Clone, Debug)]
pub struct Wallet {
    address: StdAddr,
    data: Data,
}

impl Wallet {
    /// Reads a wallet from its proved state; it must be the key's.
    pub fn of(address: &StdAddr, state: &State, key: &Key) -> Result<Self, WalletError> {
        let code = state.code().ok_or(WalletError::None)?;
        if code.repr_hash().0 != CODE {
            return Err(WalletError::Code {
                found: *code.repr_hash(),
            });
        }
        let data = state.data().ok_or(WalletError::None)?;
        let data: Data = data.parse().map_err(WalletError::Cells)?;
        match data.public_key == key.public() {
            true => Ok(Self {
                address: address.clone(),
                data,
            }),
            false => Err(WalletError::Key {
                found: key.public(),
                expected: data.public_key,
            }),
        }
    }

    /// Messages so far.
    #[must_use]
    pub const fn seqno(&self) -> u32 {
        self.data.seqno
    }

    /// The message from outside by which the wallet sends, until a second since 1970:
    /// [`MOST_ORDERS`] at most, the first one first. What it has no coins for it leaves out.
    pub fn sign(&self, key: &Key, orders: &[Order], until: u32) -> Result<Cell, WalletError> {
        if orders.len() > MOST_ORDERS {
            return Err(WalletError::Orders(orders.len()));
        }
        let mut body = CellBuilder::new();
        self.request(&mut body, orders, until)
            .map_err(WalletError::Cells)?;
        let unsigned = body.clone().build().map_err(WalletError::Cells)?;
        let signature = key.sign(unsigned.repr_hash());
        let external = body
            .store_raw(&signature, 512)
            .and_then(|()| body.build())
            .and_then(|body| self.external(body));
        external.map_err(WalletError::Cells)
    }

    fn request(&self, body: &mut CellBuilder, orders: &[Order], until: u32) -> Result<(), Error> {
        let mut actions = Cell::default();
        for order in orders {
            let action = OutAction::SendMsg {
                // Of a message from outside, a wallet demands that failures are ignored.
                mode: SendMsgFlags::PAY_FEE_SEPARATELY | SendMsgFlags::IGNORE_ERROR,
                out_msg: Lazy::new(&order.message())?,
            };
            let mut list = CellBuilder::new();
            list.store_reference(actions)?;
            action.store_into(&mut list, Cell::empty_context())?;
            actions = list.build()?;
        }
        body.store_u32(SIGNED)?;
        body.store_u32(self.data.wallet_id)?;
        body.store_u32(until)?;
        body.store_u32(self.data.seqno)?;
        body.store_bit_one()?;
        body.store_reference(actions)?;
        body.store_bit_zero()
    }

    fn external(&self, body: Cell) -> Result<Cell, Error> {
        let info = ExtInMsgInfo {
            dst: IntAddr::Std(self.address.clone()),
            ..ExtInMsgInfo::default()
        };
        CellBuilder::build_from(OwnedMessage {
            info: MsgInfo::ExtIn(info),
            init: None,
            body: CellSliceParts::from(body),
            layout: Some(APART),
        })
    }
}

impl Order {
    fn message(&self) -> OwnedRelaxedMessage {
        let info = RelaxedIntMsgInfo {
            bounce: self.bounce,
            dst: IntAddr::Std(self.to.clone()),
            value: Tokens::new(self.value).into(),
            ..RelaxedIntMsgInfo::default()
        };
        OwnedRelaxedMessage {
            info: RelaxedMsgInfo::Int(info),
            init: self.init.clone(),
            body: CellSliceParts::from(self.body.clone()),
            layout: Some(APART),
        }
    }
}

/// Why a wallet cannot send.
#[derive(Debug, thiserror::Error)]
pub enum WalletError {
    /// More than fits into cells.
    #[error("the message does not fit into cells: {0}")]
    Cells(Error),
    /// Another wallet, or no wallet at all.
    #[error("the contract's code is {found}, which is not wallet v5 (revision 1)")]
    Code {
        /// Its hash.
        found: HashBytes,
    },
    /// Somebody else's.
    #[error("the key is {found}, but the wallet's is {expected}")]
    Key {
        /// As given.
        found: HashBytes,
        /// As proved.
        expected: HashBytes,
    },
    /// Nothing was ever sent from it.
    #[error("there is no wallet yet: its first message has to come from a wallet application")]
    None,
    /// More than one message can have.
    #[error("{0} orders are more than the {MOST_ORDERS} of one message")]
    Orders(usize),
}

/// In one message: the wallet takes 255, of which the longest would not fit into the 65,535
/// bytes that validators take.
pub const MOST_ORDERS: usize = 200;

/// Beside what has no bound, a cell always has place for the rest.
const APART: MessageLayout = MessageLayout {
    init_to_cell: true,
    body_to_cell: true,
};

const SIGNED: u32 = 0x7369_676e;

/// Hash of the code of wallet v5 (revision 1), as everyone deploys it.
const CODE: [u8; 32] = [
    0x20, 0x83, 0x4b, 0x7b, 0x72, 0xb1, 0x12, 0x14, 0x7e, 0x1b, 0x2f, 0xb4, 0x57, 0xb8, 0x4e, 0x74,
    0xd1, 0xa3, 0x0f, 0x04, 0xf7, 0x37, 0xd4, 0xf6, 0x2a, 0x66, 0x8e, 0x95, 0x52, 0xd2, 0xb7, 0x2f,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_has_no_more_orders_than_are_allowed() {
        let key = Key::from_seed([1; 32]);
        let wallet = Wallet {
            address: StdAddr::new(0, HashBytes([2; 32])),
            data: Data {
                is_signature_allowed: true,
                seqno: 0,
                wallet_id: 0,
                public_key: key.public(),
                extensions: Dict::new(),
            },
        };
        let order = Order {
            to: wallet.address.clone(),
            value: 1,
            bounce: true,
            body: Cell::default(),
            init: None,
        };
        let sign = |count| wallet.sign(&key, &vec![order.clone(); count], 0);
        assert!(sign(MOST_ORDERS).is_ok());
        let most = MOST_ORDERS + 1;
        assert!(matches!(sign(most), Err(WalletError::Orders(found)) if found == most));
    }
}
