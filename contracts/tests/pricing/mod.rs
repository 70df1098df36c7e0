//! A Market in a TVM, beside what this side computes of it.

#![allow(
    clippy::arithmetic_side_effects,
    clippy::unwrap_used,
    dead_code,
    unreachable_pub,
    reason = "helpers of tests, each of which uses its own part"
)]

use contracts::app::{self, Want, Wanted};
use contracts::cells::Bytes;
use contracts::channel::{Channel, Terms};
use contracts::code::{Code, address};
use contracts::market::{Children, State};
use contracts::node::{self, Host};
use contracts::receipt::Reported;
use contracts::reports::{Demand, Presence, Redeemed, epoch};
use tycho_types::cell::{Cell, HashBytes, Lazy};
use tycho_types::models::StdAddr;
use tycho_types::num::Tokens;

use super::payment::{self, NOW};
use super::tvm::{Tvm, load};
use super::world::{COIN, build};

pub const MODEL: HashBytes = HashBytes([6; 32]);
pub const GPU: Bytes<16> = Bytes(*b"H100\0\0\0\0\0\0\0\0\0\0\0\0");
/// For a million tokens.
pub const PRICE: u64 = COIN;
pub const STAKE: u64 = 100 * COIN;
/// Tokens that a worker serves in an epoch.
pub const CAPACITY: u32 = 10_000_000;

/// One of them in a TVM, beside what this side computes of it.
pub struct Market<'a> {
    pub tvm: &'a Tvm,
    pub address: StdAddr,
    children: Children,
    pub state: State,
    pub now: u32,
    pub reported: Vec<Reported>,
}

impl<'a> Market<'a> {
    pub fn start(tvm: &'a Tvm, balance: u64) -> Self {
        tvm.restart(NOW);
        let under = |byte| StdAddr::new(0, HashBytes([byte; 32]));
        let children = Children::new(under(7), under(8)).unwrap();
        Self::deploy(tvm, &children, balance)
    }

    pub fn deploy(tvm: &'a Tvm, children: &Children, balance: u64) -> Self {
        let terms = contracts::market::Terms {
            model: MODEL,
            gpu: GPU,
            capacity: CAPACITY,
            stake: STAKE,
            ceiling: 100 * PRICE,
            children: Lazy::new(children).unwrap(),
        };
        let state = State::new(epoch(NOW), PRICE, &terms).unwrap();
        let code = Code::MARKET.cell().unwrap();
        let (address, _) = tvm.deploy(&code, &build(&state), balance, &Cell::default());
        Self {
            tvm,
            address,
            children: children.clone(),
            state,
            now: NOW,
            reported: Vec::new(),
        }
    }

    pub fn stored(&self) -> State {
        load(&self.tvm.data(&self.address).unwrap())
    }

    pub fn set_time(&mut self, now: u32) {
        self.now = now;
        self.tvm.set_time(now);
    }

    pub fn same(&self) {
        assert_eq!(self.stored(), self.state);
    }

    pub fn presence(&self, of: u8, ask: u64) -> (StdAddr, Presence) {
        let owner = StdAddr::new(0, HashBytes([of; 32]));
        let Children {
            collateral,
            registry,
            ..
        } = self.children.clone();
        let first = node::State::new(owner.clone(), collateral, registry);
        let presence = Presence {
            query_id: 1,
            epoch: epoch(self.now),
            owner,
            model: MODEL,
            stake: Tokens::new(STAKE.into()),
            host: Lazy::new(&host(&self.address, ask)).unwrap(),
        };
        (address(Code::NODE, &first).unwrap(), presence)
    }

    pub fn redeemed(&self, of: u8, amount: u64, tokens: u64) -> (StdAddr, Redeemed) {
        let terms = Terms {
            market: self.address.clone(),
            until: NOW + u32::from(of),
            ..payment::terms(self.tvm)
        };
        let channel = Channel::new(terms).unwrap();
        let redeemed = Redeemed {
            query_id: 1,
            amount,
            tokens,
            fee: amount / 100,
            receipts: HashBytes([of; 32]),
            reporter: self.tvm.wallet("keeper"),
            first: Lazy::new(&channel.state).unwrap(),
        };
        (channel.address, redeemed)
    }

    pub fn demand(&self, of: u8, tokens: u64, deposit: u64) -> (StdAddr, Demand) {
        let owner = StdAddr::new(0, HashBytes([of; 32]));
        let demand = Demand {
            query_id: 1,
            epoch: epoch(self.now),
            owner: owner.clone(),
            model: MODEL,
            tokens,
            deposit,
        };
        (address(Code::APP, &app::State::new(owner)).unwrap(), demand)
    }
}

pub fn want(market: &StdAddr) -> Want {
    let wanted = Wanted {
        market: market.clone(),
        model: MODEL,
        requests_per_day: 24_000,
        tokens_per_request: 1000,
    };
    Want {
        query_id: 1,
        wanted: Lazy::new(&wanted).unwrap(),
    }
}

pub fn host(market: &StdAddr, ask: u64) -> Host {
    Host {
        gpu: GPU,
        memory_gib: 80,
        hours_per_week: 168,
        ask: Tokens::new(ask.into()),
        market: market.clone(),
    }
}
