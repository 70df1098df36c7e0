//! The ledger over both databases: one story, told to its end whatever breaks on the way.

mod due;
mod faults;
mod lies;
mod race;

use contracts::voucher::Signed;
use tycho_types::cell::HashBytes;

use super::account::{AdmitError, Order, Sum};
use super::cluster::{Cluster, HASTY};
use super::fixture::*;
use super::receipts::SettleError;
use super::rows::Book;
use super::*;

const MILLION: u64 = 1_000_000;

fn request(number: u8) -> RequestKey {
    RequestKey {
        client: client(1).address.address,
        id: [number; 16],
    }
}

/// Asked for once, however often.
fn asked(number: u8, worker: u8) -> Asked {
    Asked {
        key: request(number),
        channel: of(worker),
        worker: HashBytes([worker; 32]),
        deadline: 20,
        attempt: [number; 16],
    }
}

fn order(limit: u64) -> Order {
    Order {
        limit,
        price: PRICE,
        ask: PRICE,
        exposure: 0,
        unseen: 0,
    }
}

fn of(worker: u8) -> HashBytes {
    super::fixture::worker(worker).address.address
}

/// The client has signed for so many million tokens.
fn signed(millions: u64) -> Signed {
    sign(1, &voucher(&client(1), millions * MILLION))
}

/// A request by a number: settled for so many tokens by a worker.
fn answer(worker: u8, number: u8, tokens: u32) -> Served {
    served(receipt(&super::fixture::worker(worker), number, tokens))
}

/// Two workers serve a client, which is told first what they cost; one of them once says
/// nothing. `told` hears of each voucher that leaves.
async fn story(ledger: &Ledger, told: &dyn Fn(&Signed)) {
    for (channel, now) in [(client(1), NOW), (worker(101), NOW), (worker(102), NOW)] {
        again(|| ledger.observe(channel.clone(), holding(10 * PRICE), now))
            .await
            .unwrap();
    }
    let admit = async |number, worker, limit, voucher: Option<Signed>| {
        let admit = || ledger.admit(asked(number, worker), order(limit), voucher.clone(), NOW);
        match again(admit).await {
            Ok(admission) => told(&admission.voucher),
            // Told once more after a crash, when it had ended.
            Err(error) => assert_eq!(error, AdmitError::Repeated),
        }
    };
    let settle = async |number, worker, tokens| {
        let settle = || ledger.settle(request(number), answer(worker, number, tokens), NOW);
        again(settle).await.unwrap().amount
    };
    admit(1, 101, MILLION, Some(signed(3))).await;
    admit(2, 102, 2 * MILLION, None).await;
    assert_eq!(settle(1, 101, 600_000).await, 600_000_000);
    again(|| ledger.release(request(2))).await.unwrap();
    again(|| ledger.voucher(request(1).client, signed(5), NOW))
        .await
        .unwrap();
    admit(3, 101, 2 * MILLION, None).await;
    admit(4, 102, MILLION, Some(signed(6))).await;
    assert_eq!(settle(4, 102, 0).await, 0);
    assert_eq!(settle(3, 101, 1_999_999).await, 1_999_999_000);
    again(|| ledger.observe(client(1), holding(12 * PRICE), NOW + 1))
        .await
        .unwrap();
    admit(5, 102, MILLION, None).await;
}

/// Until the ledger can tell.
async fn again<T, E: Error + 'static, F>(ask: impl Fn() -> F) -> Result<T, E>
where
    F: Future<Output = Result<T, Failed<E>>>,
{
    for _ in 0..3 {
        match ask().await {
            Ok(done) => return Ok(done),
            Err(Failed::Refused(error)) => return Err(error),
            Err(Failed::Store(_)) => {}
        }
    }
    panic!("the ledger can never tell");
}

/// Everything in the books that a story leads to.
async fn books(ledger: &Ledger) -> Vec<String> {
    let books = rows(ledger).await;
    books.iter().map(|book| format!("{book:?}")).collect()
}

async fn rows(ledger: &Ledger) -> Vec<Book> {
    let all = || async {
        let rows = ledger.store.ask(|open| Book::all(open, GLOBAL_ID)).await;
        Ok::<_, Failed<SettleError>>(rows?)
    };
    again(all).await.unwrap()
}

async fn account(ledger: &Ledger, address: HashBytes) -> super::account::Account {
    let books = rows(ledger).await;
    let book = books.into_iter().find(|book| *book.address() == address);
    book.unwrap().account
}

