mod interleavings;

use super::*;

use contracts::voucher::Forged;

use crate::ledger::fixture::*;

const MILLION_TOKENS: u64 = 1_000_000;

fn order(limit: u64, exposure: u64) -> Order {
    Order {
        limit,
        price: PRICE,
        ask: PRICE,
        exposure,
        unseen: 0,
    }
}

/// A client that has signed for so many coins of ten, and a worker with ten.
fn pair(coins: u64) -> (Account, Account) {
    let mut of_client = Account::new(client(1), holding(10 * PRICE), GLOBAL_ID, NOW);
    let of_worker = Account::new(worker(101), holding(10 * PRICE), GLOBAL_ID, NOW);
    if coins > 0 {
        let signed = sign(1, &voucher(&of_client.channel, coins * MILLION_TOKENS));
        assert_eq!(of_client.receive(&signed, NOW), Ok(true));
    }
    (of_client, of_worker)
}

fn try_admit(pair: &mut (Account, Account), order: &Order) -> Result<Voucher, AdmitError> {
    admit(&mut pair.0, &mut pair.1, order, HashBytes::ZERO, NOW)
}

#[test]
fn a_voucher_counts_that_the_contract_would_pay_and_that_its_channel_covers() {
    let (mut account, _) = pair(2);
    let good = voucher(&account.channel, 3 * MILLION_TOKENS);
    let other = voucher(&client(2), 3 * MILLION_TOKENS);
    let with = |change: fn(&mut Voucher)| {
        let mut changed = good.clone();
        change(&mut changed);
        sign(1, &changed)
    };
    let above = voucher(&account.channel, 10 * MILLION_TOKENS + 1000);
    let mut refused = |signed: &Signed, error: VoucherError| {
        assert_eq!(account.receive(signed, NOW), Err(error));
    };
    refused(&sign(2, &good), Refusal::from(Forged::Signature).into());
    refused(&sign(1, &other), Refusal::Target.into());
    refused(&with(|one| one.global_id = -239), Refusal::Target.into());
    refused(&with(|one| one.epoch += 1), Refusal::Epoch.into());
    refused(&with(|one| one.tokens -= 1), Refusal::Cap.into());
    let error = VoucherError::Funds {
        amount: 10 * PRICE + 1_000_000,
        funds: 10 * PRICE,
    };
    refused(&sign(1, &above), error);
    assert_eq!(account.voucher.amount, 2 * PRICE, "none of them counts");
    assert_eq!(account.receive(&sign(1, &good), NOW), Ok(true));
    assert_eq!(account.receive(&sign(1, &good), NOW), Ok(false), "again");
    let older = sign(1, &voucher(&account.channel, MILLION_TOKENS));
    assert_eq!(account.receive(&older, NOW), Ok(false));
    assert_eq!(account.voucher, good);
}

#[test]
fn a_channel_that_nobody_has_looked_at_for_long_may_be_closing() {
    let mut two = pair(2);
    let last = NOW + DELAY - MARGIN;
    let one = order(1, PRICE);
    let mut at = |now| admit(&mut two.0, &mut two.1, &one, HashBytes::ZERO, now);
    assert!(at(last - 1).is_ok());
    let ends = NOW + DELAY;
    assert_eq!(at(last), Err(AdmitError::ClientEnds { ends }));
    let late = two.0.receive(&sign(1, &two.0.voucher.clone()), last);
    assert_eq!(late, Err(VoucherError::Ended { ends }));
    two.0.seen = last;
    assert!(admit(&mut two.0, &mut two.1, &one, HashBytes::ZERO, last).is_ok());
}

#[test]
fn a_higher_cap_counts_though_all_was_claimed() {
    let (mut account, _) = pair(2);
    account.channel.state.paid = 2 * PRICE;
    let mut dearer = account.voucher.clone();
    dearer.cap += 1;
    assert_eq!(account.receive(&sign(1, &dearer), NOW), Ok(true));
    assert_eq!(account.voucher.cap, PRICE + 1);
}

