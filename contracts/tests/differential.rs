//! The reference TVM and another one, on whatever anyone sends.
//!
//! `tvm/second.rs` compares every transaction of the other tests of contracts, and says what
//! is left out. Here they get what no other test sends, and it is shown that a difference
//! would be seen.

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

use contracts::app::{self, Declare};
use contracts::cells::{Bytes, Moment};
use contracts::channel::{Close, Report, Terms, TopUp};
use contracts::code::Code;
use contracts::market::{Children, Step};
use contracts::messages::{Admit, Lacks};
use contracts::node::{Leave, Offer, Present};
use contracts::registry::{Apply, Change, Decide, Order, Policy, build_key};
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::{RngAlgorithm, TestRng, TestRunner};
use tests::td::Td;
use tycho_types::cell::{Cell, CellBuilder, Lazy};
use tycho_types::dict::Dict;
use tycho_types::models::StdAddr;

use emulated::{BLOCK, Emulated};
use payment::{DAY, NOW, Payment, UNTIL};
use pricing::{Market, PRICE, host, want};
use tvm::Tvm;
use world::{COIN, GLOBAL_ID, POLICY, World, build, builder, software};

#[test]
fn two_tvms_do_the_same_with_whatever_anyone_sends() {
    let Some(tvm) = tvm::start(NOW) else { return };
    // The same ones each time.
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let mut runner = TestRunner::new_with_rng(ProptestConfig::with_cases(12), rng);
    let cases = prop::collection::vec(step(), 1..64);
    let done = runner.run(&cases, |steps| {
        let messages = messages(&tvm);
        let mut now = NOW;
        for step in steps {
            now += step.later;
            tvm.set_time(now);
            let (from, to, body) = step.which.get(&messages);
            let from = step.by.map_or(from, |by| &by.get(&messages).0);
            tvm.forge(from, to, step.value, &step.body.of(body));
        }
        Ok(())
    });
    done.unwrap();
}

#[test]
fn a_transaction_at_another_time_is_another_one() {
    let Some(tvm) = tvm::start(NOW) else { return };
    let pay = Payment::open(&tvm, 10 * COIN);
    pay.send("payee", &pay.claim(2_000_000));
    let mut ran = tvm.ran.borrow()[1].clone();
    let (reference, second) = tvm.second().outcomes(&ran);
    assert_eq!(reference.exit(), Some(0));
    assert_eq!(reference, second);
    ran.now = UNTIL;
    let (reference, second) = tvm.second().outcomes(&ran);
    assert_eq!((reference.exit(), second.exit()), (Some(0), Some(185)));
}

/// Why a Node's is left out; the day that this fails, it need not be.
#[test]
fn the_second_tvm_has_no_p256() {
    let Some(tvm) = tvm::start(NOW) else { return };
    let td = Emulated::new();
    let world = td.world(&tvm);
    let attest = build(&td.attest(&world.claim(BLOCK)));
    tvm.send("anyone", &world.node, COIN, &attest);
    let exits = |ran| {
        let (reference, second) = tvm.second().outcomes(ran);
        (reference.exit(), second.exit())
    };
    let exits: Vec<_> = tvm.ran.borrow().iter().map(exits).collect();
    assert!(exits.contains(&(Some(0), Some(6))), "{exits:?}");
}

#[derive(Clone, Debug)]
struct Sent {
    which: Index,
    /// Of another message.
    by: Option<Index>,
    value: u64,
    later: u32,
    body: Body,
}

#[derive(Clone, Debug)]
enum Body {
    AsItIs,
    /// One bit is another, if there are so many in all its cells.
    Flipped(usize),
    /// No more than so many bits and cells under it are left.
    Cut(u16, u8),
    Noise(Vec<u8>),
}

fn step() -> impl Strategy<Value = Sent> {
    let body = prop_oneof![
        4 => Just(Body::AsItIs),
        4 => (0..2048_usize).prop_map(Body::Flipped),
        2 => (0..900_u16, 0..4_u8).prop_map(|(bits, cells)| Body::Cut(bits, cells)),
        1 => prop::collection::vec(any::<u8>(), 0..100).prop_map(Body::Noise),
    ];
    // Too little for the gas, enough, and more than there is.
    let value = prop_oneof![2 => 7_000..1_500_000_u64, 3 => Just(COIN), 1 => 0..1_u64 << 50];
    let later = prop_oneof![4 => Just(0), 2 => 1..7200_u32, 1 => DAY..9 * DAY];
    let by = prop::option::weighted(0.2, any::<Index>());
    (any::<Index>(), by, value, later, body).prop_map(|(which, by, value, later, body)| Sent {
        which,
        by,
        value,
        later,
        body,
    })
}

impl Body {
    fn of(&self, body: &Cell) -> Cell {
        match self {
            Self::AsItIs => body.clone(),
            Self::Flipped(at) => flipped(body, &mut at.clone()),
            Self::Cut(bits, cells) => {
                let whole = body.as_slice_allow_exotic();
                let bits = (*bits).min(whole.size_bits());
                let cells = (*cells).min(whole.size_refs());
                CellBuilder::build_from(whole.get_prefix(bits, cells)).unwrap()
            }
            Self::Noise(noise) => tvm::bytes(noise),
        }
    }
}