fn file(folder: &tempfile::TempDir) -> String {
    format!("sqlite:{}", folder.path().join("ledger").display())
}

#[tokio::test]
async fn a_story_has_the_same_end_over_both_databases_and_told_twice() {
    let folder = tempfile::TempDir::new().unwrap();
    let in_file = Ledger::open(&file(&folder), identity()).await.unwrap();
    story(&in_file, &|_| {}).await;
    let end = books(&in_file).await;
    story(&in_file, &|_| {}).await;
    assert_eq!(books(&in_file).await, end, "each call twice is as once");
    assert_eq!(in_file.audit().await.unwrap(), []);

    let (one, two) = (
        account(&in_file, of(101)).await,
        account(&in_file, of(102)).await,
    );
    let of_client = account(&in_file, request(1).client).await;
    assert_eq!(one.spent.amount, 2_599_999_000);
    assert_eq!(two.spent.amount, 0);
    assert_eq!(of_client.spent.amount, 2_599_999_000);
    assert_eq!(of_client.reserved.amount, PRICE, "the last one is open");
    assert_eq!(of_client.voucher.amount, 6 * PRICE);
    assert_eq!(one.voucher.amount, 2_600_000_000);
    assert_eq!(
        two.voucher.amount,
        2 * PRICE,
        "what it has left unearned pays for more"
    );
    assert_eq!(in_file.expire(NOW).await.unwrap(), 0);
    assert_eq!(in_file.expire(NOW + 1).await.unwrap(), 1);

    let Some(cluster) = Cluster::start(&HASTY) else {
        return;
    };
    let shared = Ledger::open(&cluster.url(), identity()).await.unwrap();
    story(&shared, &|_| {}).await;
    assert_eq!(books(&shared).await, end);
    let used = (NOW / 3600, shared.usage(NOW / 3600).await.unwrap());
    assert_eq!(used.1, in_file.usage(used.0).await.unwrap());
}

#[tokio::test]
async fn whoever_cannot_tell_whether_it_was_admitted_asks_again_until_it_ends() {
    let folder = tempfile::TempDir::new().unwrap();
    let ledger = Ledger::open(&file(&folder), identity()).await.unwrap();
    for channel in [client(1), worker(101), worker(102)] {
        ledger.observe(channel, holding(PRICE), NOW).await.unwrap();
    }
    let admit = async |asked, limit| {
        let admitted = ledger.admit(asked, order(limit), Some(signed(1)), NOW);
        admitted.await.map_err(|error| match error {
            Failed::Refused(error) => error,
            Failed::Store(error) => panic!("{error}"),
        })
    };
    let ours = asked(1, 101);
    let first = admit(ours, 1000).await.unwrap();
    assert_eq!(admit(ours, 1000).await.as_ref(), Ok(&first));
    let reserved = account(&ledger, request(1).client).await.reserved;
    assert_eq!(reserved.tokens, 1000, "once");
    let theirs = Asked {
        attempt: [0; 16],
        ..ours
    };
    for (asked, limit) in [(theirs, 1000), (ours, 999), (asked(1, 102), 1000)] {
        assert_eq!(admit(asked, limit).await, Err(AdmitError::Repeated));
    }
    ledger.release(request(1)).await.unwrap();
    assert_eq!(
        admit(ours, 1000).await,
        Err(AdmitError::Repeated),
        "it has ended"
    );
}

#[tokio::test]
async fn what_has_not_ended_says_whom_it_was_sealed_to() {
    let folder = tempfile::TempDir::new().unwrap();
    let ledger = Ledger::open(&file(&folder), identity()).await.unwrap();
    story(&ledger, &|_| {}).await;
    let open = Unended {
        key: request(5),
        worker: HashBytes([102; 32]),
        opened: NOW,
        deadline: Some(20),
    };
    assert_eq!(ledger.unended(NOW + 1).await.unwrap(), [open]);
    assert_eq!(ledger.unended(NOW).await.unwrap(), []);
}

