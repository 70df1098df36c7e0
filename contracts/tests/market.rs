//! A Market and whoever speaks to it: Nodes, Channels, Apps, and those who would like to
//! be taken for one.

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

use contracts::app::{self, Declare, Leave};
use contracts::cells::Bytes;
use contracts::channel::{Channel, Report, Terms};
use contracts::code::{Code, address};
use contracts::market::{At, Children, Step, Totals};
use contracts::node::{Host, Offer, Present};
use contracts::receipt::{Reported, reports};
use contracts::reports::{Demand, EPOCH, Presence, Redeemed};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use tycho_types::cell::{Cell, HashBytes, Lazy};
use tycho_types::models::StdAddr;
use tycho_types::num::Tokens;

use emulated::{BLOCK, Emulated};
use payment::{NOW, Payment, conserved, received};
use pricing::{Market, PRICE, STAKE, host, want};
use tvm::{Tvm, Tx, load};
use world::{COIN, build};

/// Nodes, Channels and a Market, all real, from a quote and a voucher to a price.
#[test]
fn an_attested_node_and_a_redeemed_voucher_make_a_price() {
    let Some(tvm) = tvm::start(NOW) else { return };
    let td = Emulated::new();
    let world = td.world(&tvm);
    let children = Children::new(world.collateral.clone(), world.registry.clone()).unwrap();
    let market = Market::deploy(&tvm, &children, COIN);
    let attest = build(&td.attest(&world.claim(BLOCK)));
    tvm.send("anyone", &world.node, COIN, &attest);
    let offer = Offer {
        query_id: 1,
        host: Lazy::new(&host(&market.address, PRICE / 2)).unwrap(),
    };
    tvm.send("owner", &world.node, STAKE, &build(&offer));
    let sent = tvm.send(
        "anyone",
        &world.node,
        COIN,
        &build(&Present { query_id: 5 }),
    );
    assert_eq!(exits(&sent), [0, 0, 0], "{sent:#?}");
    assert_eq!(
        sent[2].to,
        Some(tvm.wallet("owner")),
        "what is left is the owner's"
    );
    assert_eq!(market.stored().workers, 1);

    let terms = Terms {
        market: market.address.clone(),
        ..payment::terms(&tvm)
    };
    let pay = Payment::with(&tvm, 100 * COIN, terms);
    let claim = pay.claim(40_000_000);
    pay.send("payee", &claim);
    let voucher = claim.voucher.clone();
    let sent = pay.send(
        "payee",
        &Report {
            query_id: 6,
            voucher,
        },
    );
    assert_eq!(exits(&sent), [0, 0, 0], "{sent:#?}");
    let fee = 40 * COIN / 100;
    let back = received(&sent, &tvm.wallet("payee"));
    assert!(
        back > fee / 2 + COIN * 98 / 100,
        "half of the fee is for the reporter"
    );

    let app = App::deploy(&tvm, "developer", &market.address, 1000 * COIN);
    let sent = tvm.send("anyone", &app, COIN, &build(&Declare { query_id: 7 }));
    assert_eq!(exits(&sent), [0, 0, 0], "{sent:#?}");
    let state = market.stored();
    assert_eq!(state.wanted, 24_000 * 1000 / 24);
    assert_eq!((state.amount, state.tokens), (40 * COIN, 40_000_000));

    tvm.set_time(NOW + EPOCH);
    let sent = tvm.send(
        "keeper",
        &market.address,
        COIN,
        &build(&Step { query_id: 8 }),
    );
    assert_eq!(exits(&sent)[..2], [0, 0]);
    let state = market.stored();
    // A quarter of 40 million tokens is all that one worker could serve.
    assert_eq!(state.price, PRICE + PRICE / 12);
    let totals = state.last.unwrap().load().unwrap();
    assert_eq!((totals.workers, totals.reports), (1, 1));
    let redeemed: Redeemed = load(&pay_report_body(&pay, &claim.voucher));
    let reported = Reported::new(&pay.channel.address, &redeemed);
    let (head, paths) = reports(&[reported]);
    assert_eq!(totals.head, head);
    assert_eq!(
        reported.head(&paths[0]),
        Ok(head),
        "anyone can show that it was counted"
    );
}

