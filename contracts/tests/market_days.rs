//! Days in a Market whose demand changes: the price goes where it should, and stays there.

#![allow(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "helpers of tests are tests"
)]

use contracts::cells::Bytes;
use contracts::channel::{COUNTED, Channel, Terms};
use contracts::code::{Code, address};
use contracts::market::{self, At, Children, State};
use contracts::node::{self, Host};
use contracts::reports::{EPOCH, Presence, Redeemed, epoch};
use tycho_types::cell::{HashBytes, Lazy};
use tycho_types::models::StdAddr;
use tycho_types::num::Tokens;

const NOW: u32 = 1_800_000_000;
const COIN: u64 = 1_000_000_000;
const WORKERS: u8 = 10;
const CHANNELS: u32 = 12;
/// Tokens that a worker serves in an hour.
const CAPACITY: u32 = 1_000_000;
const DAY: usize = 24;

/// Payers of one mind: what they have is spent whatever the price is.
#[test]
fn a_price_finds_what_demand_is_worth_and_rests_there() {
    for (before, after) in [(6, 24), (24, 6), (6, 240), (6, 7)] {
        let spent = |hour| COIN * if hour < 4 * DAY { before } else { after };
        let prices = simulate(8 * DAY, 10, |hour, _| spent(hour));
        // Six tenths of ten million tokens.
        let worth = |spent: u64| spent * 1_000_000 / 6_000_000;
        for (prices, spent) in [
            (&prices[3 * DAY..4 * DAY], before),
            (&prices[7 * DAY..], after),
        ] {
            let (low, high) = bounds(prices);
            let worth = worth(spent * COIN);
            assert!(
                low > worth * 3 / 4 && high < worth * 4 / 3,
                "{low} {worth} {high}"
            );
            assert!(high - low <= low / 5, "it rests: {low} {high}");
        }
    }
}

/// Payers who buy twice as much at half the price, and more: the loop's gain is doubled.
#[test]
fn eager_payers_do_not_make_it_swing() {
    let spent = |_, price| 6 * COIN * COIN / price;
    let prices = simulate(8 * DAY, 10, spent);
    let (low, high) = bounds(&prices[4 * DAY..]);
    assert!(high - low <= low / 5, "{low} {high}");
}

#[test]
fn a_price_follows_day_and_night_by_an_eighth_an_hour_at_most() {
    let by_day = |hour: usize, _| {
        if hour % DAY < DAY / 2 {
            12 * COIN
        } else {
            3 * COIN
        }
    };
    let prices = simulate(6 * DAY, 10, by_day);
    for pair in prices.windows(2) {
        let reach = (pair[0] / 8).max(1);
        assert!(pair[0].abs_diff(pair[1]) <= reach, "{pair:?}");
    }
    let days: Vec<_> = prices.chunks(DAY).map(bounds).collect();
    let (low, high) = days[3];
    assert!(high > low * 3 / 2, "it does follow: {low} {high}");
    for (later_low, later_high) in &days[4..] {
        assert!(
            later_low.abs_diff(low) <= low / 10,
            "each day as the one before"
        );
        assert!(later_high.abs_diff(high) <= high / 10);
    }
}

#[test]
fn nobody_serves_below_what_a_fifth_asks_for_or_above_the_ceiling() {
    let asked = simulate(4 * DAY, COIN, |_, _| COIN / 1000);
    let least = contracts::price::least(contracts::price::bracket(COIN));
    assert!(
        asked[2 * DAY..].iter().all(|price| *price == least),
        "{asked:?}"
    );
    let dear = simulate(4 * DAY, 10, |_, _| 1_000_000 * COIN);
    assert_eq!(*dear.last().unwrap(), CEILING);
}

const CEILING: u64 = 50 * COIN;

/// The price of every hour. What is spent depends on the hour and the price.
fn simulate(hours: usize, ask: u64, spend: impl Fn(usize, u64) -> u64) -> Vec<u64> {
    let under = |byte| StdAddr::new(0, HashBytes([byte; 32]));
    let children = Children::new(under(7), under(8)).unwrap();
    let terms = market::Terms {
        model: HashBytes::ZERO,
        gpu: Bytes([0; 16]),
        capacity: CAPACITY,
        stake: 0,
        ceiling: CEILING,
        children: Lazy::new(&children).unwrap(),
    };
    let mut market = State::new(epoch(NOW), COIN, &terms).unwrap();
    let channels: Vec<Channel> = (0..CHANNELS).map(channel).collect();
    let mut unpaid = vec![0; channels.len()];
    let mut prices = Vec::new();
    for hour in 0..hours {
        let now = NOW + u32::try_from(hour).unwrap() * EPOCH;
        market.turn(now).unwrap();
        prices.push(market.price);
        for owner in (0..WORKERS).map(under) {
            present(&mut market, now, owner, ask);
        }
        let each = spend(hour, market.price) / u64::from(CHANNELS);
        for (number, channel) in channels.iter().enumerate() {
            unpaid[number] += each;
            // Some redeem every hour, some every six.
            if hour % (1 + number % 6) == 0 {
                let amount = std::mem::take(&mut unpaid[number]);
                redeem(&mut market, now, channel, amount);
            }
        }
    }
    prices
}

fn present(market: &mut State, now: u32, owner: StdAddr, ask: u64) {
    let under = |byte| StdAddr::new(0, HashBytes([byte; 32]));
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
    let sender = address(Code::NODE, &first).unwrap();
    market
        .presence(
            &At {
                now,
                sender: &sender,
            },
            &presence,
        )
        .unwrap();
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
    let nobody = StdAddr::new(0, HashBytes::ZERO);
    let terms = Terms {
        payer: nobody.clone(),
        payee: nobody.clone(),
        key: HashBytes::ZERO,
        until: NOW + number,
        delay: 0,
        fee: COUNTED,
        market: nobody,
    };
    Channel::new(terms).unwrap()
}

fn bounds(prices: &[u64]) -> (u64, u64) {
    (*prices.iter().min().unwrap(), *prices.iter().max().unwrap())
}
