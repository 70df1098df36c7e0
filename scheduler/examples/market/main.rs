//! Two weeks in the Markets of one model on three kinds of GPU, with the contract's own
//! state machine: whether prices settle, what they do by day and night, and what it costs and
//! gains to feign demand.
//!
//!     cargo run --release -p scheduler --example market
//!
//! prints `docs/market.md` and writes the drawings beside it; the same numbers each time.

#![allow(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "a simulation of numbers of its own"
)]

mod chain;
#[path = "../plot/mod.rs"]
mod plot;
mod world;

use std::path::Path;
use std::{fs, io};

use plot::{Line, Plot};
use world::{Asks, DAY, DAYS, Days, KINDS, Plan, simulate};

fn main() -> io::Result<()> {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
    let mut text = String::from(HEADER);

    let steps = simulate(&Plan {
        by_day: 0.0,
        ..Plan::default()
    });
    text.push_str(SETTLING);
    for (kind, name) in KINDS.iter().map(|kind| kind.name).enumerate() {
        for (what, from, to) in [
            ("at first", 0, 4 * DAY),
            ("three times as much", 4 * DAY, 9 * DAY),
            ("as before", 9 * DAY, DAYS * DAY),
        ] {
            text.push_str(&settling(&steps, kind, from, to, name, what));
        }
    }
    fs::write(
        docs.join("market-steps.svg"),
        prices("Prices when demand jumps", &steps),
    )?;

    let days = simulate(&Plan::default());
    text.push_str(BY_DAY);
    for (kind, name) in KINDS.iter().map(|kind| kind.name).enumerate() {
        text.push_str(&format!("| {name} |"));
        for day in [2, 3, 7, 8, 12, 13] {
            let (low, high) = bounds(&days.prices[kind][day * DAY..(day + 1) * DAY]);
            text.push_str(&format!(" {low:.0} to {high:.0} |"));
        }
        text.push('\n');
    }
    text.push_str("\n![prices](market-days.svg)\n![use](market-use.svg)\n");
    fs::write(
        docs.join("market-days.svg"),
        prices("Prices by day and night", &days),
    )?;
    let used = Plot {
        title: "What of the hour's capacity was paid for",
        x: "days",
        y: "of a hundred",
        is_log: false,
        lines: lines(&days.used, 100.0),
    };
    fs::write(docs.join("market-use.svg"), used.svg())?;

    text.push_str(WASHING);
    for elastic in [0.5, 1.0, 1.5] {
        for owned in [0.1, 0.33] {
            for asks in [Asks::Market, Asks::Costs] {
                text.push_str(&washing(elastic, owned, asks));
            }
        }
    }
    print!("{text}");
    fs::write(docs.join("market.md"), text)
}

/// How long until the price stays near where it ends, and how much it moves there.
fn settling(days: &Days, kind: usize, from: usize, to: usize, name: &str, what: &str) -> String {
    let prices = &days.prices[kind][from..to];
    let last = prices[prices.len() - DAY..].iter().sum::<f64>() / DAY as f64;
    let is_far = |price: &f64| (price / last - 1.0).abs() > 0.1;
    let settled = prices.iter().rposition(is_far).map_or(0, |hour| hour + 1);
    let (low, high) = bounds(&prices[prices.len() - DAY..]);
    format!(
        "| {name} | {what} | {last:.0} | {settled} h | {:.1} % | {} |\n",
        100.0 * (high - low) / last,
        days.workers[kind][to - 1],
    )
}

/// What a tenth or a third of all workers of one kind gain by feigning demand.
fn washing(elastic: f64, owned: f64, asks: Asks) -> String {
    let honest = Plan {
        by_day: 0.0,
        is_stepped: false,
        elastic,
        owned,
        asks,
        wash: 0.0,
    };
    // As much again as all pay.
    let feigned = Plan {
        wash: 1.0,
        ..honest
    };
    let (before, after) = (simulate(&honest), simulate(&feigned));
    let day =
        |days: &Days, of: fn(&Days) -> &Vec<f64>| of(days)[9 * DAY..].iter().sum::<f64>() / 5.0;
    let [paid, gained] = [&before, &after].map(|days| day(days, |days| &days.gained));
    let fees = day(&after, |days| &days.fees);
    let price = |days: &Days| days.prices[0][9 * DAY..].iter().sum::<f64>();
    format!(
        "| {elastic} | {:.0} % | {} | {:+.0} % | {paid:.1} | {:+.1} | {fees:.2} | {:+.1} |\n",
        owned * 100.0,
        match asks {
            Asks::Market => "the Market's price",
            Asks::Costs => "a fifth above costs",
        },
        100.0 * (price(&after) / price(&before) - 1.0),
        gained - paid,
        gained - paid - fees,
    )
}

fn prices(title: &str, days: &Days) -> String {
    let plot = Plot {
        title,
        x: "days",
        y: "thousandths of a coin for a million tokens",
        is_log: false,
        lines: lines(&days.prices, 1.0),
    };
    plot.svg()
}

fn lines(of: &[Vec<f64>; 3], times: f64) -> Vec<Line> {
    let line = |(kind, values): (&world::Kind, &Vec<f64>)| {
        let points = values.iter().enumerate();
        let points = points.map(|(hour, value)| (hour as f64 / DAY as f64, value * times));
        Line::new(kind.name, points.collect())
    };
    KINDS.iter().zip(of).map(line).collect()
}

fn bounds(values: &[f64]) -> (f64, f64) {
    let low = values.iter().copied().fold(f64::MAX, f64::min);
    let high = values.iter().copied().fold(f64::MIN, f64::max);
    (low, high)
}

const HEADER: &str = "\
# Prices of a network, simulated

Written by `cargo run --release -p scheduler --example market`; all of it follows from one
seed. Each kind of GPU has a Market, which is the contract's state machine (`contracts::market`)
hearing what the contract would hear: presences, and redemptions that come every one to six
hours. Forty workers of each kind, whose costs differ by two fifths up and down; whoever could
not earn its costs at the hour's price leaves within hours, and comes back when it could.
Clients buy less where it is dearer (elasticity 1 unless said), and of the kinds rather what is
cheap for its speed. Prices are thousandths of a coin for a million tokens.
";

const SETTLING: &str = "
## Demand that jumps

Three times as much after four days, and back after five more. Settled: from when on
the price stays within a tenth of its mean on the last day. Moves: between the highest and the
lowest of that day.

| | demand | price | settled | moves | workers |
|---|---|---|---|---|---|
";

const BY_DAY: &str = "
![prices](market-steps.svg)

## Day and night

The same with demand that is half as much again at noon and half of it at midnight; lowest and
highest price of a day. Two days beside each other are alike: it follows, and does not build up.

| | day 3 | day 4 | day 8 | day 9 | day 13 | day 14 |
|---|---|---|---|---|---|---|
";

const WASHING: &str = "
## Feigned demand

The owner of some of the fastest kind's workers pays itself as much as all clients pay, every
hour, from the fifth day on. It costs the Market's hundredth, of which it gets half back as the
one who reports; gas is next to nothing beside it. Coins a day, over the last five days: what
the owner earns above costs without it, what more by it, what it costs, what is left.
It pays where everybody asks what the Market says and clients buy whatever it costs; where the
others ask for what they need, clients go to them, as `scheduler::choice` does, and feigning only
empties the owner's machines.

| elasticity | of the workers | others ask | price | earned | more | fees | left |
|---|---|---|---|---|---|---|---|
";