fn flipped(cell: &Cell, at: &mut usize) -> Cell {
    let slice = cell.as_slice_allow_exotic();
    let mut builder = CellBuilder::new();
    for bit in 0..slice.size_bits() {
        let is = slice.get_bit(bit).unwrap();
        builder.store_bit(is ^ (*at == 0)).unwrap();
        *at = at.wrapping_sub(1);
    }
    for under in cell.references().cloned() {
        builder.store_reference(flipped(&under, at)).unwrap();
    }
    builder.build().unwrap()
}

/// In a world of its own, one of each that counts in it, with who sends it to whom.
fn messages(tvm: &Tvm) -> Vec<(StdAddr, StdAddr, Cell)> {
    let td = Emulated::new();
    let world = td.world(tvm);
    let attest = build(&td.attest(&world.claim(BLOCK)));
    tvm.send("anyone", &world.node, COIN, &attest);
    let children = Children::new(world.collateral.clone(), world.registry.clone()).unwrap();
    let market = Market::deploy(tvm, &children, COIN);
    let terms = Terms {
        market: market.address.clone(),
        ..payment::terms(tvm)
    };
    let pay = Payment::with(tvm, 100 * COIN, terms);
    let code = Code::APP.cell().unwrap();
    let first = build(&app::State::new(tvm.wallet("developer")));
    let (app, _) = tvm.deploy(&code, &first, COIN, &Cell::default());

    let query_id = 1;
    let claims = [3_000_000, 5_000_000].map(|tokens| pay.claim(tokens));
    let report = Report {
        query_id,
        voucher: claims[0].voucher.clone(),
    };
    let offer = Offer {
        query_id,
        host: Lazy::new(&host(&market.address, PRICE / 2)).unwrap(),
    };
    let (channel, at) = (&pay.channel.address, &market.address);
    let mut messages: Vec<_> = [
        ("watchtower", channel, build(&claims[0])),
        ("payee", channel, build(&claims[1])),
        ("keeper", channel, build(&report)),
        ("payer", channel, build(&TopUp { query_id })),
        ("payer", channel, build(&Close { query_id })),
        ("developer", &app, build(&want(at))),
        ("anyone", &app, build(&Declare { query_id })),
        ("developer", &app, build(&app::Leave { query_id })),
        ("keeper", at, build(&Step { query_id })),
        ("owner", &world.node, build(&offer)),
        ("anyone", &world.node, build(&Present { query_id })),
        ("owner", &world.node, build(&Leave { query_id })),
        (
            "anyone",
            &world.registry,
            build(&Apply { query_id, turn: 0 }),
        ),
    ]
    .map(|(wallet, to, body)| (tvm.wallet(wallet), to.clone(), body))
    .into();
    let (node, presence) = market.presence(1, PRICE);
    let (other, redeemed) = market.redeemed(1, COIN, 1_000_000);
    let (wanting, demand) = market.demand(1, 1_000_000, COIN);
    messages.extend(
        [
            (node, build(&presence)),
            (other, build(&redeemed)),
            (wanting, build(&demand)),
        ]
        .map(|(from, body)| (from, market.address.clone(), body)),
    );
    let admit = (world.collateral.clone(), build(&admit(tvm)));
    let orders = orders(&world).map(|order| (tvm.wallet("anyone"), build(&order)));
    let to_registry = orders.into_iter().chain([admit]);
    messages.extend(to_registry.map(|(from, body)| (from, world.registry.clone(), body)));
    messages
}

fn admit(tvm: &Tvm) -> Admit {
    Admit {
        query_id: 1,
        node: tvm.wallet("node"),
        lacks: Lacks(0),
        evaluation: 20,
        until: Moment::FOREVER,
        software: Lazy::new(&software(build_key(&Td::REGISTERS), &Td::MRCONFIGID)).unwrap(),
        claim: Cell::default(),
    }
}

/// In turn: one that waits, one that holds at once, one that undoes the first.
fn orders(world: &World<'_>) -> [Decide; 3] {
    let tighter = Policy {
        min_evaluation: 5,
        ..POLICY
    };
    let changes = [
        Change::SetPolicy { policy: POLICY },
        Change::Tighten { policy: tighter },
        Change::Cancel { turn: 0 },
    ];
    let mut turn = 0;
    changes.map(|change| {
        let order = Order {
            global_id: GLOBAL_ID,
            registry: world.registry.clone(),
            turn,
            valid_until: Moment::FOREVER,
            change: Lazy::new(&change).unwrap(),
        };
        turn += 1;
        let mut signatures = Dict::new();
        for number in [0, 1] {
            let signature = builder(number).sign(&build(&order).repr_hash().0);
            let signature = Bytes(signature.as_ref().try_into().unwrap());
            signatures.set(number, signature).unwrap();
        }
        Decide {
            query_id: 1,
            order: Lazy::new(&order).unwrap(),
            signatures,
        }
    })
}
