//! Who lies, and what it is told.

use super::*;

use contracts::receipt::ReceiptError;
use tempfile::TempDir;

/// One request is open: half a million tokens, by worker 101.
async fn opened() -> (TempDir, Ledger) {
    let folder = TempDir::new().unwrap();
    let ledger = Ledger::open(&file(&folder), identity()).await.unwrap();
    for channel in [client(1), worker(101), worker(102)] {
        let seen = ledger.observe(channel, holding(10 * PRICE), NOW);
        seen.await.unwrap();
    }
    admit(&ledger, 1, order(MILLION / 2), Some(signed(1)))
        .await
        .unwrap();
    (folder, ledger)
}

async fn admit(
    ledger: &Ledger,
    number: u8,
    order: Order,
    signed: Option<Signed>,
) -> Result<Admission, AdmitError> {
    again(|| ledger.admit(asked(number, 101), order, signed.clone(), NOW)).await
}

async fn settle(ledger: &Ledger, number: u8, served: Served) -> Result<Sum, SettleError> {
    again(|| ledger.settle(request(number), served.clone(), NOW)).await
}

#[tokio::test]
async fn a_client_gets_nothing_for_what_it_has_signed_before() {
    let (_folder, ledger) = opened().await;
    for (millions, found) in [(1, PRICE), (0, 0)] {
        let error = admit(&ledger, 2, order(MILLION), Some(signed(millions))).await;
        let standing = Standing {
            free: PRICE / 2,
            spent: 0,
            reserved: PRICE / 2,
        };
        let stale = AdmitError::Stale {
            found,
            newest: PRICE,
            standing,
        };
        assert_eq!(error, Err(stale));
    }
    let taken = Order {
        price: PRICE / 2,
        ..order(MILLION / 2)
    };
    // Also while the same is under way: its receipt is for one answer.
    for again in [taken, order(MILLION / 2)] {
        let other = Asked {
            attempt: [9; 16],
            ..asked(1, 101)
        };
        let error = super::again(|| ledger.admit(other, again, None, NOW)).await;
        assert_eq!(error, Err(AdmitError::Repeated));
    }
    let unknown = Asked {
        key: RequestKey {
            client: of(101),
            ..request(3)
        },
        ..asked(3, 101)
    };
    let error = again(|| ledger.admit(unknown, order(1), None, NOW)).await;
    assert_eq!(
        error,
        Err(AdmitError::Unknown),
        "a worker's Channel is no client's"
    );
    let covered = admit(&ledger, 2, order(MILLION / 2), Some(signed(1))).await;
    assert!(covered.is_ok() || matches!(covered, Err(AdmitError::Exposed { .. })));
}

#[tokio::test]
async fn a_worker_is_paid_for_this_request_by_its_own_receipt_alone() {
    let (_folder, ledger) = opened().await;
    let good = answer(101, 1, 1000);
    let with = |change: fn(&mut Served)| {
        let mut lie = good.clone();
        change(&mut lie);
        lie
    };
    let signed = |change: fn(&mut contracts::receipt::Receipt)| {
        let mut lie = good.receipt.clone();
        change(&mut lie);
        Served {
            request: good.request,
            response: good.response,
            ..served(lie)
        }
    };
    let price = SettleError::Price {
        found: PRICE + 1,
        expected: PRICE,
    };
    let limit = SettleError::Limit {
        found: 500_001,
        limit: 500_000,
    };
    let forged = SettleError::Receipt(ReceiptError::Signature);
    let lies = [
        (with(|lie| lie.signature[0] ^= 1), forged.clone()),
        (with(|lie| lie.key = key(78).public()), forged.clone()),
        (with(|lie| lie.receipt.price -= 1), forged),
        (signed(|lie| lie.price += 1), price),
        (
            signed(|lie| lie.channel = worker(102).address),
            SettleError::Channel,
        ),
        (
            signed(|lie| lie.channel.workchain = -1),
            SettleError::Channel,
        ),
        (signed(|lie| lie.global_id += 1), SettleError::Channel),
        (signed(|lie| lie.request.0[0] ^= 1), SettleError::Request),
        (signed(|lie| lie.response.0[0] ^= 1), SettleError::Response),
        (answer(101, 1, 500_001), limit),
    ];
    for (lie, error) in lies {
        assert_eq!(settle(&ledger, 1, lie).await, Err(error));
    }
    assert_eq!(
        settle(&ledger, 9, good.clone()).await,
        Err(SettleError::Unknown)
    );
    assert_eq!(account(&ledger, of(101)).await.spent, Sum::default());

    let used = settle(&ledger, 1, good.clone()).await.unwrap();
    assert_eq!(used.amount, 1_000_000);
    assert_eq!(
        settle(&ledger, 1, good.clone()).await,
        Ok(used),
        "the same again"
    );
    let other = answer(101, 1, 999);
    assert_eq!(settle(&ledger, 1, other).await, Err(SettleError::Twice));
    let error = again(|| ledger.release(request(1))).await;
    assert_eq!(error, Err(SettleError::Twice));

    // The same receipt for another request, whose hash the scheduler would have to have
    // seen again.
    admit(&ledger, 2, order(MILLION / 2), Some(super::signed(2)))
        .await
        .unwrap();
    assert_eq!(
        settle(&ledger, 2, good.clone()).await,
        Err(SettleError::Twice)
    );
    again(|| ledger.release(request(2))).await.unwrap();
    let late = answer(101, 2, 1);
    assert_eq!(settle(&ledger, 2, late).await, Err(SettleError::Released));
    assert_eq!(account(&ledger, request(1).client).await.spent, used);
}

