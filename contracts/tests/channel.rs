//! Payer and payee of a Channel, and whoever would like to be one of them.

#![allow(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "helpers of tests are tests"
)]

mod payment;
mod tvm;
mod world;

use contracts::channel::{
    Channel, Claim, Close, Closed, Open, REPORT_VALUE, Refusal, Report, STORAGE_RESERVE, Terms,
    TermsError, TopUp,
};
use contracts::messages::Excesses;
use contracts::reports::Redeemed;
use contracts::voucher::{Forged, Voucher};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use tycho_types::cell::{Cell, CellBuilder, HashBytes, Lazy};
use tycho_types::models::StdAddr;

use payment::{DAY, DELAY, NOW, Payment, UNTIL, conserved, key, received, sign, signed_by, terms};
use tvm::{Tvm, Tx, load};
use world::{COIN, build};

const OUT_OF_GAS: i32 = -14;
const CLOSE: Close = Close { query_id: 2 };

#[test]
fn the_newest_voucher_settles_whatever_came_before_it() {
    let Some(tvm) = tvm::start(NOW) else { return };
    let mut pay = Payment::open(&tvm, 10 * COIN);
    let claim = pay.claim(2_000_000);
    let expected = pay.channel.claim(&pay.at(), &claim.voucher).unwrap();
    assert_eq!(expected, 2 * COIN * 99 / 100, "the Market's share is held");
    let before = pay.at().balance;
    let sent = pay.send("watchtower", &claim);
    let payee = tvm.wallet("payee");
    assert_eq!(exits(&sent), [0, 0]);
    assert_eq!(sent[1].to, Some(payee), "never who brings it");
    let rest = sent[1].value - expected;
    assert!((COIN * 99 / 100..COIN).contains(&rest), "{rest}");
    let Excesses { query_id } = load(&sent[1].body);
    assert_eq!(query_id, 3);
    assert_eq!(before - pay.at().balance, expected, "and nothing else");
    assert_eq!(pay.state().paid, 2 * COIN);

    assert_eq!(pay.exit(&claim), Refusal::Nothing.exit_code());
    assert_eq!(pay.exit(&pay.claim(1_500_000)), 184, "an older one");
    let newer = pay.claim(5_000_000);
    pay.channel.claim(&pay.at(), &newer.voucher).unwrap();
    assert_eq!(exits(&pay.send("payee", &newer)), [0, 0]);
    assert_eq!(pay.state().paid, 5 * COIN);
}

#[test]
fn a_voucher_counts_in_its_place_and_as_its_payer_signed_it() {
    let Some(tvm) = tvm::start(NOW) else { return };
    let mut pay = Payment::open(&tvm, 10 * COIN);
    let good = pay.voucher(1_000_000);
    let with = |change: &dyn Fn(&mut Voucher)| {
        let mut voucher = good.clone();
        change(&mut voucher);
        sign(&voucher)
    };
    let other = StdAddr::new(0, HashBytes([1; 32]));
    let masterchain = StdAddr::new(-1, pay.channel.address.address);
    for (name, exit, refusal, voucher) in [
        (
            "another key",
            180,
            Forged::Signature.into(),
            signed_by(2, &good),
        ),
        (
            "another network",
            181,
            Refusal::Target,
            with(&|of| of.global_id = -3),
        ),
        (
            "another Channel",
            181,
            Refusal::Target,
            with(&|of| of.channel = other.clone()),
        ),
        (
            "another chain",
            181,
            Refusal::Target,
            with(&|of| of.channel = masterchain.clone()),
        ),
        (
            "a later epoch",
            182,
            Refusal::Epoch,
            with(&|of| of.epoch += 1),
        ),
        (
            "dearer than the cap",
            183,
            Refusal::Cap,
            with(&|of| of.cap -= 1),
        ),
        (
            "for fewer tokens",
            183,
            Refusal::Cap,
            with(&|of| of.tokens -= 1),
        ),
        (
            "one nano more",
            183,
            Refusal::Cap,
            with(&|of| of.amount += 1),
        ),
        ("nothing", 184, Refusal::Nothing, with(&|of| of.amount = 0)),
    ] {
        let claim = Claim {
            query_id: 1,
            voucher,
        };
        let computed = pay.channel.claim(&pay.at(), &claim.voucher);
        assert_eq!(computed, Err(refusal), "{name}");
        assert_eq!(refusal.exit_code(), exit, "{name}");
        assert_eq!(pay.exit(&claim), exit, "{name}");
    }
    // The widest numbers: nothing overflows.
    let widest = with(&|of| (of.amount, of.tokens, of.cap) = (u64::MAX, u64::MAX, u64::MAX));
    let claim = Claim {
        query_id: 1,
        voucher: widest,
    };
    pay.channel.claim(&pay.at(), &claim.voucher).unwrap();
    assert_eq!(
        exits(&pay.send("anyone", &claim)),
        [0, 0],
        "all that is there"
    );
    pay.state();
    assert_eq!(pay.exit(&claim), Refusal::Nothing.exit_code());
    // Whoever adds coins lets the same voucher count again.
    assert_eq!(exits(&pay.send("payer", &TopUp { query_id: 1 })), [0]);
    pay.channel.claim(&pay.at(), &claim.voucher).unwrap();
    assert_eq!(exits(&pay.send("anyone", &claim)), [0, 0]);
    pay.state();
}