/// What the Channel told the Market, as anyone can compute it.
fn pay_report_body(pay: &Payment<'_>, voucher: &contracts::voucher::Signed) -> Cell {
    let mut channel = Channel::new(pay.channel.terms.clone()).unwrap();
    let at = contracts::channel::At {
        balance: 100 * COIN,
        ..pay.at()
    };
    channel.claim(&at, voucher).unwrap();
    build(
        &channel
            .report(&at, voucher, 6, &pay.tvm.wallet("payee"))
            .unwrap(),
    )
}

#[test]
fn only_who_it_can_check_is_heard_and_only_about_now() {
    let Some(tvm) = tvm::start(NOW) else { return };
    let market = Market::start(&tvm, COIN);
    let mallory = tvm.wallet("mallory");
    let (node, presence) = market.presence(1, PRICE);
    let (channel, redeemed) = market.redeemed(1, COIN, 5);
    let (app, demand) = market.demand(1, 5, COIN);
    for (exit, name, from, body) in [
        (200, "no Node", &mallory, build(&presence)),
        (200, "no Channel", &mallory, build(&redeemed)),
        (200, "no App", &mallory, build(&demand)),
        (200, "a Node that is no Channel", &node, build(&redeemed)),
        (200, "an App that is no Node", &app, build(&presence)),
        (200, "a Channel that is no App", &channel, build(&demand)),
        (
            201,
            "an epoch ago",
            &node,
            build(&Presence {
                epoch: presence.epoch - 1,
                ..presence.clone()
            }),
        ),
        (
            201,
            "too soon",
            &app,
            build(&Demand {
                epoch: demand.epoch + 1,
                ..demand.clone()
            }),
        ),
        (
            202,
            "another model",
            &node,
            build(&Presence {
                model: HashBytes::ZERO,
                ..presence.clone()
            }),
        ),
        (
            202,
            "another model",
            &app,
            build(&Demand {
                model: HashBytes::ZERO,
                ..demand.clone()
            }),
        ),
        (
            203,
            "no stake",
            &node,
            build(&Presence {
                stake: Tokens::new(u128::from(STAKE) - 1),
                ..presence.clone()
            }),
        ),
    ] {
        let sent = tvm.forge(from, &market.address, COIN, &body);
        assert_eq!(sent[0].exit, Some(exit), "{name}");
    }
    let other = Host {
        gpu: Bytes([1; 16]),
        ..presence.host.load().unwrap()
    };
    let other = Presence {
        host: Lazy::new(&other).unwrap(),
        ..presence
    };
    let sent = tvm.forge(&node, &market.address, COIN, &build(&other));
    assert_eq!(sent[0].exit, Some(202), "other GPUs");
    // Channels of the right code that began with something else.
    type Change = fn(&mut contracts::channel::State);
    let changes: [Change; 5] = [
        |first| first.paid = 1,
        |first| first.reported = 1,
        |first| first.tokens = 1,
        |first| first.held = 0,
        |first| first.fee = 0,
    ];
    for change in changes {
        let mut first = redeemed.first.load().unwrap();
        change(&mut first);
        let from = address(Code::CHANNEL, &first).unwrap();
        let redeemed = Redeemed {
            first: Lazy::new(&first).unwrap(),
            ..redeemed.clone()
        };
        let sent = tvm.forge(&from, &market.address, COIN, &build(&redeemed));
        assert_eq!(sent[0].exit, Some(204));
    }
    let step = build(&Step { query_id: 1 });
    assert_eq!(
        tvm.send("keeper", &market.address, COIN, &step)[0].exit,
        Some(205)
    );
    let unknown = tvm::bytes(&[1, 2, 3, 4, 0, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(
        tvm.send("anyone", &market.address, COIN, &unknown)[0].exit,
        Some(0xffff)
    );
    assert_eq!(
        exits(&tvm.send("anyone", &market.address, COIN, &Cell::default())),
        [0]
    );
    market.same();
}

#[test]
fn a_price_rests_at_both_ends_of_the_dead_zone_and_moves_beyond() {
    let Some(tvm) = tvm::start(NOW) else { return };
    // Of ten coins that a worker could serve for, a quarter of these counts.
    let beyond = COIN / 25;
    for (amount, rests) in [
        (20 * COIN - beyond, false),
        (20 * COIN, true),
        (28 * COIN, true),
        (28 * COIN + beyond, false),
    ] {
        let mut market = Market::start(&tvm, COIN);
        for step in [
            Move::Presence(1, PRICE / 2, 0),
            Move::Redeemed(1, amount, 1),
            Move::Wait(EPOCH),
            Move::Step,
        ] {
            follow(&mut market, &step);
        }
        assert_eq!(market.stored().price == PRICE, rests, "{amount}");
    }
}

#[test]
fn a_fifth_of_the_workers_makes_the_floor_and_not_one_more() {
    let Some(tvm) = tvm::start(NOW) else { return };
    let mut market = Market::start(&tvm, COIN);
    for (worker, ask) in (1..).zip([PRICE / 2, 2 * PRICE, 3 * PRICE, 3 * PRICE, 3 * PRICE]) {
        follow(&mut market, &Move::Presence(worker, ask, 0));
    }
    follow(&mut market, &Move::Wait(EPOCH));
    follow(&mut market, &Move::Step);
    assert!(market.stored().price < PRICE, "nobody paid anything");
}

#[test]
fn whoever_ends_an_epoch_gets_a_bounty_while_there_is_one() {
    let Some(tvm) = tvm::start(NOW) else { return };
    for (balance, bounty) in [(COIN / 2, false), (COIN, true)] {
        let market = Market::start(&tvm, balance);
        tvm.set_time(NOW + EPOCH);
        let sent = tvm.send(
            "keeper",
            &market.address,
            COIN,
            &build(&Step { query_id: 1 }),
        );
        let got = received(&sent, &tvm.wallet("keeper"));
        assert_eq!(got > COIN, bounty, "{got}");
    }
}

#[test]
fn the_last_bounty_leaves_the_reserve() {
    let Some(tvm) = tvm::start(NOW) else { return };
    // Storage is paid for before the balance is looked at.
    let paid_up = |balance| {
        let market = Market::start(&tvm, balance);
        tvm.set_time(NOW + EPOCH);
        tvm.send("anyone", &market.address, COIN / 10, &Cell::default());
        market.address
    };
    let least = COIN / 2 + COIN / 500;
    let beyond = tvm.balance(&paid_up(COIN)) - least;
    for (balance, bounty) in [(COIN - beyond - 1, false), (COIN - beyond, true)] {
        let market = paid_up(balance);
        let step = build(&Step { query_id: 1 });
        let sent = tvm.send("keeper", &market, COIN, &step);
        assert_eq!(received(&sent, &tvm.wallet("keeper")) > COIN, bounty);
    }
}

#[test]
fn an_app_is_its_owners_and_counts_once_an_epoch() {
    let Some(tvm) = tvm::start(NOW) else { return };
    let market = Market::start(&tvm, COIN);
    let owner = tvm.wallet("developer");
    let first = app::State::new(owner.clone());
    let code = Code::APP.cell().unwrap();
    let (app, _) = tvm.deploy(&code, &build(&first), COIN, &Cell::default());
    assert_eq!(app, address(Code::APP, &first).unwrap());
    let send = |wallet: &str, body: &Cell| tvm.send(wallet, &app, COIN, body);
    let declare = build(&Declare { query_id: 2 });
    assert_eq!(send("anyone", &declare)[0].exit, Some(191));
    let want = build(&want(&market.address));
    assert_eq!(send("mallory", &want)[0].exit, Some(190));
    assert_eq!(
        send("mallory", &build(&Leave { query_id: 1 }))[0].exit,
        Some(190)
    );
    assert_eq!(exits(&send("developer", &want)), [0], "the deposit stays");
    let deposit = tvm.balance(&app);
    let sent = send("anyone", &declare);
    assert_eq!(exits(&sent), [0, 0, 0]);
    assert_eq!(load::<Demand>(&sent[1].body).deposit, deposit);
    assert_eq!(send("anyone", &declare)[0].exit, Some(192), "once");
    let leave = build(&Leave { query_id: 3 });
    assert_eq!(
        send("developer", &leave)[0].exit,
        Some(192),
        "not in the same epoch"
    );
    let unknown = tvm::bytes(&[1, 2, 3, 4, 0, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(send("anyone", &unknown)[0].exit, Some(0xffff));

    // What a Market does not take comes back to the owner.
    let nowhere = StdAddr::new(0, HashBytes([3; 32]));
    tvm.set_time(NOW + EPOCH);
    send("developer", &build(&self::want(&nowhere)));
    let before = tvm.balance(&app);
    let sent = send("anyone", &declare);
    assert!(sent[2].bounced, "{sent:#?}");
    assert!(received(&sent, &owner) > COIN * 98 / 100);
    assert_eq!(tvm.balance(&app), before);
    tvm.set_time(NOW + 2 * EPOCH);
    let sent = send("developer", &leave);
    assert!(received(&sent, &owner) > before + COIN * 98 / 100);
    assert_eq!((tvm.balance(&app), tvm.data(&app)), (0, None));
}

#[test]
fn years_of_storage_cost_less_than_the_reserves() {
    let Some(tvm) = tvm::start(NOW) else { return };
    let market = Market::start(&tvm, COIN);
    let app = App::deploy(&tvm, "developer", &market.address, COIN);
    let before = (tvm.balance(&market.address), tvm.balance(&app));
    tvm.set_time(NOW + 5 * 366 * 24 * 3600);
    for address in [&market.address, &app] {
        tvm.send("anyone", address, COIN, &Cell::default());
    }
    let spent = before.0 + COIN - tvm.balance(&market.address);
    assert!(spent < COIN / 20, "a tenth of the reserve: {spent}");
    let spent = before.1 + COIN - tvm.balance(&app);
    assert!(spent < COIN / 100, "{spent}");
}

#[derive(Clone, Debug)]
enum Move {
    Presence(u8, u64, u32),
    Redeemed(u8, u64, u64),
    Demand(u8, u64, u64),
    Forge(u8),
    Step,
    Wait(u32),
}

fn step() -> impl Strategy<Value = Move> {
    let amount = 1..50 * COIN;
    prop_oneof![
        4 => (0..9_u8, 1..4 * PRICE, 0..2_u32).prop_map(|(of, ask, late)| Move::Presence(of, ask, late)),
        4 => (0..9_u8, amount, any::<u64>()).prop_map(|(of, amount, tokens)| Move::Redeemed(of, amount, tokens)),
        2 => (0..9_u8, any::<u64>(), any::<u64>()).prop_map(|(of, tokens, deposit)| Move::Demand(of, tokens, deposit)),
        1 => (0..9_u8).prop_map(Move::Forge),
        2 => Just(Move::Step),
        3 => (1..2 * EPOCH).prop_map(Move::Wait),
        1 => (EPOCH..9 * EPOCH).prop_map(Move::Wait),
    ]
}

/// The contract and this side, message by message, with every total and every nano.
#[test]
fn whoever_speaks_in_whatever_order_the_contract_and_this_side_keep_the_same() {
    let Some(tvm) = tvm::start(NOW).map(Tvm::alone) else {
        return;
    };
    let mut runner = TestRunner::new(ProptestConfig::with_cases(32));
    let cases = prop::collection::vec(step(), 1..24);
    let done = runner.run(&cases, |steps| {
        let mut market = Market::start(&tvm, COIN);
        for step in steps {
            follow(&mut market, &step);
        }
        Ok(())
    });
    done.unwrap();
}

#[test]
fn a_message_without_the_gas_for_it_changes_nothing_and_gives_back() {
    let Some(tvm) = tvm::start(NOW) else { return };
    let mut market = Market::start(&tvm, COIN);
    let (node, presence) = market.presence(1, PRICE);
    let (channel, redeemed) = market.redeemed(1, COIN, 5);
    let (app, demand) = market.demand(1, 5, COIN);
    let address = market.address.clone();
    for (from, body) in [
        (node, build(&presence)),
        (channel, build(&redeemed)),
        (app, build(&demand)),
    ] {
        let data = tvm.data(&address);
        let mut refused = 0;
        for value in (1..80).map(|step| step * 20_000) {
            let before = tvm.balance(&address);
            let sent = tvm.forge(&from, &address, value + redeemed.fee, &body);
            conserved(before, tvm.balance(&address), &address, &sent);
            if !sent[0].aborted {
                break;
            }
            assert_eq!(tvm.data(&address), data, "at {value}");
            refused += 1;
        }
        assert!(refused < 79, "it was enough at last");
    }
    market.state = market.stored();
    assert_eq!((market.state.workers, market.state.reports), (1, 1));
}

/// One step in both worlds.
fn follow(market: &mut Market<'_>, step: &Move) {
    let mut fee = 0;
    let mut kept = 0;
    let (sender, body) = match *step {
        Move::Wait(seconds) => {
            market.set_time(market.now + seconds);
            return;
        }
        Move::Presence(of, ask, late) => {
            let (sender, mut presence) = market.presence(of, ask);
            presence.epoch -= late;
            (sender, build(&presence))
        }
        Move::Redeemed(of, amount, tokens) => {
            let (sender, redeemed) = market.redeemed(of, amount, tokens);
            fee = redeemed.fee;
            (sender, build(&redeemed))
        }
        Move::Demand(of, tokens, deposit) => {
            let (sender, demand) = market.demand(of, tokens, deposit);
            (sender, build(&demand))
        }
        Move::Forge(of) => {
            let (_, presence) = market.presence(of, PRICE);
            (market.tvm.wallet("mallory"), build(&presence))
        }
        Move::Step => (market.tvm.wallet("keeper"), build(&Step { query_id: 1 })),
    };
    let before = market.tvm.balance(&market.address);
    let sent = market
        .tvm
        .forge(&sender, &market.address, COIN + fee, &body);
    let after = market.tvm.balance(&market.address);
    conserved(before, after, &market.address, &sent);

    let at = At {
        now: market.now,
        sender: &sender,
    };
    let last = market.state.last.clone();
    let computed = match step {
        Move::Wait(_) => unreachable!("no message"),
        Move::Presence(..) | Move::Forge(_) => market.state.presence(&at, &load(&body)),
        Move::Demand(..) => market.state.demand(&at, &load(&body)),
        Move::Step => market.state.step(&at).map(drop),
        Move::Redeemed(..) => {
            let done = market.state.redeemed(&at, &load(&body));
            done.map(|keeps| kept = keeps)
        }
    };
    let exit = match &computed {
        Ok(()) => 0,
        Err(refusal) => refusal.exit_code().unwrap(),
    };
    assert_eq!(sent[0].exit, Some(exit), "{step:?}");
    market.same();
    if market.state.last != last {
        shown(market, &sent);
    }
    if let (Move::Redeemed(..), Ok(())) = (step, &computed) {
        market.reported.push(Reported::new(&sender, &load(&body)));
    }
    let paid_storage = before - sent[0].storage;
    match (step, computed) {
        (Move::Step, Ok(())) => assert!(after <= paid_storage),
        _ => assert_eq!(after, paid_storage + kept, "{step:?}"),
    }
}

/// The epoch that has ended shows every report in it.
fn shown(market: &mut Market<'_>, sent: &[Tx]) {
    let totals: Totals = market.state.last.as_ref().unwrap().load().unwrap();
    let (head, paths) = reports(&market.reported);
    assert_eq!(totals.head, head, "{sent:#?}");
    for (reported, path) in market.reported.iter().zip(&paths) {
        assert_eq!(reported.head(path), Ok(head));
    }
    market.reported.clear();
}

struct App;

impl App {
    /// Registered, with a deposit.
    fn deploy(tvm: &Tvm, owner: &str, market: &StdAddr, deposit: u64) -> StdAddr {
        let first = app::State::new(tvm.wallet(owner));
        let code = Code::APP.cell().unwrap();
        let (address, _) = tvm.deploy(&code, &build(&first), COIN, &Cell::default());
        let sent = tvm.send(owner, &address, deposit, &build(&want(market)));
        assert_eq!(exits(&sent), [0]);
        address
    }
}

fn exits(sent: &[Tx]) -> Vec<i32> {
    sent.iter().map(|tx| tx.exit.unwrap_or(-1)).collect()
}