#[tokio::test]
async fn a_channel_is_ours_and_leaves_time_to_claim() {
    let (_folder, ledger) = opened().await;
    let with = |change: fn(&mut Terms)| {
        let mut terms = client(3).terms;
        change(&mut terms);
        Channel::new(terms).unwrap()
    };
    for (channel, error) in [
        (
            with(|terms| terms.delay -= 1),
            ObserveError::Delay { found: 3599 },
        ),
        (with(|terms| terms.fee = 1), ObserveError::Fee { found: 1 }),
        (
            with(|terms| terms.payee = wallet(9)),
            ObserveError::Stranger,
        ),
    ] {
        let refused = again(|| ledger.observe(channel.clone(), 0, NOW)).await;
        assert_eq!(refused, Err(error));
    }
    let before = account(&ledger, request(1).client).await.balance;
    again(|| ledger.observe(client(1), 0, NOW - 1))
        .await
        .unwrap();
    let after = account(&ledger, request(1).client).await.balance;
    assert_eq!(
        after, before,
        "what is older than what is known says nothing"
    );
}

#[tokio::test]
async fn whoever_writes_to_the_database_makes_nothing_up() {
    let (folder, ledger) = opened().await;
    settle(&ledger, 1, answer(101, 1, 1000)).await.unwrap();
    admit(&ledger, 2, order(1000), None).await.unwrap();
    let url = file(&folder);
    let path = url.strip_prefix("sqlite:").unwrap();
    for (change, undo, flaw) in [
        (
            "UPDATE channels SET spent = spent + 1 WHERE spent > 0",
            "UPDATE channels SET spent = spent - 1 WHERE spent > 0",
            "spent",
        ),
        (
            "UPDATE channels SET reserved = reserved + 1",
            "UPDATE channels SET reserved = reserved - 1",
            "reserved",
        ),
        (
            "UPDATE channels SET receipts = receipts + 1 WHERE side = 1",
            "UPDATE channels SET receipts = receipts - 1 WHERE side = 1",
            "tree",
        ),
        (
            "UPDATE requests SET ask = ask + 1 WHERE stage = 1",
            "UPDATE requests SET ask = ask - 1 WHERE stage = 1",
            "receipt 0",
        ),
        (
            "UPDATE receipts SET position = 1",
            "UPDATE receipts SET position = 0",
            "receipt 1",
        ),
        (
            "UPDATE receipts SET id = zeroblob(16)",
            "UPDATE receipts SET id = x'01010101010101010101010101010101'",
            "no receipt",
        ),
        (
            "CREATE TABLE kept AS SELECT address, voucher FROM channels; UPDATE channels SET voucher = x''",
            "UPDATE channels SET voucher = (SELECT voucher FROM kept WHERE kept.address = channels.address)",
            "voucher",
        ),
    ] {
        let thief = rusqlite::Connection::open(path).unwrap();
        thief.execute_batch(change).unwrap();
        let flaws = ledger.audit().await.unwrap();
        let is_found = flaws.iter().any(|found| found.to_string().contains(flaw));
        assert!(is_found, "{change}: {flaws:?}");
        let error = Ledger::open(&url, identity()).await.unwrap_err();
        assert!(matches!(error, OpenError::Flawed(_)), "{error}");
        thief.execute_batch(undo).unwrap();
        assert_eq!(ledger.audit().await.unwrap(), []);
    }
    let stranger = Identity {
        payee: wallet(9),
        ..identity()
    };
    let error = Ledger::open(&url, stranger).await.unwrap_err();
    assert!(matches!(error, OpenError::Stranger), "{error}");
    let nowhere = Ledger::open("sqlite:", identity()).await;
    assert!(matches!(nowhere, Err(OpenError::Store(_))));
    assert!(matches!(
        Ledger::open("mysql:x", identity()).await,
        Err(OpenError::Url(_))
    ));
}

#[tokio::test]
async fn a_client_is_told_how_its_requests_ended_and_shown_what_was_signed() {
    let (_folder, ledger) = opened().await;
    let told = async |ids: [u8; 2]| {
        let ids = ids.map(|number| request(number).id).to_vec();
        ledger.told(request(1).client, ids).await.unwrap()
    };
    assert_eq!(told([1, 2]).await, [(request(1).id, Told::Open)]);
    settle(&ledger, 1, answer(101, 1, 400_000)).await.unwrap();
    admit(&ledger, 2, order(MILLION / 2), None).await.unwrap();
    ledger.release(request(2)).await.unwrap();
    let ended = told([2, 1]).await;
    assert_eq!(ended[0], (request(2).id, Told::Released));
    let Told::Settled(settlement) = &ended[1].1 else {
        panic!("{ended:?}");
    };
    let served = answer(101, 1, 400_000);
    assert_eq!(settlement.tokens, 400_000);
    assert_eq!(settlement.signature, served.signature);
    let receipt = tycho_types::boc::BocRepr::decode(&settlement.receipt);
    assert_eq!(receipt.ok(), Some(served.receipt));
    // Another's are nobody's business.
    let other = ledger.told(of(101), vec![request(1).id]).await.unwrap();
    assert_eq!(other, []);
}
