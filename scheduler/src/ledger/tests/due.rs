//! What is worth a message to the chain.

use super::*;

use contracts::channel::STORAGE_RESERVE;
use tempfile::TempDir;

use crate::ledger::due::LOOK;

/// A client has signed for so many tokens, of ten million, and its Channel is as `seen`.
async fn due(tokens: u64, now: u32, seen: fn(&mut Channel)) -> Vec<Due> {
    let folder = TempDir::new().unwrap();
    let ledger = Ledger::open(&file(&folder), identity()).await.unwrap();
    let mut channel = client(1);
    let address = channel.address.address;
    let first = ledger.observe(channel.clone(), holding(10 * PRICE), NOW);
    first.await.unwrap();
    let signed = sign(1, &voucher(&channel, tokens));
    let taken = ledger.voucher(address, signed, NOW);
    taken.await.unwrap();
    seen(&mut channel);
    let again = ledger.observe(channel, holding(10 * PRICE), NOW);
    again.await.unwrap();
    ledger.due(Costs::default(), now).await.unwrap()
}

#[tokio::test]
async fn a_claim_is_due_once_it_is_worth_a_hundred_times_its_cost() {
    let as_it_was = |_: &mut Channel| {};
    assert_eq!(due(130_000, NOW, as_it_was).await, []);
    let due = due(130_001, NOW, as_it_was).await;
    assert!(matches!(&due[..], [Due::Claim(_)]), "{due:?}");
}

#[tokio::test]
async fn a_claim_is_due_before_the_end_once_it_is_worth_its_cost() {
    let closing = |channel: &mut Channel| channel.state.ends = NOW + DELAY;
    let ending = |channel: &mut Channel| channel.state.ends = NOW + MARGIN;
    let ended = |channel: &mut Channel| channel.state.ends = NOW;
    assert_eq!(due(1300, NOW, closing).await, []);
    for seen in [closing, ending] {
        let due = due(1301, NOW, seen).await;
        assert!(matches!(&due[..], [Due::Claim(_)]), "{due:?}");
    }
    assert_eq!(due(10_000_000, NOW, ended).await, []);
}

#[tokio::test]
async fn a_channel_is_looked_at_while_something_could_be_lost_with_it() {
    let as_it_was = |_: &mut Channel| {};
    assert_eq!(due(1, NOW + LOOK - 1, as_it_was).await, []);
    let due_then = due(1, NOW + LOOK, as_it_was).await;
    assert!(matches!(&due_then[..], [Due::Look(_)]), "{due_then:?}");
    assert_eq!(due(0, NOW + LOOK, as_it_was).await, []);
}

#[tokio::test]
async fn what_cannot_wait_is_due_first_and_then_what_is_worth_most() {
    let folder = TempDir::new().unwrap();
    let ledger = Ledger::open(&file(&folder), identity()).await.unwrap();
    for (number, tokens, ends) in [
        (1, 200_000, None),
        (2, 400_000, None),
        (3, 2_000, Some(NOW + DELAY)),
        (4, 300_000, None),
        (5, 2_000, Some(NOW + DELAY - 1)),
    ] {
        let mut channel = client(number);
        let address = channel.address.address;
        let first = ledger.observe(channel.clone(), holding(10 * PRICE), NOW);
        first.await.unwrap();
        let signed = sign(number, &voucher(&channel, tokens));
        let taken = ledger.voucher(address, signed, NOW);
        taken.await.unwrap();
        channel.state.ends = ends.unwrap_or(channel.state.ends);
        let again = ledger.observe(channel, holding(10 * PRICE), NOW);
        again.await.unwrap();
    }
    let due = ledger.due(Costs::default(), NOW).await.unwrap();
    let claimed = due.iter().map(|due| match due {
        Due::Claim(signed) => signed.unverified().unwrap().channel,
        other => panic!("{other:?}"),
    });
    let expected = [5, 3, 2, 4, 1].map(|number| client(number).address);
    assert_eq!(claimed.collect::<Vec<_>>(), expected);
}

#[tokio::test]
async fn a_report_is_due_when_its_share_pays_for_it() {
    let folder = TempDir::new().unwrap();
    let ledger = Ledger::open(&file(&folder), identity()).await.unwrap();
    let share = Costs::default().report;
    for (number, held, reported, is_due) in [
        (101, 2 * share, 0, true),
        (102, 2 * share - 1, 0, false),
        (103, 2 * share, PRICE, false),
    ] {
        let mut channel = worker(number);
        channel.state.paid = PRICE;
        channel.state.held = STORAGE_RESERVE + held;
        channel.state.reported = reported;
        let before = ledger.due(Costs::default(), NOW).await.unwrap();
        ledger.observe(channel.clone(), 0, NOW).await.unwrap();
        let mut due = ledger.due(Costs::default(), NOW).await.unwrap();
        due.retain(|due| !before.contains(due));
        assert_eq!(!due.is_empty(), is_due, "{number}");
        if is_due {
            assert_eq!(due, [Due::Report(channel.address)]);
        }
    }
    assert_eq!(ledger.due(Costs::default(), UNTIL).await.unwrap(), []);
}
