//! A Market as its contract keeps it, and who reports to it.

use contracts::cells::Bytes;
use contracts::channel::{COUNTED, Channel, Terms};
use contracts::code::{Code, address};
use contracts::market::{self, At, Children, State};
use contracts::node::{self, Host};
use contracts::reports::{EPOCH, Presence, Redeemed, epoch};
use tycho_types::cell::{HashBytes, Lazy};
use tycho_types::models::StdAddr;
use tycho_types::num::Tokens;

/// One of them, with its hours.
pub(crate) struct Market {
    state: State,
    channels: Vec<(Channel, u64)>,
    hour: u32,
}

impl Market {
    pub(crate) fn new(capacity: u32, price: u64) -> Self {
        let children = Children::new(under(7), under(8)).unwrap();
        let terms = market::Terms {
            model: HashBytes::ZERO,
            gpu: Bytes([0; 16]),
            capacity,
            stake: 0,
            ceiling: u64::MAX / 2,
            children: Lazy::new(&children).unwrap(),
        };
        Self {
            state: State::new(epoch(START), price, &terms).unwrap(),
            channels: (0..CHANNELS).map(|number| (channel(number), 0)).collect(),
            hour: 0,
        }
    }

    pub(crate) const fn price(&self) -> u64 {
        self.state.price
    }

    /// An hour: who is there and what they ask for, and what was paid.
    pub(crate) fn hour(&mut self, asks: impl Iterator<Item = (u8, u64)>, paid: u64) {
        let now = START + self.hour * EPOCH;
        for (owner, ask) in asks {
            present(&mut self.state, now, under(owner), ask);
        }
        let each = paid / u64::from(CHANNELS);
        for (number, (channel, unpaid)) in (0..).zip(&mut self.channels) {
            *unpaid += each;
            // Some redeem every hour, some every six.
            if self.hour.is_multiple_of(1 + number % 6) {
                redeem(&mut self.state, now, channel, std::mem::take(unpaid));
            }
        }
        self.hour += 1;
        self.state.turn(START + self.hour * EPOCH).unwrap();
    }
}

const START: u32 = 1_800_000_000;
const CHANNELS: u32 = 12;

fn present(market: &mut State, now: u32, owner: StdAddr, ask: u64) {
    let first = node::State::new(owner.clone(), under(7), under(8));
    let host = Host {
        gpu: Bytes([0; 16]),
        memory_gib: 80,
        hours_per_week: 168,
        ask: Tokens::new(ask.into()),
        market: owner.clone(),
    };
    let presence = Presence {
        query_id: 0,
        epoch: epoch(now),
        owner,
        model: HashBytes::ZERO,
        stake: Tokens::ZERO,
        host: Lazy::new(&host).unwrap(),
    };
    let sender = &address(Code::NODE, &first).unwrap();
    market.presence(&At { now, sender }, &presence).unwrap();
}

fn redeem(market: &mut State, now: u32, channel: &Channel, amount: u64) {
    let redeemed = Redeemed {
        query_id: 0,
        amount,
        tokens: 0,
        fee: 0,
        receipts: HashBytes::ZERO,
        reporter: channel.address.clone(),
        first: Lazy::new(&channel.state).unwrap(),
    };
    let sender = &channel.address;
    market.redeemed(&At { now, sender }, &redeemed).unwrap();
}

fn channel(number: u32) -> Channel {
    let nobody = under(0);
    let terms = Terms {
        payer: nobody.clone(),
        payee: nobody.clone(),
        key: HashBytes::ZERO,
        until: START + number,
        delay: 0,
        fee: COUNTED,
        market: nobody,
    };
    Channel::new(terms).unwrap()
}

fn under(byte: u8) -> StdAddr {
    StdAddr::new(0, HashBytes([byte; 32]))
}
