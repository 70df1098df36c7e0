//! Money from a client through a scheduler to the owner of a worker: real Channels and a
//! Market on a local chain, and books that agree with them to the last nano.

#![allow(
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "helpers of tests are tests"
)]

use chain::wallet::{Order, Wallet};
use contracts::channel::{Claim, Close, Open, STORAGE_RESERVE, Terms, TopUp};
use contracts::market;
use contracts::receipt::{Receipt, Work};
use contracts::reports::epoch;
use contracts::voucher::{Signed, Voucher};
use scheduler::ledger::account::{self, Account, STORAGE};
use scheduler::ledger::receipts::Served;
use scheduler::ledger::{Asked, Costs, Due, Identity, Ledger, RequestKey, Side};
use scheduler::settler::{Done, Settler, SettlerError};
use tempfile::TempDir;
use tests::chain::{Fate, GLOBAL_ID, Town, key, now};
use tycho_types::cell::{CellBuilder, HashBytes, Lazy};
use tycho_types::models::{StateInit, StdAddr};

const SCHEDULER: u8 = 1;
const CLIENT: u8 = 2;
const OWNER: u8 = 3;
const COIN: u64 = 1_000_000_000;
/// Nanotons for a million tokens.
const PRICE: u64 = COIN;
const CHANNELS: u32 = 200;

#[tokio::test(flavor = "multi_thread")]
async fn what_clients_pay_and_workers_earn_is_on_the_chain_to_the_last_nano() {
    let Some(world) = World::start().await else {
        return;
    };
    let market = world.town.market(OWNER, PRICE).await;
    let from_client = world
        .town
        .open(CLIENT, SCHEDULER, None, 5 * COIN)
        .await
        .address;
    let to_owner = world
        .town
        .open(SCHEDULER, OWNER, Some(&market), 5 * COIN)
        .await
        .address;
    let settler = world.settler().await;
    let ledger = &settler.ledger;
    for (channel, side) in [(&from_client, Side::Client), (&to_owner, Side::Worker)] {
        let found = settler.look(channel).await.unwrap();
        assert_eq!(found, side);
        let account = account(ledger, channel).await;
        assert_eq!(
            account.funds(),
            world.town.balance(channel).await - STORAGE_RESERVE - STORAGE
        );
    }

    // Forty answers of different lengths; one request in five has none.
    let mut client = Voucher::first(GLOBAL_ID, from_client.clone());
    let mut earned = 0;
    for number in 0..40_u8 {
        earned += world.serve(ledger, &mut client, &to_owner, number).await;
    }
    let (book, owed) = (
        account(ledger, &from_client).await,
        account(ledger, &to_owner).await,
    );
    assert_eq!((book.spent.amount, owed.spent.amount), (earned, earned));
    assert_eq!(book.voucher, client, "of which the newest is worth all");

    // One claim for all of them. Payer and payee are right to the nano.
    let before = world.town.balance(&world.town.wallet(SCHEDULER)).await;
    assert!(matches!(
        &round(&settler, 0).await[..],
        [Done {
            due: Due::Claim(_),
            outcome: Ok(())
        }]
    ));
    let state = world.town.channel(&from_client).await.state;
    assert_eq!(state.paid, client.amount);
    assert_eq!(account(ledger, &from_client).await.channel.state, state);
    assert_eq!(state.held, STORAGE_RESERVE);
    let gained = world.town.balance(&world.town.wallet(SCHEDULER)).await - before;
    let cost = client.amount - gained;
    let estimate = Costs::default().claim;
    assert!(
        (estimate / 2..=estimate).contains(&cost),
        "a claim cost {cost}"
    );

    assert!(round(&settler, 0).await.is_empty(), "nothing is due twice");

    // The owner brings the newest voucher; all its receipts are reported under one head.
    let newest = newest(ledger, &to_owner).await;
    world
        .town
        .send(
            OWNER,
            &to_owner,
            COIN / 100,
            &Claim {
                query_id: 0,
                voucher: newest,
            },
            None,
        )
        .await;
    settler.look(&to_owner).await.unwrap();
    let owed = account(ledger, &to_owner).await;
    assert_eq!(owed.channel.state.paid, owed.voucher.amount);
    assert_eq!(
        owed.channel.state.paid,
        owed.spent.amount + owed.reserved.amount + kept(&owed)
    );
    let before = world.town.balance(&world.town.wallet(SCHEDULER)).await;
    assert!(matches!(
        &round(&settler, 0).await[..],
        [Done {
            due: Due::Report(_),
            outcome: Ok(())
        }]
    ));
    let counted: market::State = world.town.kept(&market).await;
    assert_eq!(counted.amount, owed.channel.state.paid);
    let share = (owed.channel.state.held - STORAGE_RESERVE) / 2;
    let cost = before + share - world.town.balance(&world.town.wallet(SCHEDULER)).await;
    let estimate = Costs::default().report;
    assert!(
        (estimate / 2..=estimate).contains(&cost),
        "a report cost {cost}"
    );
    for number in [1, 39_u8] {
        let proof = ledger
            .proof(request(&from_client, number))
            .await
            .unwrap()
            .unwrap();
        let (signed, path) = proof.in_voucher.unwrap();
        assert_eq!(
            proof.served.receipt.head(&path),
            Ok(signed.unverified().unwrap().receipts)
        );
    }

    // More is put in, and used.
    let funds = account(ledger, &from_client).await.funds();
    world
        .town
        .send(CLIENT, &from_client, COIN, &TopUp { query_id: 0 }, None)
        .await;
    settler.look(&from_client).await.unwrap();
    let more = account(ledger, &from_client).await.funds() - funds;
    assert!(more > COIN - COIN / 100 && more <= COIN, "{more}");
    earned += world.serve(ledger, &mut client, &to_owner, 41).await;
    assert!(
        round(&settler, 0).await.is_empty(),
        "a claim of so little does not pay"
    );

    // Its client begins to close it; the scheduler looks in time, and claims what is left.
    world
        .town
        .send(
            CLIENT,
            &from_client,
            COIN / 50,
            &Close { query_id: 0 },
            None,
        )
        .await;
    world.town.chain.lock().unwrap().tick(now() + 1000).unwrap();
    let done = round(&settler, 1000).await;
    assert!(
        matches!(
            &done[..],
            [
                Done {
                    due: Due::Look(_),
                    ..
                },
                Done {
                    due: Due::Claim(_),
                    outcome: Ok(())
                }
            ]
        ),
        "{done:?}"
    );
    assert_eq!(
        world.town.channel(&from_client).await.state.paid,
        client.amount
    );
    assert_eq!(account(ledger, &from_client).await.spent.amount, earned);
    assert!(
        client.amount - earned <= PRICE / 10,
        "what was signed for and not used"
    );

    // Its payee ends the other at once: what is not paid comes back.
    world
        .town
        .send(OWNER, &to_owner, COIN / 50, &Close { query_id: 0 }, None)
        .await;
    settler.look(&to_owner).await.unwrap();
    let owed = account(ledger, &to_owner).await;
    assert!(owed.channel.state.ends <= now());
    assert_eq!(owed.spent.amount, earned);
    assert_eq!(ledger.audit().await.unwrap(), []);
    let usage = ledger.usage(epoch(now())).await.unwrap();
    let before = ledger.usage(epoch(now()) - 1).await.unwrap();
    assert_eq!(
        usage.sum.amount + before.sum.amount,
        earned,
        "of this hour or the last"
    );
}

