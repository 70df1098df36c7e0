//! Money through the whole network: an application, a gateway with a Channel, a scheduler
//! with books, workers whose owners are paid through other Channels, and the chain. What one
//! has spent the other has earned, to the last nano, whatever breaks on the way.
#![cfg(test)]
#![allow(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "helpers of tests"
)]

mod paid;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::http::{Request, StatusCode};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use client::network::probe::Finding;
use client::network::purse::Purse;
use futures_util::future::join_all;
use http_body_util::BodyExt as _;
use paid::{Answer, Gateway, Worker, World, are_busy, hold};
use scheduler::api;
use scheduler::fee::Fee;
use scheduler::pass::Pass;
use scheduler::payer::Payer;
use scheduler::serve::Client;
use sealed::{Envelope, SizeClass};
use serde_json::{Value, json};
use tests::asker::{AskError, Asker, LIMIT};
use tests::chain::{GLOBAL_ID, key, now};
use tests::stand_in::{Manner, StandIn, Terms};
use tower::ServiceExt as _;
use tycho_types::cell::HashBytes;
use tycho_types::models::StdAddr;

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_streams_cost_the_same_in_every_book_and_on_the_chain() {
    let Some(world) = World::start().await else {
        return;
    };
    let scheduler = world.scheduler().await;
    let workers = world.workers(&scheduler, THOROUGH).await;
    let gateway = world.gateway(&scheduler);
    hold(&workers, true);
    let all_under_way = async {
        scheduler.is_asked(STREAMS).await;
        hold(&workers, false);
    };
    let (answers, ()) = tokio::join!(gateway.ask_all(STREAMS), all_under_way);
    assert_all_served(&answers);
    let paid = paid_for(&answers);
    let books = world.books(&scheduler, &workers).await;
    assert_eq!(
        (books.spent, books.charged, books.signed),
        (paid, paid, paid)
    );
    assert_eq!((books.reserved, books.held), (0, 0));
    for owner in &books.owners {
        assert!(owner.earned > 0);
        assert_eq!((owner.shown, owner.reserved), (owner.earned, 0));
    }

    // All of it was used, so the chain pays that and no more.
    world.settle(&scheduler, &workers).await;
    assert_eq!(world.paid_by_client().await, paid);
    let mut to_owners = 0;
    for (worker, owner) in workers.iter().zip(&books.owners) {
        let channel = world.town.channel(worker.till.address()).await;
        assert_eq!(channel.state.paid, owner.earned);
        to_owners += channel.state.paid;
    }
    assert_eq!(to_owners, paid);
    assert_eq!(scheduler.ledger.audit().await.unwrap(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_pays_has_one_share_from_anywhere_and_not_for_dust() {
    let Some(world) = World::start().await else {
        return;
    };
    let paying = world.paying(COIN).await;
    let at = |last| IpAddr::from([10, 0, last, 1]);
    let [(rich, pass), (other, beside), (_, dust)] = [
        world.pass(2, 2 * COIN).await,
        world.pass(3, 2 * COIN).await,
        world.pass(4, COIN / 2).await,
    ];
    for network in 0..16 {
        let payer = paying.payer(Some(&pass), at(network)).await;
        assert_eq!(payer.unwrap(), Payer::Channel(rich));
        assert_eq!(
            paying.payer(None, at(network)).await.unwrap(),
            Payer::Unpaid
        );
    }
    // Behind one address each is somebody else.
    let payer = paying.payer(Some(&beside), at(0)).await;
    assert_eq!(payer.unwrap(), Payer::Channel(other));
    let payer = paying.payer(Some(&dust), at(0)).await;
    assert_eq!(payer.unwrap(), Payer::Unpaid);

    let forged = Pass::new(&key(5), GLOBAL_ID, pass.channel().clone(), now());
    let refused = paying.payer(Some(&forged), at(0)).await.unwrap_err();
    assert_eq!(refused.to_string(), "the pass is not taken");

    // Of Channels that are none, one address has the chain asked for so many.
    let mut often = None;
    for number in 0..=u8::MAX {
        let nobody = StdAddr::new(0, HashBytes([number; 32]));
        let nobody = Pass::new(&key(5), GLOBAL_ID, nobody, now());
        let refused = paying.payer(Some(&nobody), at(0)).await.unwrap_err();
        let text = refused.to_string();
        if text == "too many unknown Channels are named" {
            often = Some((number, nobody));
            break;
        }
        assert!(text.starts_with("there is no Channel at 0:"), "{text}");
    }
    let (number, nobody) = often.unwrap();
    assert!(number >= 16, "{number}");
    let refused = paying.payer(Some(&nobody), at(1)).await.unwrap_err();
    assert!(refused.to_string().starts_with("there is no Channel at 0:"));
    let payer = paying.payer(Some(&beside), at(0)).await;
    assert_eq!(payer.unwrap(), Payer::Channel(other), "it is known");

    // From wherever they come, few wait for the chain before who is known.
    let all = (2..66).map(async |from| {
        let nobody = StdAddr::new(0, HashBytes([from | 128; 32]));
        let nobody = Pass::new(&key(6), GLOBAL_ID, nobody, now());
        paying.payer(Some(&nobody), at(from)).await.unwrap_err()
    });
    let refused = join_all(all).await;
    let looked = refused
        .iter()
        .filter(|error| error.to_string().starts_with("there is no Channel at 0:"));
    assert!((1..64).contains(&looked.count()), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_place_is_its_payers_wherever_the_request_comes_from() {
    let Some(world) = World::start().await else {
        return;
    };
    let scheduler = world.scheduler().await;
    let terms = Terms {
        slots: 2,
        ..THOROUGH
    };
    let workers = world.workers(&scheduler, terms).await;
    let [(_, pass), (_, other)] = [world.pass(6, 2 * COIN).await, world.pass(5, 2 * COIN).await];
    let ask = async |path: &str, pass: String, last| {
        let wanted = json!({
            "model": StandIn::MODEL, "limit": 1, "max_price": paid::PRICE, "deadline_ms": 100,
        });
        let mut request = Request::post(path).header("cocoon-pass", pass);
        let envelope = Envelope {
            worker: workers[0].stand_in.id,
            model: StandIn::MODEL.into(),
            id: [1; 16],
            limit: 1,
            price: paid::PRICE,
            deadline_ms: 100,
            class: SizeClass::of(0),
        };
        let envelope = BASE64_URL_SAFE_NO_PAD.encode(envelope.encode());
        request = request.header("cocoon-envelope", envelope);
        let mut request = request.body(Body::from(wanted.to_string())).unwrap();
        let address = IpAddr::from([10, 0, last, 1]);
        request.extensions_mut().insert(Client(address));
        let api = api::router(Arc::clone(&scheduler.scheduler));
        let answer = api.oneshot(request).await.unwrap();
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        let said: Value = serde_json::from_slice(&body).unwrap();
        said["error"]["code"].as_str().map(String::from)
    };
    for path in ["/network/v1/assignments", "/network/v1/requests"] {
        let refused = ask(path, "no pass".into(), 1).await;
        assert_eq!(refused.as_deref(), Some("bad_voucher"), "{path}");
    }
    // All places there are.
    let mut places = 0;
    while ask("/network/v1/assignments", pass.to_string(), 1)
        .await
        .is_none()
    {
        places += 1;
    }
    assert!(places > 0);
    let refused = ask("/network/v1/requests", other.to_string(), 1).await;
    assert_eq!(refused.as_deref(), Some("full"));
    // It comes as far as its voucher, which it has not got.
    let refused = ask("/network/v1/requests", pass.to_string(), 2).await;
    assert_eq!(refused.as_deref(), Some("not_covered"));
}

const COIN: u64 = 1_000_000_000;

#[tokio::test(flavor = "multi_thread")]
async fn what_owners_are_paid_is_what_the_market_counts_and_people_see() {
    let Some(world) = World::start().await else {
        return;
    };
    let world = world.counted().await;
    let scheduler = world.scheduler().await;
    let workers = world.workers(&scheduler, THOROUGH).await;
    let answers = world.gateway(&scheduler).ask_all(SOME).await;
    assert_all_served(&answers);
    let asker = Asker::connect(scheduler.clients).await.unwrap();
    let status = async || {
        scheduler.scheduler.see().await;
        serde_json::from_slice::<Value>(&asker.get("/status").await.unwrap()).unwrap()
    };
    let claimed = |status: &Value| status["money"]["paid"]["claimed"].as_u64().unwrap();
    assert_eq!(claimed(&status().await), 0);
    world.settle(&scheduler, &workers).await;
    world.report(&scheduler, &workers).await;

    let status = status().await;
    let books = world.books(&scheduler, &workers).await;
    assert_eq!(claimed(&status), books.charged);
    assert_eq!(books.charged, paid_for(&answers));
    let market = &status["markets"][0];
    assert_eq!(market["address"], world.market.unwrap().to_string());
    // The hour may have ended meanwhile.
    let used = |what: &str| {
        let hours = [&market["used"][what], &market["last"]["used"][what]];
        hours.iter().filter_map(|hour| hour.as_u64()).sum::<u64>()
    };
    assert_eq!(used("amount"), books.charged);
    assert_eq!(used("reports"), 3);
    assert!(market["price"].as_u64().unwrap() > 0);
    assert!(market["block"]["seqno"].as_u64().unwrap() > 0);

    // Nobody is there to say which builds count; that no worker has a Node is proved.
    assert_eq!(status["builds"][0]["registry"]["word"], "unknown");
    for worker in &workers {
        let node = &status["workers"][worker.stand_in.id.to_string()]["node"];
        assert_eq!(node["word"], "no");
        assert!(node["block"]["seqno"].as_u64() > Some(0));
    }
    let terms = asker.get("/network/v1/terms").await.unwrap();
    let terms: Value = serde_json::from_slice(&terms).unwrap();
    assert_eq!(terms["markets"][0]["price"], market["price"]);
    let page = asker.get("/").await.unwrap();
    let page = String::from_utf8_lossy(&page);
    assert!(page.contains("<h2>Markets</h2>"), "{page}");
    assert!(page.contains(market["address"].as_str().unwrap()), "{page}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tip_is_paid_by_who_waited_and_kept_by_who_let_it_wait_less() {
    let Some(world) = World::start().await else {
        return;
    };
    let scheduler = world.scheduler().await;
    let one_at_a_time = Terms {
        slots: 1,
        ..THOROUGH
    };
    let workers = world.workers(&scheduler, one_at_a_time).await;
    let tip = paid::PRICE / 2;
    let gateway = world.gateway_tipping(scheduler.clients, paid::PRICE + tip, tip);
    hold(&workers, true);
    let waits = async {
        scheduler.is_asked(workers.len()).await;
        let released = async {
            scheduler.is_waited_for().await;
            hold(&workers, false);
        };
        tokio::join!(gateway.ask_all(1), released).0
    };
    let (at_once, waited) = tokio::join!(gateway.ask_all(workers.len()), waits);
    assert_all_served(&at_once);
    assert_all_served(&waited);
    scheduler.ends(&world).await;
    let books = world.books(&scheduler, &workers).await;
    let paid = paid_for(&at_once) + paid_for(&waited);
    assert_eq!((books.spent, books.charged), (paid, paid));
    // Of what it paid two thirds are what the worker asks.
    let (shown, earned) = books.to_owners();
    let kept = paid_for(&waited) / 3;
    assert!(kept > 0);
    assert_eq!((shown, earned), (paid - kept, paid - kept));
    assert_eq!(scheduler.ledger.audit().await.unwrap(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_pays_what_the_market_proves_to_it_and_asks_for_nothing_else() {
    let Some(world) = World::start().await else {
        return;
    };
    let scheduler = world.scheduler().await;
    let workers = world.workers(&scheduler, THOROUGH).await;
    // What workers ask is within a tenth of the one price, and not of the other.
    let fair = world
        .town
        .market(paid::OWNERS[0], paid::PRICE / 11 * 10 + 10)
        .await;
    let cheap = world
        .town
        .market(paid::OWNERS[0], paid::PRICE / 11 * 10 - 10)
        .await;
    for (model, market, status, code) in [
        (StandIn::MODEL, &fair, StatusCode::OK, ""),
        (
            StandIn::MODEL,
            &cheap,
            StatusCode::PAYMENT_REQUIRED,
            "price_too_low",
        ),
        ("another", &fair, StatusCode::NOT_FOUND, "model_not_found"),
        (
            StandIn::MODEL,
            workers[0].till.address(),
            StatusCode::SERVICE_UNAVAILABLE,
            "there is no market at this address",
        ),
    ] {
        let gateway = world.gateway_by(&scheduler, model, market);
        let answer = gateway.ask_all(1).await.remove(0);
        assert_eq!(answer.status, status, "{answer:?}");
        assert!(answer.said.contains(code), "{answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn probes_are_paid_like_any_request_and_show_no_worker_that_they_are_probes() {
    let Some(world) = World::start().await else {
        return;
    };
    let fee = Fee::per_mille(25).unwrap();
    let scheduler = world.scheduler_with(fee).await;
    let workers = world.workers(&scheduler, SEA).await;
    let (prober, channel, path) = world.prober(&scheduler).await;
    for _ in 0..FEW {
        assert_eq!(prober.probe().await.unwrap(), Finding::Agreed);
    }
    drop(prober);
    let charged = async |channel: &StdAddr| {
        let account = scheduler.ledger.account(channel.address).await.unwrap();
        let account = account.map(|(_, account)| account).unwrap();
        assert_eq!(account.reserved.amount, 0);
        account.spent.amount
    };
    let mut earned = 0;
    for worker in &workers {
        assert!(worker.till.spent() > 0, "each has its turn");
        assert_eq!(charged(worker.till.address()).await, worker.till.spent());
        earned += worker.till.spent();
    }
    let spent = charged(&channel.address).await;
    assert_eq!(Purse::open(&path, None).unwrap().balance().spent, spent);
    // To the nano, but for what is rounded down for each.
    assert!(
        (earned + earned / 40).abs_diff(spent) < 100,
        "{earned} {spent}"
    );
    assert!(spent > earned);

    // The same from an application, through a gateway.
    let messages = [json!({ "role": "user", "content": "What is the sea?" })];
    let body = json!({ "model": StandIn::MODEL, "messages": messages, "max_tokens": 256 });
    let body = body.to_string();
    let before: Vec<_> = workers.iter().map(|it| it.stand_in.shown()).collect();
    let gateway = world.gateway_to(scheduler.clients, fee.price(paid::PRICE));
    let answer = gateway.say(body).await;
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    let mut shown = workers.iter().zip(&before);
    let shown =
        shown.find_map(|(worker, before)| worker.stand_in.shown().get(before.len()).cloned());
    let (headers, asked) = shown.unwrap();
    for (names, probe) in before.into_iter().flatten() {
        assert_eq!(names, headers);
        assert_eq!(
            (probe.model, probe.price),
            (asked.model.clone(), asked.price)
        );
        assert_eq!(probe.class, asked.class);
        assert!(probe.limit.abs_diff(asked.limit) < 512, "what it asks for");
        assert!(probe.deadline_ms < 300_000, "what is left, as always");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_is_killed_mid_stream_takes_nobodys_money() {
    let Some(world) = World::start().await else {
        return;
    };
    let scheduler = world.scheduler().await;
    let mut workers = world.workers(&scheduler, THOROUGH).await;
    let gateway = world.gateway(&scheduler);
    hold(&workers, true);
    let killed = async {
        are_busy(&workers, SOME.try_into().unwrap()).await;
        let Worker {
            owner,
            till,
            stand_in,
        } = workers.remove(0);
        let cut = stand_in.busy();
        drop(stand_in);
        hold(&workers, false);
        (owner, till, cut)
    };
    let (answers, (owner, till, cut)) = tokio::join!(gateway.ask_all(SOME), killed);
    scheduler.ends(&world).await;
    gateway.network.reconcile().await;

    // Nothing is charged that was not answered. What the worker counts beyond that was on
    // its way when it died.
    workers.insert(0, scheduler.join(owner, till, THOROUGH).await);
    assert!(world.purse.in_doubt().is_none(), "each has ended");
    let books = world.books(&scheduler, &workers).await;
    assert_eq!(books.charged, paid_for(&answers));
    books.assert_agree(cut);

    // Its next life earns on, and the owner gets all of it from the chain.
    assert!(cut > 0, "it was killed in the middle");
    let more = gateway.ask_all(FEW).await;
    assert!(paid_for(&more) > 0, "{more:?}");
    scheduler.scheduler.idle().await;
    gateway.network.reconcile().await;
    let books = world.books(&scheduler, &workers).await;
    books.assert_agree(cut);
    world.assert_settles(&books, &scheduler, &workers).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_takes_holds_up_nobody_and_every_book_says_the_same_of_it() {
    let Some(world) = World::start().await else {
        return;
    };
    let scheduler = world.scheduler().await;
    // More than all buffers on its way hold.
    let events = format!("data: {}\n\ndata: [DONE]\n\n", "x".repeat(16 << 20));
    let terms = Terms {
        manner: Manner::Honest,
        answer: Some((events.leak(), 4000)),
        ..THOROUGH
    };
    let workers = world.workers(&scheduler, terms).await;
    let gateway = world.gateway_within(&scheduler, Duration::from_secs(6));
    let unread = gateway.begin(Gateway::body(0)).await;
    let mut taken = Vec::new();
    for index in 1..3 {
        taken.push(gateway.say(Gateway::body(index)).await);
    }
    assert!(taken.iter().all(|it| it.said.ends_with("[DONE]\n\n")));
    scheduler.ends(&world).await;
    world.is_written_down().await;
    gateway.network.reconcile().await;
    assert!(world.purse.in_doubt().is_none(), "each has ended");
    are_busy(&workers, 0).await;
    let unread = unread.into_body().collect().await;
    assert!(unread.is_err(), "it is not taken for whole");

    // What its worker could not say in time any more is signed for by nobody.
    let books = world.books(&scheduler, &workers).await;
    let one = 4000 * paid::PRICE / 1_000_000;
    assert!(books.charged == 3 * one || books.charged == 2 * one);
    books.assert_agree(0);
    world.assert_settles(&books, &scheduler, &workers).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scheduler_that_is_killed_mid_stream_goes_on_with_its_books() {
    let Some(world) = World::start().await else {
        return;
    };
    let scheduler = world.scheduler().await;
    let workers = world.workers(&scheduler, THOROUGH).await;
    let gateway = world.gateway(&scheduler);
    hold(&workers, true);
    let restarted = async {
        scheduler.is_asked(SOME).await;
        hold(&workers, false);
        let (clients, linked) = scheduler.kill().await;
        world.scheduler_at(clients, linked).await
    };
    let (answers, scheduler) = tokio::join!(gateway.ask_all(SOME), restarted);
    // Those of which nothing had come were asked again, and are left open too.
    let cut = u32::try_from(SOME).unwrap();
    for worker in &workers {
        scheduler.linked(worker).await;
    }

    // What was finished is settled, and the rest is released once it cannot come any more.
    gateway.network.reconcile().await;
    let more = gateway.ask_all(FEW).await;
    assert_all_served(&more);
    scheduler.scheduler.idle().await;
    scheduler
        .ledger
        .expire(tests::chain::now() + 1)
        .await
        .unwrap();
    gateway.network.reconcile().await;

    // Then all agree; a client is charged for at most what was cut off on its way to it.
    let books = world.books(&scheduler, &workers).await;
    books.assert_agree(cut);
    let paid = paid_for(&answers) + paid_for(&more);
    let unseen = books.charged - paid;
    assert!(unseen <= u64::from(cut) * Gateway::MOST, "{unseen}");
    world.assert_settles(&books, &scheduler, &workers).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_workers_finished_while_their_scheduler_died_is_settled_by_its_next_life() {
    let Some(world) = World::start().await else {
        return;
    };
    let process = world.process().await;
    let workers = world.workers_of(&process, THOROUGH).await;
    let gateway = world.gateway_to(process.clients, paid::PRICE);
    hold(&workers, true);
    let count = u32::try_from(HELD).unwrap();
    let restarted = async {
        are_busy(&workers, count).await;
        process.freeze();
        hold(&workers, false);
        are_busy(&workers, 0).await;
        let (clients, linked) = process.kill().await;
        let scheduler = world.scheduler_at(clients, linked).await;
        (scheduler, Instant::now())
    };
    let (answers, (scheduler, since)) = tokio::join!(gateway.ask_all(HELD), restarted);
    // Nobody heard of any of these ends; who asked again was served by the next life.
    let again = answers
        .iter()
        .filter(|answer| answer.cost.is_some())
        .count();
    for worker in &workers {
        scheduler.linked(worker).await;
    }
    scheduler.ends(&world).await;
    println!("{HELD} settled {:?} after the start", since.elapsed());
    gateway.network.reconcile().await;
    let books = world.books(&scheduler, &workers).await;
    books.assert_agree(0);
    let mut requests = 0;
    let epoch = tests::chain::now() / 3600;
    for epoch in [epoch - 1, epoch] {
        requests += scheduler.ledger.usage(epoch).await.unwrap().requests;
    }
    let once_each = u64::try_from(HELD + again).unwrap();
    assert_eq!(requests, once_each);
    assert!(books.charged > paid_for(&answers));
    assert_all_served(&gateway.ask_all(FEW).await);
    let books = world.books(&scheduler, &workers).await;
    books.assert_agree(0);
    world.assert_settles(&books, &scheduler, &workers).await;
}

/// Not a test of its own: what is killed above.
#[tokio::test(flavor = "multi_thread")]
async fn serves_until_it_is_killed() {
    paid::process::serve().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_whose_answers_break_off_at_their_end_is_paid_for_what_it_finished() {
    let Some(world) = World::start().await else {
        return;
    };
    let scheduler = world.scheduler().await;
    let terms = Terms {
        ask: 1_000_000,
        manner: Manner::Parting,
        ..THOROUGH
    };
    let workers = world.workers(&scheduler, terms).await;
    let mut asker = Asker::connect(scheduler.clients).await.unwrap();
    asker.voucher = Some(world.voucher("one", LIMIT, terms.ask));
    asker.pass = Some(world.shown());
    let assignment = asker.assign(&json!({})).await.unwrap();
    let answer = asker.begin(&assignment, vec![vec![7; 1000]]).await.unwrap();
    assert_eq!(answer.whole().await.unwrap_err(), AskError::Broken);
    scheduler.ends(&world).await;
    let books = world.books(&scheduler, &workers).await;
    assert_eq!((books.charged, books.held), (1000, 0));
    assert_eq!(books.to_owners(), (1000, 1000));
    assert_eq!(scheduler.ledger.audit().await.unwrap(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_in_doubt_whose_worker_is_lost_before_it_answers() {
    let Some(world) = World::start().await else {
        return;
    };
    let scheduler = world.scheduler().await;
    let terms = Terms {
        ask: 1_000_000,
        manner: Manner::Mute,
        ..THOROUGH
    };
    let mut workers = world.workers(&scheduler, terms).await;
    let mut asker = Asker::connect(scheduler.clients).await.unwrap();
    asker.voucher = Some(world.voucher("one", LIMIT, terms.ask));
    asker.pass = Some(world.shown());
    let assignment = asker.assign(&json!({})).await.unwrap();
    let killed = async {
        are_busy(&workers, 1).await;
        workers.clear();
    };
    let (answer, ()) = tokio::join!(asker.begin(&assignment, vec![vec![7; 1000]]), killed);
    let lost = AskError::Refused(StatusCode::SERVICE_UNAVAILABLE, "worker_lost".into());
    assert_eq!(answer.err(), Some(lost));
    let books = world.books(&scheduler, &workers).await;
    assert_eq!(
        (books.charged, books.held),
        (0, LIMIT),
        "it may say more yet"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_in_doubt_whose_end_is_in_no_books() {
    let Some(world) = World::start().await else {
        return;
    };
    let scheduler = world.scheduler().await;
    let terms = Terms {
        ask: 1_000_000,
        manner: Manner::Mute,
        ..THOROUGH
    };
    let workers = world.workers(&scheduler, terms).await;
    let mut asker = Asker::connect(scheduler.clients).await.unwrap();
    asker.voucher = Some(world.voucher("one", LIMIT, terms.ask));
    asker.pass = Some(world.shown());
    asker.deadline_ms = 3000;
    let assignment = asker.assign(&json!({})).await.unwrap();
    let forgotten = async {
        are_busy(&workers, 1).await;
        world.forget_requests();
    };
    let (answer, ()) = tokio::join!(asker.begin(&assignment, vec![vec![7; 1000]]), forgotten);
    let unknown = AskError::Refused(StatusCode::SERVICE_UNAVAILABLE, "unavailable".into());
    assert_eq!(answer.err(), Some(unknown), "and not that it is late");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_scheduler_keeps_is_what_clients_pay_and_workers_do_not_get() {
    let Some(world) = World::start().await else {
        return;
    };
    let fee = Fee::per_mille(25).unwrap();
    let scheduler = world.scheduler_with(fee).await;
    let workers = world.workers(&scheduler, THOROUGH).await;
    let asker = Asker::connect(scheduler.clients).await.unwrap();
    let said =
        async |path| serde_json::from_slice::<Value>(&asker.get(path).await.unwrap()).unwrap();
    let price = paid::PRICE / 1000 * 1025;
    assert_eq!(said("/network/v1/terms").await["fee"], 25);
    assert_eq!(
        said("/network/v1/models").await["models"][0]["price"],
        price
    );

    let mean = world.gateway_to(scheduler.clients, price - 1);
    for Answer { status, .. } in mean.ask_all(1).await {
        assert_eq!(status, StatusCode::PAYMENT_REQUIRED);
    }
    let gateway = world.gateway_to(scheduler.clients, price);
    let answers = gateway.ask_all(FEW).await;
    assert_all_served(&answers);
    let books = world.books(&scheduler, &workers).await;
    assert_eq!(
        (books.spent, books.charged),
        (paid_for(&answers), books.spent)
    );
    let (shown, earned) = books.to_owners();
    assert_eq!((shown, earned / 1000 * 1025), (earned, books.charged));
    let kept = &said("/status").await["money"]["kept"];
    assert_eq!(*kept, books.charged - earned);

    // Nothing but what was used is signed for, on either side of it, and the chain pays that.
    world.assert_settles(&books, &scheduler, &workers).await;
    assert_eq!(world.paid_by_client().await, books.charged);
    for (worker, owner) in workers.iter().zip(&books.owners) {
        let channel = world.town.channel(worker.till.address()).await;
        assert_eq!(
            (channel.state.paid, owner.shown),
            (owner.earned, owner.earned)
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_or_a_voucher_that_comes_again_is_named_and_buys_nothing() {
    let Some(world) = World::start().await else {
        return;
    };
    let scheduler = world.scheduler().await;
    let terms = Terms {
        ask: 1_000_000,
        manner: Manner::Honest,
        ..THOROUGH
    };
    let workers = world.workers(&scheduler, terms).await;
    let mut asker = Asker::connect(scheduler.clients).await.unwrap();
    asker.voucher = Some(world.voucher("one", LIMIT, terms.ask));
    asker.pass = Some(world.shown());
    asker.id = Some([1; 16]);
    let assignment = asker.assign(&json!({})).await.unwrap();
    hold(&workers, true);
    let first = asker.begin(&assignment, vec![vec![7; 1000]]).await.unwrap();
    let again = async || {
        let again = asker.begin(&assignment, vec![vec![7; 1000]]).await;
        again.unwrap_err()
    };
    let replayed = AskError::Refused(StatusCode::CONFLICT, "replayed".into());
    assert_eq!(again().await, replayed);
    hold(&workers, false);
    let said = first.whole().await.unwrap();
    assert_eq!(
        said.settlement.tokens, 1000,
        "the first one is served all the same"
    );
    assert_eq!(again().await, replayed);

    asker.id = None;
    let short = asker.begin(&assignment, vec![vec![7]]).await.unwrap_err();
    let not_covered = AskError::Refused(StatusCode::PAYMENT_REQUIRED, "not_covered".into());
    assert_eq!(short, not_covered);
    let books = world.books(&scheduler, &workers).await;
    assert_eq!((books.charged, books.held), (1000, 0));
    assert_eq!(books.to_owners(), (1000, 1000));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_voucher_buys_and_tells_nothing_for_who_cannot_show_that_it_is_theirs() {
    let Some(world) = World::start().await else {
        return;
    };
    let scheduler = world.scheduler().await;
    let terms = Terms {
        ask: 1_000_000,
        manner: Manner::Honest,
        ..THOROUGH
    };
    let _workers = world.workers(&scheduler, terms).await;
    let mut asker = Asker::connect(scheduler.clients).await.unwrap();
    // The chain publishes those that were claimed.
    asker.voucher = Some(world.voucher("one", LIMIT, terms.ask));
    let (_, others) = world.pass(6, 2 * COIN).await;
    let bad = AskError::Refused(StatusCode::BAD_REQUEST, "bad_voucher".into());
    for pass in [None, Some(others.to_string())] {
        asker.pass = pass;
        let refused = asker.ask(vec![vec![7]]).await.unwrap_err();
        assert_eq!(refused, bad);
        assert_eq!(asker.counted().await.unwrap_err(), bad);
    }
    // It covers one request, so nothing is reserved for those.
    asker.pass = Some(world.shown());
    assert_eq!(asker.counted().await.unwrap()["reserved"], 0);
    asker.ask(vec![vec![7]]).await.unwrap();
}

fn assert_all_served(answers: &[Answer]) {
    for Answer { status, said, .. } in answers {
        assert_eq!(*status, StatusCode::OK, "{said}");
    }
}

fn paid_for(answers: &[Answer]) -> u64 {
    answers.iter().filter_map(|answer| answer.cost).sum()
}

const SOME: usize = 240;

const FEW: usize = 30;

const HELD: usize = 120;

const STREAMS: usize = 1000;

const SEA: Terms = Terms {
    manner: Manner::Honest,
    answer: Some((
        r#"{"choices":[{"message":{"content":"wide"},"finish_reason":"stop"}],"usage":
            {"prompt_tokens":5,"completion_tokens":2,"total_tokens":7}}"#,
        7,
    )),
    ..THOROUGH
};

const THOROUGH: Terms = Terms {
    slots: 512,
    ask: paid::PRICE,
    pause: Duration::ZERO,
    manner: Manner::Thorough,
    answer: None,
};
