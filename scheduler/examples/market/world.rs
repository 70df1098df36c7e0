//! Owners of GPUs, their clients, and the hours that they meet in.

use scheduler::dice::Dice;

use crate::chain::Market;

/// A kind of GPU.
pub(crate) struct Kind {
    pub(crate) name: &'static str,
    /// Tokens in an hour.
    capacity: u32,
    /// Mean, in thousandths of a coin for a million tokens.
    costs: f64,
    /// What its speed is worth to clients.
    worth: f64,
}

pub(crate) const KINDS: [Kind; 3] = [
    Kind {
        name: "fast",
        capacity: 8_000_000,
        costs: 100.0,
        worth: 1.4,
    },
    Kind {
        name: "middling",
        capacity: 3_000_000,
        costs: 80.0,
        worth: 1.0,
    },
    Kind {
        name: "slow",
        capacity: 1_000_000,
        costs: 65.0,
        worth: 0.8,
    },
];

/// Hours.
pub(crate) const DAY: usize = 24;
pub(crate) const DAYS: usize = 14;

/// What is simulated.
#[derive(Clone, Copy)]
pub(crate) struct Plan {
    /// How much more at noon, of one.
    pub(crate) by_day: f64,
    /// Whether it triples for five days.
    pub(crate) is_stepped: bool,
    /// A price twice as high has demand fall to 2^-this.
    pub(crate) elastic: f64,
    /// What of the fast workers one owner has.
    pub(crate) owned: f64,
    /// What the others ask for.
    pub(crate) asks: Asks,
    /// What that owner pays itself, in parts of what the clients pay.
    pub(crate) wash: f64,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            by_day: 0.5,
            is_stepped: true,
            elastic: 1.0,
            owned: 0.0,
            asks: Asks::Market,
            wash: 0.0,
        }
    }
}

/// What is asked of clients.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Asks {
    /// Its price, or the costs where these are higher.
    Market,
    /// A fifth above costs.
    Costs,
}

/// What was found, by kind and hour.
pub(crate) struct Days {
    pub(crate) prices: [Vec<f64>; 3],
    pub(crate) used: [Vec<f64>; 3],
    pub(crate) workers: [Vec<usize>; 3],
    /// What the owner of some earned above costs, in coins.
    pub(crate) gained: Vec<f64>,
    /// What feigning cost it.
    pub(crate) fees: Vec<f64>,
}

pub(crate) fn simulate(plan: &Plan) -> Days {
    let mut dice = Dice(11);
    let mut fleets = KINDS.each_ref().map(|kind| Fleet::new(kind, &mut dice));
    let mut days = Days {
        prices: [const { Vec::new() }; 3],
        used: [const { Vec::new() }; 3],
        workers: [const { Vec::new() }; 3],
        gained: Vec::new(),
        fees: Vec::new(),
    };
    for hour in 0..DAYS * DAY {
        let demand = demand(plan, hour);
        let prices = fleets
            .each_ref()
            .map(|fleet| fleet.market.price() as f64 / UNIT);
        let appeal = |kind: usize| (KINDS[kind].worth / prices[kind]).powi(3);
        let all: f64 = (0..3).map(appeal).sum();
        for kind in 0..3 {
            let share = demand * appeal(kind) / all;
            let fleet = &mut fleets[kind];
            fleet.review(prices[kind], &mut dice);
            let owned = if kind == 0 { plan.owned } else { 0.0 };
            let sold = fleet.sell(prices[kind], share, plan, owned);
            let washes = if kind == 0 && hour >= 4 * DAY {
                plan.wash
            } else {
                0.0
            };
            let feigned = sold.paid * washes;
            let present = fleet.workers.iter().filter(|worker| worker.is_here);
            days.workers[kind].push(present.count());
            days.prices[kind].push(prices[kind]);
            days.used[kind].push(sold.used);
            if kind == 0 {
                days.gained.push(sold.gained / 1000.0);
                // A hundredth, of which who reports gets half.
                days.fees.push(feigned / 1000.0 * 0.005);
            }
            let paid = ((sold.paid + feigned) * UNIT) as u64;
            let here = (1..)
                .zip(&fleet.workers)
                .filter(|(_, worker)| worker.is_here);
            let asks = here.map(|(number, worker)| (number, (worker.costs * UNIT) as u64));
            fleet.market.hour(asks, paid);
        }
    }
    days
}

/// Tokens that would be bought in an hour at a price of 100, in millions.
fn demand(plan: &Plan, hour: usize) -> f64 {
    let noon = (hour as f64 / DAY as f64 * std::f64::consts::TAU).sin();
    let day = hour / DAY;
    let step = if plan.is_stepped && (4..9).contains(&day) {
        3.0
    } else {
        1.0
    };
    260.0 * step * (1.0 + plan.by_day * noon)
}

/// Nanotons in a thousandth of a coin.
const UNIT: f64 = 1_000_000.0;

const WORKERS: u8 = 40;

struct Fleet {
    market: Market,
    workers: Vec<Worker>,
    /// Of one worker, in millions of tokens.
    capacity: f64,
}

struct Worker {
    costs: f64,
    is_here: bool,
}

struct Sold {
    /// In thousandths of a coin.
    paid: f64,
    gained: f64,
    /// Of the capacity that is here.
    used: f64,
}

impl Fleet {
    fn new(kind: &Kind, dice: &mut Dice) -> Self {
        let worker = |_| Worker {
            costs: kind.costs * (0.6 + 0.8 * part(dice)),
            is_here: true,
        };
        Self {
            market: Market::new(kind.capacity, (kind.costs * UNIT) as u64),
            workers: (0..WORKERS).map(worker).collect(),
            capacity: f64::from(kind.capacity) / 1e6,
        }
    }

    /// Each looks at the price now and then.
    fn review(&mut self, price: f64, dice: &mut Dice) {
        for worker in &mut self.workers {
            if dice.is_one_in(4) {
                worker.is_here = price >= worker.costs;
            }
        }
    }

    /// Who asks for least sells first, and those who ask for the same sell the same, until
    /// nobody buys at what the next one asks for.
    fn sell(&self, price: f64, demand: f64, plan: &Plan, owned: f64) -> Sold {
        let own = (f64::from(WORKERS) * owned) as usize;
        let here = self
            .workers
            .iter()
            .enumerate()
            .filter(|(_, worker)| worker.is_here);
        let mut offers: Vec<_> = here
            .map(|(number, worker)| {
                let ask = match plan.asks {
                    Asks::Costs if number >= own => worker.costs * 1.2,
                    _ => price.max(worker.costs),
                };
                (ask, worker.costs, number < own)
            })
            .collect();
        offers.sort_by(|a, b| a.0.total_cmp(&b.0));
        let all = self.capacity * offers.len() as f64;
        let mut sold = Sold {
            paid: 0.0,
            gained: 0.0,
            used: 0.0,
        };
        let mut tokens = 0.0;
        for same in offers.chunk_by(|a, b| a.0 == b.0) {
            let ask = same[0].0;
            let wanted = demand * (ask / 100.0).powf(-plan.elastic) - tokens;
            let each = (wanted / same.len() as f64).clamp(0.0, self.capacity);
            for (_, costs, is_own) in same {
                tokens += each;
                sold.paid += each * ask;
                if *is_own {
                    sold.gained += each * (ask - costs);
                }
            }
        }
        sold.used = tokens / all.max(1e-9);
        sold
    }
}

/// Of one.
fn part(dice: &mut Dice) -> f64 {
    (dice.roll() >> 11) as f64 / (1_u64 << 53) as f64
}
