//! Too little gas at each hop, and years without anyone: nothing is lost that should stay,
//! and what is refused is refused clearly.

#![allow(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "helpers of tests are tests"
)]

mod emulated;
mod tvm;
mod world;

use tycho_types::cell::Cell;
use tycho_types::models::StdAddr;

use emulated::{BLOCK, Emulated, NOW};
use tvm::{Tvm, Tx};
use world::{COIN, build};

/// It spends all it came with, so that nothing is left to send back: hence what a Node
/// asks for before it begins.
#[test]
fn a_hop_without_the_gas_for_it_changes_nothing() {
    let Some(tvm) = tvm::start(NOW) else { return };
    let td = Emulated::new();
    let world = td.world(&tvm);
    let attest = build(&td.attest(&world.claim(BLOCK)));
    // The whole way, of which each hop is then sent again with less and less.
    let sent = tvm.send("anyone", &world.node, COIN, &attest);
    let hops: Vec<&Tx> = sent[1..4].iter().collect();
    assert_eq!(sent[4].to, Some(tvm.wallet("owner")));

    let world = td.world(&tvm);
    for hop in hops {
        let (from, to) = (hop.from.clone().unwrap(), hop.to.clone().unwrap());
        let before = data(&tvm, &[&world.node, &world.collateral, &world.registry]);
        let mut outcomes = Vec::new();
        for share in 1..10 {
            let value = hop.gas * GAS_PRICE * share / 10;
            let sent = tvm.forge(&from, &to, value, &hop.body);
            outcomes.push(sent[0].exit);
            let after = data(&tvm, &[&world.node, &world.collateral, &world.registry]);
            assert!(before == after, "{share} tenths of the gas of {to}");
        }
        assert!(
            outcomes
                .iter()
                .all(|exit| [Some(OUT_OF_GAS), None].contains(exit)),
            "{outcomes:?}"
        );
        assert!(outcomes.contains(&Some(OUT_OF_GAS)));
    }
}

#[test]
fn years_of_storage_cost_what_was_reserved_for_them() {
    let Some(tvm) = tvm::start(NOW) else { return };
    let td = Emulated::new();
    let world = td.world(&tvm);
    let attest = build(&td.attest(&world.claim(BLOCK)));
    tvm.send("anyone", &world.node, COIN, &attest);
    let reserves = [
        (&world.node, COIN / 50, 6),
        (&world.collateral, COIN / 2, 60),
        // Keeps whatever it is given.
        (&world.registry, COIN, 100),
    ];
    let mut now = NOW;
    for (contract, reserve, years) in reserves {
        let mut cost = |years: u32| {
            let before = tvm.balance(contract);
            now += years * YEAR;
            tvm.set_time(now);
            let sent = tvm.send("anyone", contract, COIN, &Cell::default());
            assert_eq!(sent[0].exit, Some(0), "coins alone");
            let gas = sent[0].gas * 4_369_067 / 65_536;
            before + COIN - tvm.balance(contract) - gas
        };
        cost(0);
        let (first, ten, one) = (cost(1), cost(10), cost(1));
        let differ = one.abs_diff(first);
        assert!(differ < one / 50, "a year as any other: {first} {one}");
        let differ = ten.abs_diff(10 * one);
        assert!(differ < one / 5, "ten as ten: {ten} {one}");
        assert!(one * years <= reserve, "{one} a year");
    }
}

#[test]
fn a_contract_without_coins_lives_on_credit_and_is_frozen_in_the_end() {
    let Some(tvm) = tvm::start(NOW) else { return };
    let td = Emulated::new();
    let world = td.world(&tvm);
    // Another owner's Node that was made with hardly anything.
    let state = contracts::node::State::new(
        tvm.wallet("poor"),
        world.collateral.clone(),
        world.registry.clone(),
    );
    let code = contracts::code::Code::NODE.cell().unwrap();
    let (poor, _) = tvm.deploy(&code, &build(&state), COIN / 1000, &Cell::default());
    tvm.set_time(NOW + 5 * YEAR);
    let sent = tvm.send("anyone", &poor, COIN, &Cell::default());
    assert_eq!(sent[0].exit, Some(0), "a late comer pays what is due");
    assert!(tvm.balance(&poor) > COIN * 9 / 10);
    assert!(tvm.code(&poor).is_some());

    let state = contracts::node::State::new(
        tvm.wallet("gone"),
        world.collateral.clone(),
        world.registry.clone(),
    );
    let (gone, _) = tvm.deploy(&code, &build(&state), COIN / 1000, &Cell::default());
    tvm.set_time(NOW + 75 * YEAR);
    let sent = tvm.send("anyone", &gone, COIN / 1000, &Cell::default());
    assert_eq!(sent[0].exit, None, "nothing runs any more");
    assert!(tvm.code(&gone).is_none(), "frozen");
}

fn data(tvm: &Tvm, contracts: &[&StdAddr]) -> Vec<Option<Cell>> {
    contracts
        .iter()
        .map(|contract| tvm.data(contract))
        .collect()
}

/// Nanotons, rounded up.
const GAS_PRICE: u64 = 67;
const YEAR: u32 = 365 * 24 * 3600;
const OUT_OF_GAS: i32 = -14;