#[tokio::test]
async fn books_from_before_there_were_fees_go_on_beside_who_still_writes_them() {
    let folder = tempfile::TempDir::new().unwrap();
    let cluster = Cluster::start(&HASTY);
    let urls = [Some(file(&folder)), cluster.as_ref().map(Cluster::url)];
    for url in urls.into_iter().flatten() {
        let ledger = Ledger::open(&url, identity()).await.unwrap();
        story(&ledger, &|_| {}).await;
        let end = books(&ledger).await;
        let first = ledger.store.ask(|open| {
            for sql in [
                "ALTER TABLE requests DROP COLUMN ask",
                "ALTER TABLE requests DROP COLUMN sealed_to",
                "ALTER TABLE requests DROP COLUMN attempt",
                "ALTER TABLE requests DROP COLUMN deadline",
                "UPDATE ledger SET version = 1",
            ] {
                open.run(sql, &[])?;
            }
            Ok(())
        });
        first.await.unwrap();
        drop(ledger);
        let second = Ledger::open(&url, identity()).await.unwrap();
        assert_eq!(books(&second).await, end, "the price is what was asked");
        assert_eq!(
            second.unended(NOW + 1).await.unwrap(),
            [],
            "nobody knows of whom"
        );
        assert_eq!(second.expire(NOW + 1).await.unwrap(), 1);
        drop(second);
        Ledger::open(&url, identity()).await.unwrap();
    }
}

#[tokio::test]
async fn books_without_deadlines_go_on_and_have_them_from_then_on() {
    let folder = tempfile::TempDir::new().unwrap();
    let cluster = Cluster::start(&HASTY);
    let urls = [Some(file(&folder)), cluster.as_ref().map(Cluster::url)];
    for url in urls.into_iter().flatten() {
        let ledger = Ledger::open(&url, identity()).await.unwrap();
        story(&ledger, &|_| {}).await;
        let second = ledger.store.ask(|open| {
            open.run("ALTER TABLE requests DROP COLUMN deadline", &[])?;
            open.run("UPDATE ledger SET version = 2", &[])
        });
        second.await.unwrap();
        drop(ledger);
        let third = Ledger::open(&url, identity()).await.unwrap();
        let admit = || third.admit(asked(6, 102), order(1000), None, NOW);
        again(admit).await.unwrap();
        let unended = third.unended(NOW + 1).await.unwrap();
        let mut deadlines: Vec<_> = unended.iter().map(|found| found.deadline).collect();
        deadlines.sort_unstable();
        assert_eq!(deadlines, [None, Some(20)]);
    }
}

#[tokio::test]
async fn of_two_schedulers_one_has_the_wallet_until_it_falls_silent() {
    let folder = tempfile::TempDir::new().unwrap();
    let cluster = Cluster::start(&HASTY);
    let urls = [Some(file(&folder)), cluster.as_ref().map(Cluster::url)];
    for url in urls.into_iter().flatten() {
        let (one, two) = (
            Ledger::open(&url, identity()).await.unwrap(),
            Ledger::open(&url, identity()).await.unwrap(),
        );
        let turn = async |ledger: &Ledger, who: u8, now: u32| {
            ledger.turn([who; 16], now + 10, now).await.unwrap()
        };
        assert!(turn(&one, 1, NOW).await);
        assert!(!turn(&two, 2, NOW + 9).await);
        assert!(turn(&one, 1, NOW + 9).await, "it goes on");
        assert!(!turn(&two, 2, NOW + 18).await);
        assert!(turn(&two, 2, NOW + 19).await, "nobody has it any more");
        assert!(!turn(&one, 1, NOW + 20).await);
    }
}

#[tokio::test]
async fn whoever_has_the_heads_can_be_shown_that_an_answer_was_paid_for() {
    let folder = tempfile::TempDir::new().unwrap();
    let ledger = Ledger::open(&file(&folder), identity()).await.unwrap();
    story(&ledger, &|_| {}).await;
    let usage = ledger.usage(NOW / 3600).await.unwrap();
    let sum = Sum {
        amount: 2_599_999_000,
        tokens: 2_599_999,
    };
    assert_eq!((usage.requests, usage.sum), (3, sum));
    assert_eq!(ledger.usage(0).await.unwrap(), Usage::default());
    for (number, is_in_voucher) in [(1, true), (3, false), (4, false)] {
        let proof = ledger.proof(request(number)).await.unwrap().unwrap();
        let receipt = &proof.served.receipt;
        assert_eq!(receipt.request, HashBytes([number; 32]));
        assert_eq!(receipt.head(&proof.in_epoch), Ok(usage.receipts));
        let shown = proof.in_voucher.map(|(signed, path)| {
            let voucher = signed.verify(&key(OURS).public()).unwrap();
            assert_eq!(receipt.head(&path), Ok(voucher.receipts));
        });
        assert_eq!(shown.is_some(), is_in_voucher, "{number}");
    }
    assert!(ledger.proof(request(2)).await.unwrap().is_none());
}
