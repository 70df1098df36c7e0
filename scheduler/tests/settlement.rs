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

use contracts::channel::{Claim, Close, STORAGE_RESERVE, TopUp};
use contracts::market;
use contracts::receipt::{Receipt, Work};
use contracts::reports::epoch;
use contracts::voucher::{Signed, Voucher};
use scheduler::ledger::account::{self, Account, STORAGE};
use scheduler::ledger::receipts::Served;
use scheduler::ledger::{Asked, Costs, Due, Identity, Ledger, RequestKey, Side};
use scheduler::settler::{Done, Settler};
use tempfile::TempDir;
use tests::chain::{GLOBAL_ID, Town, key, now};
use tycho_types::cell::{HashBytes, Lazy};
use tycho_types::models::StdAddr;

const SCHEDULER: u8 = 1;
const CLIENT: u8 = 2;
const OWNER: u8 = 3;
const COIN: u64 = 1_000_000_000;
/// Nanotons for a million tokens.
const PRICE: u64 = COIN;

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