#[test]
fn what_the_payers_key_signed_for_another_purpose_is_no_voucher() {
    let Some(tvm) = tvm::start(NOW) else { return };
    let pay = Payment::open(&tvm, 10 * COIN);
    let foreign = raw(&|builder| builder.store_u32(0x4f52_4431));
    let claim = claim_of(&foreign);
    let Claim { voucher, .. } = load(&claim);
    assert_eq!(voucher.verify(&pay.channel.terms.key), Err(Forged::Voucher));
    let sent = tvm.send("anyone", &pay.channel.address, COIN, &claim);
    assert_eq!(
        sent[0].exit,
        Some(Refusal::from(Forged::Voucher).exit_code())
    );
}

#[test]
fn whoever_deploys_it_first_it_is_the_same_channel_or_another_address() {
    let Some(tvm) = tvm::start(NOW) else { return };
    // `deploy` sends from a wallet that is neither payer nor payee.
    let pay = Payment::open(&tvm, COIN / 100);
    assert_eq!(exits(&pay.send("payer", &TopUp { query_id: 1 })), [0]);
    assert_eq!(pay.state(), Channel::new(terms(&tvm)).unwrap().state);

    let mut state = pay.channel.state.clone();
    let address = &pay.channel.address;
    assert!(Channel::load(address, &build(&state)).is_ok());
    state.paid = 5;
    let forged = contracts::code::address(contracts::code::Code::CHANNEL, &state).unwrap();
    let refused = Channel::load(&forged, &build(&state)).unwrap_err();
    let expected = TermsError::Address {
        found: forged,
        expected: address.clone(),
    };
    assert_eq!(refused, expected, "it began with something paid");
    let greedy = Terms {
        fee: 1001,
        ..terms(&tvm)
    };
    assert_eq!(Channel::new(greedy).unwrap_err(), TermsError::Fee(1001));
}

#[test]
fn the_payer_gets_the_rest_after_a_delay_in_which_vouchers_count() {
    let Some(tvm) = tvm::start(NOW) else { return };
    let mut pay = Payment::open(&tvm, 10 * COIN);
    for stranger in ["anyone", "watchtower"] {
        assert_eq!(pay.send(stranger, &CLOSE)[0].exit, Some(186));
    }
    let payer = tvm.wallet("payer");
    let ends = NOW + DELAY;
    assert_eq!(pay.channel.close(&pay.at(), &payer), Ok(Closed::At(ends)));
    assert_eq!(exits(&pay.send("payer", &CLOSE)), [0, 0]);
    assert_eq!(pay.state().ends, ends);
    pay.set_time(NOW + 60);
    let again = pay.channel.close(&pay.at(), &payer).unwrap_err();
    assert_eq!(again, Refusal::Closing);
    assert_eq!(pay.send("payer", &CLOSE)[0].exit, Some(187), "no later");

    pay.set_time(ends - 1);
    let claim = pay.claim(4_000_000);
    pay.channel.claim(&pay.at(), &claim.voucher).unwrap();
    assert_eq!(exits(&pay.send("payee", &claim)), [0, 0]);
    pay.set_time(ends);
    assert_eq!(pay.exit(&pay.claim(5_000_000)), 185, "too late");
    assert_eq!(pay.exit(&TopUp { query_id: 1 }), 185);

    let kept = STORAGE_RESERVE + 4 * COIN / 100;
    let closed = pay.channel.close(&pay.at(), &payer);
    assert_eq!(closed, Ok(Closed::Kept(kept)));
    let before = pay.at().balance;
    let sent = pay.send("anyone", &CLOSE);
    assert_eq!(exits(&sent), [0, 0]);
    assert!(received(&sent, &payer) > before - kept);
    assert_eq!(pay.at().balance, kept);
    pay.state();
    // The agreed end: nothing has to be remembered any more.
    pay.set_time(UNTIL);
    assert_eq!(pay.channel.close(&pay.at(), &payer), Ok(Closed::Gone));
    assert_eq!(exits(&pay.send("anyone", &CLOSE)), [0, 0]);
    assert_eq!(
        (pay.at().balance, tvm.data(&pay.channel.address)),
        (0, None)
    );
    // Made anew, it is over from the first moment.
    let reopened = Payment::with(&tvm, COIN, terms(&tvm));
    assert_eq!(reopened.opened[1].exit, Some(185));
    // What was sent there all the same goes back.
    let open = Open::new(1, terms(&tvm)).unwrap();
    let (address, sent) = tvm.deploy(&open.code, &open.data, COIN, &build(&CLOSE));
    assert!(received(&sent, &payer) > COIN * 19 / 10);
    assert_eq!((tvm.balance(&address), tvm.data(&address)), (0, None));
}

