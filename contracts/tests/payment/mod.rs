//! A Channel in a TVM, beside what this side computes of it.

#![allow(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    dead_code,
    unreachable_pub,
    reason = "helpers of tests, each of which uses its own part"
)]

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use contracts::channel::{At, COUNTED, Channel, Claim, Open, State, Terms};
use contracts::voucher::{Signed, Voucher};
use tycho_types::cell::{HashBytes, Store};
use tycho_types::models::StdAddr;

use super::tvm::{Tvm, Tx, load};
use super::world::{COIN, GLOBAL_ID, build};

pub const NOW: u32 = 1_800_000_000;
pub const UNTIL: u32 = NOW + 30 * DAY;
pub const DELAY: u32 = 3600;
pub const DAY: u32 = 24 * 3600;
/// For a million tokens.
pub const PRICE: u64 = COIN;

/// One Channel, open.
pub struct Payment<'a> {
    pub tvm: &'a Tvm,
    pub channel: Channel,
    pub now: u32,
    pub opened: Vec<Tx>,
}

impl<'a> Payment<'a> {
    /// With so much in it.
    pub fn open(tvm: &'a Tvm, deposit: u64) -> Self {
        tvm.restart(NOW);
        Self::with(tvm, deposit, terms(tvm))
    }

    pub fn with(tvm: &'a Tvm, deposit: u64, terms: Terms) -> Self {
        let channel = Channel::new(terms.clone()).unwrap();
        let open = Open::new(1, terms).unwrap();
        let (address, opened) = tvm.deploy(&open.code, &open.data, deposit, &build(&open.body));
        assert_eq!(address, channel.address);
        Self {
            tvm,
            channel,
            now: NOW,
            opened,
        }
    }

    pub fn at(&self) -> At {
        At {
            now: self.now,
            global_id: GLOBAL_ID,
            balance: self.tvm.balance(&self.channel.address),
        }
    }

    pub fn set_time(&mut self, now: u32) {
        self.now = now;
        self.tvm.set_time(now);
    }

    /// What it keeps, which has to be what this side computed.
    pub fn state(&self) -> State {
        let state: State = load(&self.tvm.data(&self.channel.address).unwrap());
        assert_eq!(state, self.channel.state);
        state
    }

    pub fn send(&self, wallet: &str, body: &dyn Store) -> Vec<Tx> {
        self.tvm
            .send(wallet, &self.channel.address, COIN, &build(body))
    }

    pub fn exit(&self, body: &dyn Store) -> i32 {
        self.send("anyone", body)[0].exit.unwrap()
    }

    /// A voucher for so many tokens at [`PRICE`].
    pub fn voucher(&self, tokens: u64) -> Voucher {
        Voucher::first(GLOBAL_ID, self.channel.address.clone())
            .next(tokens, PRICE, self.now / 3600, HashBytes([9; 32]))
            .unwrap()
    }

    pub fn claim(&self, tokens: u64) -> Claim {
        Claim {
            query_id: 3,
            voucher: sign(&self.voucher(tokens)),
        }
    }
}

pub fn terms(tvm: &Tvm) -> Terms {
    Terms {
        payer: tvm.wallet("payer"),
        payee: tvm.wallet("payee"),
        key: HashBytes(key(1).public_key().as_ref().try_into().unwrap()),
        until: UNTIL,
        delay: DELAY,
        fee: COUNTED,
        market: tvm.wallet("market"),
    }
}

pub fn sign(voucher: &Voucher) -> Signed {
    signed_by(1, voucher)
}

pub fn signed_by(number: u8, voucher: &Voucher) -> Signed {
    let signature = key(number).sign(&voucher.hash().unwrap());
    voucher
        .signed(signature.as_ref().try_into().unwrap())
        .unwrap()
}

pub fn key(number: u8) -> Ed25519KeyPair {
    Ed25519KeyPair::from_seed_unchecked(&[number; 32]).unwrap()
}

/// What `to` was sent by these.
pub fn received(sent: &[Tx], to: &StdAddr) -> u64 {
    let to = sent.iter().filter(|tx| tx.to.as_ref() == Some(to));
    to.map(|tx| tx.value).sum()
}

/// That what came to `address` is there, was sent on, or was paid to the chain.
pub fn conserved(before: u64, after: u64, address: &StdAddr, sent: &[Tx]) {
    let of = |side: &dyn Fn(&Tx) -> Option<&StdAddr>| {
        let mine = sent.iter().filter(|tx| side(tx) == Some(address));
        mine.map(|tx| (tx.value, tx.fees)).collect::<Vec<_>>()
    };
    let came: u64 = of(&|tx| tx.to.as_ref())
        .iter()
        .map(|(value, _)| value)
        .sum();
    let fees: u64 = of(&|tx| tx.to.as_ref()).iter().map(|(_, fees)| fees).sum();
    let left: u64 = of(&|tx| tx.from.as_ref())
        .iter()
        .map(|(value, _)| value)
        .sum();
    assert_eq!(before + came, after + left + fees, "{sent:#?}");
}