#[test]
fn what_is_not_covered_is_not_admitted() {
    let mut two = pair(2);
    let error = try_admit(&mut two, &order(2_000_001, 0)).unwrap_err();
    let text = "the request may cost 2000001000, and the client's vouchers cover 2000000000 more";
    assert_eq!(error.to_string(), text);
    let dear = Order {
        price: PRICE + 1,
        ..order(1, 0)
    };
    let error = try_admit(&mut two, &dear).unwrap_err();
    assert_eq!(
        error,
        AdmitError::Price {
            found: PRICE + 1,
            cap: PRICE
        }
    );
    for (limit, price) in [
        (1, 1 << 63),
        (MOST_TOKENS, u64::MAX >> 1),
        (MOST_TOKENS + 1, 0),
    ] {
        let much = Order {
            price,
            ..order(limit, 0)
        };
        assert_eq!(try_admit(&mut two, &much), Err(AdmitError::Overflow));
    }
    two.1.balance = holding(PRICE);
    let error = try_admit(&mut two, &order(2 * MILLION_TOKENS, 0)).unwrap_err();
    let (amount, funds) = (2 * PRICE, PRICE);
    assert_eq!(error, AdmitError::Unfunded { amount, funds });
    two.1.channel.state.ends = NOW + MARGIN;
    let error = try_admit(&mut two, &order(1, 0)).unwrap_err();
    assert_eq!(error, AdmitError::WorkerEnds { ends: NOW + MARGIN });
    two.0.channel.state.ends = NOW + MARGIN;
    let error = try_admit(&mut two, &order(1, 0)).unwrap_err();
    assert_eq!(error, AdmitError::ClientEnds { ends: NOW + MARGIN });
    assert_eq!(two.0.reserved, Sum::default(), "nothing of it is reserved");
}

#[test]
fn what_a_client_pays_beyond_the_ask_stays_with_the_scheduler() {
    let mut two = pair(2);
    let cheap = Order {
        ask: PRICE / 3,
        ..order(1_000_001, 0)
    };
    let voucher = try_admit(&mut two, &cheap).unwrap();
    assert_eq!((voucher.amount, voucher.cap), (333_333_666, PRICE / 3));
    let reserved = [two.0.reserved.amount, two.1.reserved.amount];
    assert_eq!(reserved, [1_000_001_000, 333_333_666]);
    let used = settle(&mut two.0, &mut two.1, &cheap, 7).unwrap();
    assert_eq!((used.amount, two.0.spent), (7000, used));
    assert_eq!((two.1.spent.amount, two.1.spent.tokens), (2333, 7));
    assert_eq!([two.0.reserved, two.1.reserved], [Sum::default(); 2]);
    let loss = Order {
        ask: PRICE + 1,
        ..order(1, 0)
    };
    let (price, ask) = (PRICE, PRICE + 1);
    assert_eq!(
        try_admit(&mut two, &loss),
        Err(AdmitError::Loss { price, ask })
    );
}

#[test]
fn a_worker_that_was_given_nothing_back_gets_no_second_voucher() {
    let mut two = pair(4);
    let one = order(MILLION_TOKENS, 0);
    let first = try_admit(&mut two, &one).unwrap();
    assert_eq!((first.amount, first.tokens), (PRICE, MILLION_TOKENS));
    let error = try_admit(&mut two, &one).unwrap_err();
    let (out, allowed) = (2 * PRICE, PRICE);
    assert_eq!(error, AdmitError::Exposed { out, allowed });
    let second = try_admit(&mut two, &order(MILLION_TOKENS, 2 * PRICE)).unwrap();
    assert_eq!(second.amount, 2 * PRICE, "as far as it is trusted");

    // It never answered. What it holds pays for its next two requests.
    for _ in 0..2 {
        settle(&mut two.0, &mut two.1, &one, 0).unwrap();
    }
    assert_eq!(try_admit(&mut two, &one), Ok(second.clone()));
    assert_eq!(try_admit(&mut two, &one), Ok(second));
    assert_eq!(two.1.spent, Sum::default());
}

#[test]
fn what_a_worker_earned_unseen_is_paid_as_far_as_it_is_trusted() {
    let mut two = pair(4);
    let more = |exposure| Order {
        unseen: PRICE,
        ..order(MILLION_TOKENS, exposure)
    };
    let error = try_admit(&mut two, &more(0)).unwrap_err();
    let (out, allowed) = (2 * PRICE, PRICE);
    assert_eq!(error, AdmitError::Exposed { out, allowed });
    let voucher = try_admit(&mut two, &more(2 * PRICE)).unwrap();
    assert_eq!(voucher.amount, 2 * PRICE);
    assert!(voucher.keeps_its_cap());
}