#[test]
fn the_payee_may_end_it_at_once_and_a_voucher_is_not_paid_twice_after_it() {
    let Some(tvm) = tvm::start(NOW) else { return };
    let mut pay = Payment::open(&tvm, 10 * COIN);
    let claim = pay.claim(1_000_000);
    pay.channel.claim(&pay.at(), &claim.voucher).unwrap();
    assert_eq!(exits(&pay.send("payee", &claim)), [0, 0]);
    pay.channel.close(&pay.at(), &tvm.wallet("payee")).unwrap();
    let sent = pay.send("payee", &CLOSE);
    assert_eq!(exits(&sent), [0, 0]);
    assert_eq!(sent[1].to, Some(tvm.wallet("payer")));
    pay.state();
    // The payer pays into what looks new.
    let open = Open::new(1, terms(&tvm)).unwrap();
    let (_, sent) = tvm.deploy(&open.code, &open.data, COIN, &build(&open.body));
    assert_eq!(sent[1].exit, Some(185), "and gets it back");
    assert_eq!(pay.exit(&claim), 185);
}

#[test]
fn a_report_tells_the_market_once_what_was_paid_and_by_what() {
    let Some(tvm) = tvm::start(NOW) else { return };
    let mut pay = Payment::open(&tvm, 10 * COIN);
    let claim = pay.claim(3_000_000);
    let report = Report {
        query_id: 8,
        voucher: claim.voucher.clone(),
    };
    assert_eq!(pay.exit(&report), 184, "nothing was paid");
    pay.channel.claim(&pay.at(), &claim.voucher).unwrap();
    pay.send("payee", &claim);
    let address = pay.channel.address.clone();
    let poor = tvm.send("anyone", &address, REPORT_VALUE - 1, &build(&report));
    assert_eq!(poor[0].exit, Some(188));

    let keeper = tvm.wallet("keeper");
    let before = pay.channel.clone();
    let redeemed = pay
        .channel
        .report(&pay.at(), &report.voucher, 8, &keeper)
        .unwrap();
    assert_eq!(redeemed.fee, 3 * COIN / 100);
    let sent = pay.send("keeper", &report);
    assert_eq!(exits(&sent), [0, 0]);
    assert_eq!(sent[1].to, Some(tvm.wallet("market")));
    assert_eq!(load::<Redeemed>(&sent[1].body), redeemed);
    assert!(sent[1].value > COIN * 99 / 100 + redeemed.fee);
    pay.state();
    assert_eq!(pay.exit(&report), 184, "once");
    let claim = pay.claim(4_000_000);
    pay.send("payee", &claim);
    let report = Report {
        query_id: 9,
        voucher: claim.voucher,
    };
    let least = tvm.send("anyone", &address, REPORT_VALUE, &build(&report));
    assert_eq!(exits(&least), [0, 0]);

    // A Market that is not there: the report is taken back, and nobody loses more than
    // the way costs.
    let nowhere = Terms {
        market: StdAddr::new(0, HashBytes([3; 32])),
        ..terms(&tvm)
    };
    let mut pay = Payment::with(&tvm, 10 * COIN, nowhere);
    let claim = pay.claim(3_000_000);
    pay.channel.claim(&pay.at(), &claim.voucher).unwrap();
    pay.send("payee", &claim);
    let report = Report {
        query_id: 8,
        voucher: claim.voucher,
    };
    let held = pay.at().balance;
    let redeemed = pay
        .channel
        .report(&pay.at(), &report.voucher, 8, &keeper)
        .unwrap();
    let sent = pay.send("keeper", &report);
    assert_eq!(sent.len(), 4, "{sent:#?}");
    assert!(sent[2].bounced);
    assert!(received(&sent, &keeper) > COIN * 99 / 100);
    pay.channel.bounced(&redeemed);
    assert_eq!(pay.state().reported, before.state.reported);
    assert_eq!(pay.at().balance, held);
}

