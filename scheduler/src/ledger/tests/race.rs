//! Several schedulers with the same books.

use super::*;

use tempfile::TempDir;
use tokio::task::JoinSet;

use crate::ledger::cluster::{Cluster, HASTY};

#[tokio::test(flavor = "multi_thread")]
async fn two_schedulers_never_promise_one_channel_twice_in_a_file() {
    let folder = TempDir::new().unwrap();
    race(&file(&folder)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_schedulers_never_promise_one_channel_twice_in_postgresql() {
    if let Some(cluster) = Cluster::start(&HASTY) {
        race(&cluster.url()).await;
    }
}

/// Forty requests of a coin, by two clients of which one has five and one has six, to two
/// workers; each is asked of both schedulers.
async fn race(url: &str) {
    let schedulers = [
        Ledger::open(url, identity()).await.unwrap(),
        Ledger::open(url, identity()).await.unwrap(),
    ];
    for channel in [client(1), client(2), worker(101), worker(102)] {
        let seen = schedulers[0].observe(channel, holding(20 * PRICE), NOW);
        seen.await.unwrap();
    }
    for (number, coins) in [(1, 5), (2, 6)] {
        let signed = sign(number, &voucher(&client(number), coins * MILLION));
        let address = client(number).address.address;
        let taken = schedulers[1].voucher(address, signed, NOW).await;
        assert_eq!(taken.unwrap().free, coins * PRICE);
    }
    let trusted = Order {
        exposure: 20 * PRICE,
        ..order(MILLION)
    };
    let mut asking = JoinSet::new();
    for number in 0..40 {
        for (scheduler, ledger) in (0..).zip(schedulers.clone()) {
            asking.spawn(async move {
                let key = RequestKey {
                    client: client(1 + number % 2).address.address,
                    id: [number; 16],
                };
                let asked = Asked {
                    key,
                    attempt: [scheduler; 16],
                    ..asked(number, 101 + number / 2 % 2)
                };
                let admitted = again(|| ledger.admit(asked, trusted, None, NOW)).await;
                match &admitted {
                    Ok(_) => {
                        let answer = answer(101 + number / 2 % 2, number, 400_000);
                        let settled = again(|| ledger.settle(key, answer.clone(), NOW)).await;
                        assert_eq!(settled.unwrap().amount, 400_000_000);
                    }
                    Err(AdmitError::NotCovered { .. } | AdmitError::Repeated) => {}
                    Err(error) => panic!("{error}"),
                }
                admitted.is_ok()
            });
        }
    }
    asking.join_all().await;
    let mut spent = Vec::new();
    for address in [client(1), client(2), worker(101), worker(102)] {
        let account = account(&schedulers[0], address.address.address).await;
        assert_eq!(account.reserved, Sum::default());
        assert!(account.spent.amount <= account.voucher.amount);
        spent.push(account.spent.amount);
    }
    assert_eq!(
        spent[0] + spent[1],
        spent[2] + spent[3],
        "one pays the other"
    );
    assert!(spent[0] > 0 && spent[1] > 0);
    for ledger in &schedulers {
        assert_eq!(ledger.audit().await.unwrap(), []);
    }
}