/// A chain that loses messages and answers, and lets others wait.
#[tokio::test(flavor = "multi_thread")]
async fn a_slow_chain_pays_all_claims_in_few_messages_before_the_channels_end() {
    let Some(world) = World::start().await else {
        return;
    };
    let settler = world.settler().await;
    let channels = world.owing(&settler, CHANNELS).await;
    let before = world.seqno().await;
    let coins = world.town.balance(&world.town.wallet(SCHEDULER)).await;

    world.fates([Fate::Lost(now() + 100)]);
    let lost = round(&settler, 0).await;
    assert_eq!(lost.len(), channels.len());
    assert!(lost.iter().all(is_unpaid), "{lost:?}");
    assert_eq!(world.seqno().await, before, "it was never there");

    world.fates([Fate::Late(5)]);
    let waited = round(&settler, 200).await;
    assert_eq!(waited.len(), channels.len());
    assert!(waited.iter().all(|done| done.outcome.is_ok()), "{waited:?}");
    assert!(
        round(&settler, 300).await.is_empty(),
        "nothing is due twice"
    );
    assert_eq!(world.seqno().await, before + 1);
    for (channel, amount) in &channels {
        let state = world.town.channel(channel).await.state;
        assert!(state.paid == *amount && now() + 300 < state.ends);
    }

    // What a claim takes, the wallet's part with it.
    let owed: u64 = channels.iter().map(|(_, amount)| amount).sum();
    let cost = coins + owed - world.town.balance(&world.town.wallet(SCHEDULER)).await;
    let cost = cost / u64::from(CHANNELS);
    println!("{CHANNELS} claims in one message, {cost} nanotons for each");
    assert!(cost < Costs::default().claim, "{cost}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_lost_has_nothing_paid_twice() {
    let Some(world) = World::start().await else {
        return;
    };
    let settler = world.settler().await;
    let channels = world.owing(&settler, 3).await;
    let before = world.seqno().await;
    world.fates([Fate::Unanswered]);
    let done = round(&settler, 0).await;
    assert!(done.iter().all(|done| done.outcome.is_ok()), "{done:?}");
    assert!(round(&settler, 0).await.is_empty());
    assert_eq!(world.seqno().await, before + 1);
    for (channel, amount) in &channels {
        assert_eq!(world.town.channel(channel).await.state.paid, *amount);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_wallet_has_no_coins_for_is_claimed_later_and_the_rest_at_once() {
    let Some(world) = World::start().await else {
        return;
    };
    let settler = world.settler().await;
    let channels = world.owing(&settler, 6).await;
    let wallet = world.town.wallet(SCHEDULER);
    let all = world.town.balance(&wallet).await - COIN / 25;
    let owner = world.town.wallet(OWNER);
    world.town.send(SCHEDULER, &owner, all, &(), None).await;

    let done = round(&settler, 0).await;
    let paid = done.iter().take_while(|done| done.outcome.is_ok()).count();
    assert!((1..6).contains(&paid), "{done:?}");
    assert!(done[paid..].iter().all(is_unpaid), "{done:?}");
    let last = &channels[channels.len() - paid..];
    for (channel, amount) in last {
        let state = world.town.channel(channel).await.state;
        assert_eq!(state.paid, *amount, "what is worth most goes first");
    }
    let done = round(&settler, 0).await;
    assert_eq!(done.len(), 6 - paid);
    assert!(done.iter().all(|done| done.outcome.is_ok()), "{done:?}");
}

fn is_unpaid(done: &Done) -> bool {
    matches!(done.outcome, Err(SettlerError::Unpaid))
}

/// What a worker holds that it has not earned.
fn kept(owed: &Account) -> u64 {
    owed.voucher.amount - owed.spent.amount - owed.reserved.amount
}

/// What is due at a moment from now.
async fn round(settler: &Settler, later: u32) -> Vec<Done> {
    settler.round(now() + later).await.unwrap()
}

async fn account(ledger: &Ledger, channel: &StdAddr) -> Account {
    let accounts = ledger.accounts().await.unwrap().into_iter();
    let mut found = accounts.filter(|(_, account)| account.channel.address == *channel);
    found.next().unwrap().1
}

async fn newest(ledger: &Ledger, worker: &StdAddr) -> Signed {
    ledger.commit(worker.address, now()).await.unwrap()
}

fn request(client: &StdAddr, number: u8) -> RequestKey {
    RequestKey {
        client: client.address,
        id: [number; 16],
    }
}

struct World {
    folder: TempDir,
    town: Town,
}

impl World {
    async fn start() -> Option<Self> {
        let folder = TempDir::new().unwrap();
        let town = Town::start(folder.path(), &[SCHEDULER, CLIENT, OWNER]).await?;
        Some(Self { folder, town })
    }

    async fn settler(&self) -> Settler {
        let identity = Identity {
            key: key(SCHEDULER),
            payee: self.town.wallet(SCHEDULER),
            global_id: GLOBAL_ID,
        };
        let url = format!("sqlite:{}", self.folder.path().join("ledger").display());
        Settler {
            ledger: Ledger::open(&url, identity).await.unwrap(),
            client: self.town.client(),
            wallet: self.town.wallet(SCHEDULER),
            key: key(SCHEDULER),
            costs: Costs::default(),
        }
    }

    /// What becomes of the next messages.
    fn fates<const N: usize>(&self, fates: [Fate; N]) {
        self.town.chain.lock().unwrap().fates.extend(fates);
    }

    /// Messages that the scheduler's wallet has sent.
    async fn seqno(&self) -> u32 {
        let wallet = self.town.wallet(SCHEDULER);
        let state = self.town.client().account(&wallet).await.unwrap();
        Wallet::of(&wallet, &state, &key(SCHEDULER))
            .unwrap()
            .seqno()
    }

    /// Channels of the client's that it has signed for, a little more in each.
    async fn owing(&self, settler: &Settler, count: u32) -> Vec<(StdAddr, u64)> {
        let worker = self.town.open(SCHEDULER, OWNER, None, COIN).await.address;
        settler.look(&worker).await.unwrap();
        let opens: Vec<_> = (0..count).map(|number| self.terms(number)).collect();
        let orders: Vec<_> = opens.iter().map(opening).collect();
        let wallet = self.town.wallet(CLIENT);
        let client = self.town.client();
        for orders in orders.chunks(20) {
            let state = client.account(&wallet).await.unwrap();
            let wallet = Wallet::of(&wallet, &state, &key(CLIENT)).unwrap();
            let message = wallet.sign(&key(CLIENT), orders, now() + 60).unwrap();
            client.send(&message).await.unwrap();
        }
        let mut owing = Vec::new();
        for (number, open) in opens.into_iter().enumerate() {
            settler.look(&open.address).await.unwrap();
            let tokens = 500_000 + u64::try_from(number).unwrap();
            let first = Voucher::first(GLOBAL_ID, open.address.clone());
            let voucher = first.next(tokens, PRICE, epoch(now()), HashBytes::ZERO);
            let voucher = voucher.unwrap();
            let key = request(&open.address, 1);
            let order = account::Order {
                limit: 1,
                price: PRICE,
                ask: PRICE,
                exposure: 0,
                unseen: 0,
            };
            let asked = Asked {
                key,
                channel: worker.address,
                worker: HashBytes([9; 32]),
                attempt: [1; 16],
                deadline: 20,
            };
            let signed = Some(sign(CLIENT, &voucher));
            let ledger = &settler.ledger;
            ledger.admit(asked, order, signed, now()).await.unwrap();
            ledger.release(key).await.unwrap();
            owing.push((open.address, voucher.amount));
        }
        owing
    }

    fn terms(&self, number: u32) -> Open {
        let terms = Terms {
            payer: self.town.wallet(CLIENT),
            payee: self.town.wallet(SCHEDULER),
            key: key(CLIENT).public(),
            until: now() + 30 * 24 * 3600,
            delay: 7200 + number,
            fee: 0,
            market: self.town.wallet(SCHEDULER),
        };
        Open::new(0, terms).unwrap()
    }

    /// A client signs and asks, a worker answers or does not. Says what was paid.
    async fn serve(
        &self,
        ledger: &Ledger,
        client: &mut Voucher,
        worker: &StdAddr,
        number: u8,
    ) -> u64 {
        let limit = 100_000;
        let order = account::Order {
            limit,
            price: PRICE,
            ask: PRICE,
            exposure: 0,
            unseen: 0,
        };
        let key = request(&client.channel, number);
        // Enough for the limit beyond what was used so far.
        let free = account(ledger, &client.channel).await.free();
        let short = (limit * PRICE / 1_000_000).saturating_sub(free) / 1000;
        *client = client
            .next(short, PRICE, epoch(now()), HashBytes::ZERO)
            .unwrap();
        let signed = sign(CLIENT, client);
        let asked = Asked {
            key,
            channel: worker.address,
            worker: HashBytes([9; 32]),
            deadline: 20,
            attempt: [number; 16],
        };
        let admitted = ledger.admit(asked, order, Some(signed), now()).await;
        let voucher = admitted
            .unwrap()
            .voucher
            .verify(&tests::chain::key(SCHEDULER).public());
        let owed = account(ledger, worker).await;
        assert!(voucher.unwrap().amount >= owed.spent.amount + owed.reserved.amount);
        if number.is_multiple_of(5) {
            ledger.release(key).await.unwrap();
            return 0;
        }
        let tokens = 1000 * u32::from(number) + u32::from(number);
        let served = answer(worker, number, tokens);
        ledger.settle(key, served, now()).await.unwrap().amount
    }
}

fn opening(open: &Open) -> Order {
    Order {
        to: open.address.clone(),
        value: COIN.into(),
        bounce: false,
        body: CellBuilder::build_from(&open.body).unwrap(),
        init: Some(StateInit {
            code: Some(open.code.clone()),
            data: Some(open.data.clone()),
            ..StateInit::default()
        }),
    }
}

fn answer(worker: &StdAddr, number: u8, tokens: u32) -> Served {
    let work = Work {
        model: HashBytes([1; 32]),
        build: HashBytes([2; 32]),
        prompt_tokens: tokens - tokens / 3,
        completion_tokens: tokens / 3,
    };
    let receipt = Receipt {
        global_id: GLOBAL_ID,
        channel: worker.clone(),
        request: HashBytes([number; 32]),
        response: HashBytes([number; 32]),
        price: PRICE,
        time: now(),
        work: Lazy::new(&work).unwrap(),
    };
    let hash = HashBytes(receipt.hash().unwrap());
    Served {
        signature: key(77).sign(&hash),
        key: key(77).public(),
        request: receipt.request,
        response: receipt.response,
        receipt,
    }
}

fn sign(number: u8, voucher: &Voucher) -> Signed {
    let hash = HashBytes(voucher.hash().unwrap());
    voucher.signed(key(number).sign(&hash)).unwrap()
}