#[test]
fn a_bounce_that_nobody_sent_changes_nothing_for_a_stranger() {
    let Some(tvm) = tvm::start(NOW) else { return };
    let pay = Payment::open(&tvm, 10 * COIN);
    let redeemed = Redeemed {
        query_id: 1,
        amount: COIN,
        tokens: 1,
        fee: 1,
        receipts: HashBytes::ZERO,
        reporter: tvm.wallet("mallory"),
        first: Lazy::new(&pay.channel.state).unwrap(),
    };
    let sent = pay.send("mallory", &redeemed);
    assert_eq!(sent[0].exit, Some(0xffff), "only bounced is it heard");
    pay.state();
}

#[test]
fn one_hop_alone_without_the_gas_for_it_changes_nothing_and_gives_back() {
    let Some(tvm) = tvm::start(NOW) else { return };
    let mut pay = Payment::open(&tvm, 10 * COIN);
    let claim = pay.claim(3_000_000);
    let address = pay.channel.address.clone();
    let bodies = |pay: &Payment<'_>| {
        let report = Report {
            query_id: 1,
            voucher: pay.claim(3_000_000).voucher,
        };
        [build(&claim), build(&CLOSE), build(&report)]
    };
    // A little more each time, until it is enough: nothing in between is half of it.
    for (wallet, body) in ["payee", "payer", "keeper"].iter().zip(bodies(&pay)) {
        let mut seen = Vec::new();
        for value in (1..60).map(|step| step * 20_000) {
            let before = tvm.balance(&address);
            let data = tvm.data(&address);
            let sent = tvm.send(wallet, &address, value, &body);
            conserved(before, tvm.balance(&address), &address, &sent);
            seen.push(sent[0].exit);
            if !sent[0].aborted {
                break;
            }
            assert_eq!(tvm.data(&address), data, "at {value}");
        }
        assert!(seen.contains(&Some(OUT_OF_GAS)), "{wallet}: {seen:?}");
        if *wallet == "payee" {
            pay.channel.claim(&pay.at(), &claim.voucher).unwrap();
            pay.state();
        }
    }
}

#[test]
fn unknown_messages_are_refused_and_coins_alone_are_a_deposit() {
    let Some(tvm) = tvm::start(NOW) else { return };
    let pay = Payment::open(&tvm, COIN);
    let unknown = tvm::bytes(&[1, 2, 3, 4, 0, 0, 0, 0, 0, 0, 0, 0]);
    let address = &pay.channel.address;
    assert_eq!(
        tvm.send("anyone", address, COIN, &unknown)[0].exit,
        Some(0xffff)
    );
    let before = pay.at().balance;
    assert_eq!(
        exits(&tvm.send("anyone", address, COIN, &Cell::default())),
        [0]
    );
    assert!(pay.at().balance > before + COIN * 99 / 100);
}

#[test]
fn eight_years_of_storage_cost_less_than_the_reserve() {
    let Some(tvm) = tvm::start(NOW) else { return };
    let long = Terms {
        until: NOW + 2930 * DAY,
        ..terms(&tvm)
    };
    tvm.restart(NOW);
    let mut pay = Payment::with(&tvm, COIN, long);
    let before = pay.at().balance;
    pay.set_time(NOW + 2922 * DAY);
    assert_eq!(exits(&pay.send("anyone", &TopUp { query_id: 1 })), [0]);
    let spent = before + COIN - pay.at().balance;
    assert!(spent < STORAGE_RESERVE, "{spent}");
    let claim = pay.claim(1);
    pay.channel.claim(&pay.at(), &claim.voucher).unwrap();
    assert_eq!(exits(&pay.send("payee", &claim)), [0, 0]);
    pay.state();
}

