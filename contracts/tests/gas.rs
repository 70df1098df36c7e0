//! What everything costs, as `gas.json` has it: a change is a diff that someone reviews.

#![allow(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "helpers of tests are tests"
)]

mod emulated;
mod payment;
mod pricing;
mod tvm;
mod world;

use std::collections::{BTreeMap, BTreeSet};

use contracts::app::{self, Declare};
use contracts::channel::{Close, Report, TopUp};
use contracts::code::Code;
use contracts::market::Step;
use contracts::node::{Offer, Present};
use contracts::reports::EPOCH;
use tycho_types::cell::{Cell, HashBytes, Lazy, Store};

use emulated::{BLOCK, Emulated, NOW};
use payment::Payment;
use pricing::Market;
use tvm::Tx;
use world::{COIN, build};

#[test]
fn gas_and_size_are_as_recorded() {
    let Some(tvm) = tvm::start(NOW) else { return };
    let td = Emulated::new();
    let world = td.empty_world(&tvm);
    let collateral = td.statements().sign(&td.intel);
    let posted = world.post(&collateral.parts()).unwrap();
    let attest = build(&td.attest(&world.claim(BLOCK)));
    let sent = tvm.send("anyone", &world.node, COIN, &attest);
    let [node, appraise, admit, admitted, _] = &sent[..] else {
        panic!("{sent:#?}");
    };
    let attested = node.gas + appraise.gas + admit.gas + admitted.gas;

    let mut found = BTreeMap::from([
        ("attest_node", node.gas),
        ("attest_collateral", appraise.gas),
        ("attest_registry", admit.gas),
        ("attest_admitted", admitted.gas),
        ("attest_cached_ca", attested),
        ("attest_full_chain", attested + posted[1].gas),
    ]);
    let names = [
        "collateral_root_list",
        "collateral_authority",
        "collateral_authority_list",
        "collateral_tcb_info",
        "collateral_qe_identity",
    ];
    found.extend(names.into_iter().zip(posted.iter().map(|tx: &Tx| tx.gas)));
    let offer = Offer {
        query_id: 1,
        host: Lazy::new(&pricing::host(&tvm.wallet("market"), COIN)).unwrap(),
    };
    tvm.send("owner", &world.node, COIN, &build(&offer));
    let present = tvm.send(
        "anyone",
        &world.node,
        COIN,
        &build(&Present { query_id: 1 }),
    );
    found.insert("node_present", present[0].gas);
    found.extend(channel());
    // What Intel renews every month, of one family: all but the CA's certificate.
    let renewed = posted.iter().map(|tx| tx.gas).sum::<u64>() - posted[1].gas;
    found.insert("collateral_update", renewed);
    found.extend(market());
    found.extend([
        ("cells_app", cells(Code::APP)),
        ("cells_channel", cells(Code::CHANNEL)),
        ("cells_collateral", cells(Code::COLLATERAL)),
        ("cells_market", cells(Code::MARKET)),
        ("cells_node", cells(Code::NODE)),
        ("cells_registry", cells(Code::REGISTRY)),
    ]);
    let found = serde_json::to_string_pretty(&found).unwrap();
    let recorded = include_str!("../gas.json");
    assert!(found == recorded.trim_end(), "gas.json has to be\n{found}");
}

/// From the first coin to the last, each in a world of its own.
fn channel() -> BTreeMap<&'static str, u64> {
    let tvm = tvm::start(payment::NOW).unwrap();
    let mut pay = Payment::open(&tvm, 10 * COIN);
    let mut gas = BTreeMap::from([("channel_open", pay.opened[1].gas)]);
    let claim = pay.claim(1_000_000);
    let report = Report {
        query_id: 1,
        voucher: claim.voucher.clone(),
    };
    let steps: [(_, _, &dyn Store); 5] = [
        ("channel_top_up", "payer", &TopUp { query_id: 1 }),
        ("channel_claim", "payee", &claim),
        ("channel_claim_replayed", "payee", &claim),
        ("channel_report", "payee", &report),
        ("channel_close_begun", "payer", &Close { query_id: 1 }),
    ];
    gas.extend(steps.map(|(name, wallet, body)| (name, pay.send(wallet, body)[0].gas)));
    pay.set_time(payment::NOW + payment::DELAY);
    let close = pay.send("payer", &Close { query_id: 1 });
    gas.insert("channel_close", close[0].gas);
    gas
}

/// The second of everything in an epoch, when the trees are no longer empty.
fn market() -> BTreeMap<&'static str, u64> {
    let tvm = tvm::start(payment::NOW).unwrap();
    let mut market = Market::start(&tvm, COIN);
    let owner = tvm.wallet("developer");
    let code = Code::APP.cell().unwrap();
    let first = build(&app::State::new(owner));
    let (app, _) = tvm.deploy(&code, &first, COIN, &Cell::default());
    let want = build(&pricing::want(&market.address));
    let register = tvm.send("developer", &app, COIN, &want);
    let declare = tvm.send("anyone", &app, COIN, &build(&Declare { query_id: 1 }));
    let mut gas = BTreeMap::from([
        ("app_register", register[0].gas),
        ("app_declare", declare[0].gas),
        ("market_demand", declare[1].gas),
    ]);
    for of in [1, 2] {
        let (node, presence) = market.presence(of, u64::from(of) * COIN);
        let (channel, redeemed) = market.redeemed(of, COIN, 1_000_000);
        let said = |from, body: Cell| tvm.forge(from, &market.address, COIN, &body)[0].gas;
        gas.insert("market_presence", said(&node, build(&presence)));
        gas.insert("usage_commit", said(&channel, build(&redeemed)));
    }
    market.set_time(payment::NOW + EPOCH);
    let step = build(&Step { query_id: 1 });
    let ended = tvm.send("keeper", &market.address, COIN, &step);
    gas.insert("market_epoch", ended[0].gas);
    gas
}

fn cells(code: Code) -> u64 {
    let mut seen: BTreeSet<HashBytes> = BTreeSet::new();
    let mut todo: Vec<Cell> = vec![code.cell().unwrap()];
    while let Some(cell) = todo.pop() {
        if seen.insert(*cell.repr_hash()) {
            todo.extend(cell.references().cloned());
        }
    }
    seen.len().try_into().unwrap()
}