#[derive(Clone, Debug)]
enum Step {
    TopUp(u64),
    Claim(u64),
    Forge(u64),
    Report(u64),
    Close(&'static str),
    Wait(u32),
}

fn step() -> impl Strategy<Value = Step> {
    let tokens = 1_u64..8_000_000;
    prop_oneof![
        2 => (1_000_000..COIN).prop_map(Step::TopUp),
        5 => tokens.clone().prop_map(Step::Claim),
        1 => tokens.clone().prop_map(Step::Forge),
        3 => tokens.prop_map(Step::Report),
        1 => prop::sample::select(vec!["payer", "payee", "anyone"]).prop_map(Step::Close),
        2 => (1..3 * DELAY).prop_map(Step::Wait),
        1 => (DAY..20 * DAY).prop_map(Step::Wait),
    ]
}

/// The contract and this side, message by message; and every nano is somewhere.
#[test]
fn whatever_comes_in_whatever_order_both_sides_compute_the_same_and_no_nano_is_lost() {
    let Some(tvm) = tvm::start(NOW).map(Tvm::alone) else {
        return;
    };
    let deposit = 1_000_000..5 * COIN;
    let cases = (deposit, prop::collection::vec(step(), 1..14));
    let mut runner = TestRunner::new(ProptestConfig::with_cases(48));
    let done = runner.run(&cases, |(deposit, steps)| {
        let mut pay = Payment::open(&tvm, deposit);
        let mut gone = false;
        for step in steps {
            gone = gone || follow(&mut pay, &step);
            if gone {
                break;
            }
        }
        Ok(())
    });
    done.unwrap();
}

/// One step in both worlds; whether the Channel is no more.
fn follow(pay: &mut Payment<'_>, step: &Step) -> bool {
    let (tvm, mut at, address) = (pay.tvm, pay.at(), pay.channel.address.clone());
    let (wallet, value, body) = match step {
        Step::Wait(seconds) => {
            pay.set_time(pay.now + seconds);
            return false;
        }
        Step::TopUp(value) => ("payer", *value, build(&TopUp { query_id: 1 })),
        Step::Claim(tokens) => ("anyone", COIN, build(&pay.claim(*tokens))),
        Step::Forge(tokens) => ("anyone", COIN, build(&forged(&pay.voucher(*tokens)))),
        Step::Report(tokens) => ("anyone", COIN, build(&report(pay, *tokens))),
        Step::Close(who) => (*who, COIN, build(&CLOSE)),
    };
    let sent = tvm.send(wallet, &address, value, &body);
    let left = tvm.balance(&address);
    conserved(at.balance, left, &address, &sent);

    // What is there after its storage is paid for.
    at.balance -= sent[0].storage;
    let channel = &mut pay.channel;
    let computed = match step {
        Step::Wait(_) => unreachable!("no message"),
        Step::TopUp(_) => channel.top_up(&at).map(|()| left),
        Step::Claim(_) | Step::Forge(_) => {
            let paid = channel.claim(&at, &load::<Claim>(&body).voucher);
            paid.map(|paid| at.balance - paid)
        }
        Step::Report(_) => {
            let Report { query_id, voucher } = load(&body);
            let reported = channel.report(&at, &voucher, query_id, &tvm.wallet(wallet));
            reported.map(|redeemed| {
                assert_eq!(load::<Redeemed>(&sent[1].body), redeemed);
                at.balance - redeemed.fee
            })
        }
        Step::Close(_) => channel
            .close(&at, &tvm.wallet(wallet))
            .map(|closed| match closed {
                Closed::At(_) => at.balance,
                Closed::Kept(kept) => kept,
                Closed::Gone => 0,
            }),
    };
    let exit = computed.map_or_else(Refusal::exit_code, |_| 0);
    assert_eq!(sent[0].exit, Some(exit), "{step:?}");
    assert_eq!(left, computed.unwrap_or(at.balance), "{step:?}");
    if tvm.data(&address).is_none() {
        return true;
    }
    pay.state();
    false
}

fn report(pay: &Payment<'_>, tokens: u64) -> Report {
    Report {
        query_id: 1,
        voucher: pay.claim(tokens).voucher,
    }
}

fn forged(voucher: &Voucher) -> Claim {
    Claim {
        query_id: 1,
        voucher: signed_by(2, voucher),
    }
}

fn raw(fill: &dyn Fn(&mut CellBuilder) -> Result<(), tycho_types::error::Error>) -> Cell {
    let mut builder = CellBuilder::new();
    fill(&mut builder).unwrap();
    builder.build().unwrap()
}

/// Of whatever the payer's key is made to sign.
fn claim_of(signed: &Cell) -> Cell {
    let signature = key(1).sign(&signed.repr_hash().0);
    raw(&|builder| {
        builder.store_u32(0x434c_4149)?;
        builder.store_u64(1)?;
        builder.store_raw(signature.as_ref(), 512)?;
        builder.store_reference(signed.clone())
    })
}

fn exits(sent: &[Tx]) -> Vec<i32> {
    sent.iter().map(|tx| tx.exit.unwrap_or(-1)).collect()
}
