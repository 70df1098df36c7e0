use super::*;

use attestation::register::Digest256;
use contracts::receipt::Work;
use proptest::prelude::*;
use tempfile::TempDir;
use tycho_types::boc::BocRepr;
use tycho_types::cell::Lazy;

const DEPOSIT: u64 = 1_000_000;

fn folder() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let channel = ChannelFile {
        channel: StdAddr::new(0, HashBytes([1; 32])).to_string(),
        global_id: -3,
        payee: StdAddr::new(0, HashBytes([2; 32])).to_string(),
        deposit: DEPOSIT,
        until: u32::MAX,
        voucher_key: "key".into(),
    };
    let path = folder.path().join("channel.json");
    std::fs::write(&path, serde_json::to_vec(&channel).unwrap()).unwrap();
    std::fs::write(folder.path().join("key"), "07".repeat(32)).unwrap();
    (folder, path)
}

fn agreed(limit: u64, price: u64) -> Agreed {
    Agreed {
        limit,
        price,
        request: Digest256::ZERO,
        receipt_key: Digest256::from_bytes(worker().public().0),
        until: u32::MAX,
    }
}

fn worker() -> Key {
    Key::parse(&"09".repeat(32)).unwrap()
}

/// What the worker signed for so many tokens, as a scheduler shows it.
fn settled(tokens: u32) -> Stage {
    signed_by(&worker(), &receipt(tokens))
}

fn signed_by(key: &Key, receipt: &Receipt) -> Stage {
    let settlement = Settlement {
        receipt: BocRepr::encode(receipt).unwrap(),
        signature: key.sign(&HashBytes(receipt.hash().unwrap())),
        tokens: receipt.work.load().unwrap().tokens(),
    };
    let settlement = BASE64_STANDARD.encode(settlement.encode());
    Stage::Settled { settlement }
}

fn counted(spent: u64, reserved: u64) -> Counted {
    Counted { spent, reserved }
}

/// Tells of these requests, and asks of all that is in doubt.
fn tell(purse: &Purse, counted: Counted, requests: &[(&str, Stage)]) {
    let requests = requests
        .iter()
        .map(|(id, stage)| ((*id).into(), stage.clone()));
    let requests = requests.collect();
    let asked = purse
        .in_doubt()
        .map_or(Vec::new(), |doubts| doubts.requests);
    purse.told(&asked, &Told { counted, requests }).unwrap();
}

fn doubts(purse: &Purse) -> Vec<String> {
    purse
        .in_doubt()
        .map_or(Vec::new(), |doubts| doubts.requests)
}

fn receipt(tokens: u32) -> Receipt {
    let work = Work {
        model: HashBytes::ZERO,
        build: HashBytes::ZERO,
        prompt_tokens: tokens,
        completion_tokens: 0,
    };
    Receipt {
        global_id: -3,
        channel: StdAddr::new(0, HashBytes::ZERO),
        request: HashBytes::ZERO,
        response: HashBytes::ZERO,
        price: 1,
        time: 1,
        work: Lazy::new(&work).unwrap(),
    }
}

fn read_voucher(purse: &Purse, signed: &Signed) -> Voucher {
    let voucher = signed.verify(&purse.key.public()).unwrap();
    assert!(voucher.keeps_its_cap());
    voucher
}

#[test]
fn a_voucher_covers_what_was_spent_and_reserved() {
    let (_folder, path) = folder();
    let purse = Purse::open(&path, None).unwrap();
    let one = purse
        .reserve("a", agreed(1000, 2_000_000))
        .unwrap()
        .unwrap();
    assert_eq!(read_voucher(&purse, &one).amount, 2000);
    let two = purse
        .reserve("b", agreed(1000, 2_000_000))
        .unwrap()
        .unwrap();
    assert_eq!(read_voucher(&purse, &two).amount, 4000);
    assert_eq!(purse.settle("a", &receipt(100)).unwrap(), 200);
    purse.release("b").unwrap();
    // What was not used pays for the next one: the voucher stays.
    let three = purse
        .reserve("c", agreed(1000, 2_000_000))
        .unwrap()
        .unwrap();
    assert_eq!(three, two);
    let balance = purse.balance();
    assert_eq!(
        (balance.spent, balance.reserved, balance.tokens),
        (200, 2000, 100)
    );
    let four = purse
        .reserve("d", agreed(1000, 2_000_000))
        .unwrap()
        .unwrap();
    let four = read_voucher(&purse, &four);
    assert_eq!(four.amount, 4200);
    assert_ne!(four.receipts, HashBytes::ZERO, "of the receipt so far");
}

#[test]
fn no_more_is_signed_than_deposit_and_budget_allow() {
    for (budget, most) in [(None, DEPOSIT), (Some(500), 500)] {
        let (_folder, path) = folder();
        let purse = Purse::open(&path, budget).unwrap();
        purse.reserve("a", agreed(most - 1, 1_000_000)).unwrap();
        let refused = purse
            .reserve("b", agreed(2, 1_000_000))
            .unwrap_err()
            .to_string();
        assert_eq!(
            refused,
            format!(
                "the request may cost 2 nanotons, and 1 of {most} are left: ask for fewer tokens, \
                 raise --budget, or pay from another --channel"
            )
        );
        assert!(purse.reserve("b", agreed(1, 1_000_000)).unwrap().is_some());
    }
}

#[test]
fn a_receipt_for_more_than_was_agreed_moves_nothing() {
    let (_folder, path) = folder();
    let purse = Purse::open(&path, None).unwrap();
    purse.reserve("a", agreed(10, 1_000_000)).unwrap();
    let refused = purse.settle("a", &receipt(11)).unwrap_err().to_string();
    assert_eq!(
        refused,
        "the receipt is for 11 tokens, and 10 were agreed upon"
    );
    assert_eq!((purse.balance().spent, purse.balance().reserved), (0, 10));
    assert_eq!(purse.settle("a", &receipt(10)).unwrap(), 10);
    let twice = purse.settle("a", &receipt(10)).unwrap_err();
    assert!(matches!(twice, PurseError::Unknown));
}

#[test]
fn what_a_crash_left_open_is_in_doubt_and_the_voucher_is_not_lost() {
    let (_folder, path) = folder();
    let purse = Purse::open(&path, None).unwrap();
    let before = purse
        .reserve("a", agreed(1000, 1_000_000))
        .unwrap()
        .unwrap();
    drop(purse);
    let purse = Purse::open(&path, None).unwrap();
    assert_eq!(doubts(&purse), ["a"]);
    let sent = purse.reserve("b", agreed(600, 1_000_000)).unwrap();
    assert_eq!(sent, Some(before));
    assert!(purse.refused(sent.as_ref(), counted(0, 1300)).unwrap());
    let balance = purse.balance();
    assert_eq!((balance.spent, balance.reserved), (0, 1600), "all, and b");
    let after = purse.reserve("c", agreed(600, 1_000_000)).unwrap().unwrap();
    assert_eq!(read_voucher(&purse, &after).amount, 2200);
}

#[test]
fn all_that_were_refused_at_once_ask_again() {
    let (_folder, path) = folder();
    let purse = Purse::open(&path, None).unwrap();
    purse.reserve("lost", agreed(1000, 1_000_000)).unwrap();
    purse.doubt("lost").unwrap();
    purse.reserve("first", agreed(100, 1_000_000)).unwrap();
    let sent = purse.reserve("second", agreed(100, 1_000_000)).unwrap();
    purse.release("first").unwrap();
    purse.release("second").unwrap();
    let lost = counted(0, 1000);
    assert!(purse.refused(sent.as_ref(), lost).unwrap());
    assert!(purse.refused(sent.as_ref(), lost).unwrap(), "it is held");
    let newest = purse.reserve("third", agreed(900, 1_000_000)).unwrap();
    purse.release("lost").unwrap();
    let nothing = counted(0, 0);
    assert!(purse.refused(sent.as_ref(), nothing).unwrap(), "newer");
    assert!(!purse.refused(newest.as_ref(), nothing).unwrap());
}

#[test]
fn all_that_were_refused_at_once_are_covered_the_next_time() {
    let (_folder, path) = folder();
    let purse = Purse::open(&path, None).unwrap();
    purse.reserve("lost", agreed(1000, 1_000_000)).unwrap();
    purse.doubt("lost").unwrap();
    let ask = |request| purse.reserve(request, agreed(100, 1_000_000)).unwrap();
    let asked = ["a", "b", "c", "d", "e"].map(|request| (request, ask(request)));
    // It has admitted none of them.
    let lost = counted(0, 1000);
    for (request, sent) in asked {
        purse.release(request).unwrap();
        assert!(purse.refused(sent.as_ref(), lost).unwrap());
        let again = ask(request).unwrap();
        let amount = read_voucher(&purse, &again).amount;
        assert_eq!(amount, 1500, "each has its place beside what was lost");
    }
}

#[test]
fn what_is_held_does_not_fall_for_requests_that_a_scheduler_has_not_seen() {
    let (_folder, path) = folder();
    let purse = Purse::open(&path, None).unwrap();
    purse.reserve("lost", agreed(1000, 1_000_000)).unwrap();
    purse.doubt("lost").unwrap();
    let lost = counted(0, 1000);
    let sent = purse.reserve("first", agreed(100, 1_000_000)).unwrap();
    purse.release("first").unwrap();
    assert!(purse.refused(sent.as_ref(), lost).unwrap());
    purse.reserve("second", agreed(100, 1_000_000)).unwrap();
    assert!(purse.refused(sent.as_ref(), lost).unwrap());
    assert_eq!(purse.balance().reserved, 1100, "both of it");
    purse.release("lost").unwrap();
    assert_eq!(purse.balance().reserved, 100);
}

#[test]
fn a_scheduler_is_believed_as_far_as_there_is_doubt() {
    let (_folder, path) = folder();
    let purse = Purse::open(&path, None).unwrap();
    purse.reserve("a", agreed(1000, 1_000_000)).unwrap();
    let sent = purse.reserve("b", agreed(100, 1_000_000)).unwrap();
    assert!(!purse.refused(sent.as_ref(), counted(u64::MAX, 0)).unwrap());
    purse.doubt("a").unwrap();
    assert!(purse.refused(sent.as_ref(), counted(u64::MAX, 5)).unwrap());
    assert_eq!(purse.balance().reserved, 1100);
    purse.release("a").unwrap();
    assert_eq!(purse.balance().reserved, 100);
}

#[test]
fn each_doubt_ends_by_its_own_receipt_while_others_are_under_way() {
    let (_folder, path) = folder();
    let purse = Purse::open(&path, None).unwrap();
    for request in ["a", "b", "c", "busy"] {
        purse.reserve(request, agreed(1000, 1_000_000)).unwrap();
    }
    for request in ["a", "b", "c"] {
        purse.doubt(request).unwrap();
    }
    // Sums alone end none.
    tell(&purse, counted(300, 0), &[]);
    assert_eq!(doubts(&purse), ["a", "b", "c"]);
    assert_eq!(purse.balance().spent, 0);
    let all = [
        ("a", settled(300)),
        ("b", Stage::Open),
        ("busy", settled(7)),
    ];
    tell(&purse, counted(300, 2000), &all);
    assert_eq!(doubts(&purse), ["b", "c"]);
    let balance = purse.balance();
    assert_eq!((balance.spent, balance.tokens), (300, 300));
    assert_eq!(balance.reserved, 2000, "busy, and b is held");
    tell(&purse, counted(300, 1000), &[("b", Stage::Released)]);
    assert_eq!(doubts(&purse), ["c"]);
    assert_eq!(
        (purse.balance().spent, purse.balance().reserved),
        (300, 1000)
    );
    // Nor do they need the scheduler.
    assert_eq!(purse.settle("c", &receipt(10)).unwrap(), 10);
    assert_eq!(doubts(&purse), [""; 0]);
    assert_eq!(
        (purse.balance().spent, purse.balance().reserved),
        (310, 1000)
    );
}

#[test]
fn an_old_answer_ends_no_doubt_that_it_was_not_asked_about() {
    let (_folder, path) = folder();
    let purse = Purse::open(&path, None).unwrap();
    purse.reserve("old", agreed(1000, 1_000_000)).unwrap();
    purse.doubt("old").unwrap();
    let asked = purse.in_doubt().unwrap().requests;
    purse.reserve("new", agreed(1000, 1_000_000)).unwrap();
    purse.doubt("new").unwrap();
    let requests = [("old", Stage::Released), ("new", Stage::Released)];
    let requests = requests.map(|(id, stage)| (id.into(), stage)).into();
    let counted = counted(0, 0);
    purse.told(&asked, &Told { counted, requests }).unwrap();
    assert_eq!(doubts(&purse), ["new"]);
}

#[test]
fn what_a_scheduler_never_heard_of_is_in_doubt_until_it_is_too_late_for_it() {
    let (_folder, path) = folder();
    let purse = Purse::open(&path, None).unwrap();
    for (request, until) in [("late", 1), ("soon", u32::MAX)] {
        let agreed = Agreed {
            until,
            ..agreed(10, 1_000_000)
        };
        purse.reserve(request, agreed).unwrap();
        purse.doubt(request).unwrap();
    }
    tell(&purse, counted(0, 0), &[]);
    assert_eq!(doubts(&purse), ["soon"]);
}

#[test]
fn no_doubt_ends_by_what_its_worker_did_not_sign_for_it() {
    let (_folder, path) = folder();
    let purse = Purse::open(&path, None).unwrap();
    purse.reserve("a", agreed(1000, 1_000_000)).unwrap();
    purse.doubt("a").unwrap();
    let other = HashBytes([5; 32]);
    let garbage = |settlement: &str| Stage::Settled {
        settlement: settlement.into(),
    };
    for lie in [
        garbage("?"),
        garbage("AAAA"),
        settled(1001),
        signed_by(&purse.key, &receipt(10)),
        signed_by(
            &worker(),
            &Receipt {
                request: other,
                ..receipt(10)
            },
        ),
        signed_by(
            &worker(),
            &Receipt {
                price: 1_000_001,
                ..receipt(10)
            },
        ),
    ] {
        tell(&purse, counted(10, 0), &[("a", lie.clone())]);
        assert_eq!(doubts(&purse), ["a"], "{lie:?}");
        assert_eq!(purse.balance().spent, 0, "{lie:?}");
    }
    tell(&purse, counted(10, 0), &[("a", settled(10))]);
    assert_eq!(purse.balance().spent, 10);
}

#[test]
fn doubts_outlive_the_process() {
    let (_folder, path) = folder();
    let purse = Purse::open(&path, None).unwrap();
    purse.reserve("a", agreed(1000, 1_000_000)).unwrap();
    purse.doubt("a").unwrap();
    purse.reserve("b", agreed(500, 1_000_000)).unwrap();
    for _ in 0..2 {
        let purse = Purse::open(&path, None);
        assert!(purse.is_err(), "the other one is open");
    }
    drop(purse);
    let purse = Purse::open(&path, None).unwrap();
    assert_eq!(doubts(&purse), ["a", "b"]);
    tell(
        &purse,
        counted(0, 0),
        &[("a", settled(1)), ("b", Stage::Released)],
    );
    drop(purse);
    let purse = Purse::open(&path, None).unwrap();
    assert_eq!((doubts(&purse), purse.balance().spent), (Vec::new(), 1));
}

#[test]
fn what_costs_nothing_is_never_in_doubt() {
    let (_folder, path) = folder();
    let purse = Purse::open(&path, None).unwrap();
    assert_eq!(purse.reserve("a", agreed(1000, 0)).unwrap(), None);
    purse.doubt("a").unwrap();
    assert!(purse.in_doubt().is_none());
}

#[test]
fn two_processes_cannot_sign_beside_each_other() {
    let (_folder, path) = folder();
    let _purse = Purse::open(&path, None).unwrap();
    let alias = path.with_extension("alias");
    std::os::unix::fs::symlink(&path, &alias).unwrap();
    for name in [path, alias] {
        let error = Purse::open(&name, None).unwrap_err().to_string();
        assert!(
            error.ends_with("another gateway or prober pays from this channel"),
            "{error}"
        );
    }
}

#[test]
fn nothing_leaves_that_is_not_on_disk() {
    let (folder, path) = folder();
    let purse = Purse::open(&path, None).unwrap();
    folder.close().unwrap();
    let refused = purse.reserve("a", agreed(10, 1_000_000)).unwrap_err();
    assert!(matches!(refused, PurseError::Disk(_)), "{refused}");
    assert_eq!(purse.balance().reserved, 0);
}

#[test]
fn a_write_that_fails_has_happened_for_none_who_waited_for_it() {
    let (folder, path) = folder();
    let purse = Purse::open(&path, None).unwrap();
    purse.reserve("kept", agreed(10, 1_000_000)).unwrap();
    std::fs::remove_dir_all(folder.path()).unwrap();
    std::thread::scope(|scope| {
        for number in 0..8 {
            let purse = &purse;
            scope.spawn(move || {
                let name = number.to_string();
                let refused = purse.reserve(&name, agreed(10, 1_000_000)).unwrap_err();
                assert!(matches!(refused, PurseError::Disk(_)), "{refused}");
            });
        }
    });
    assert_eq!(purse.balance().reserved, 10);
    std::fs::create_dir(folder.path()).unwrap();
    let signed = purse.reserve("more", agreed(10, 1_000_000)).unwrap();
    assert_eq!(read_voucher(&purse, &signed.unwrap()).amount, 20);
}

#[test]
fn a_state_that_is_half_written_by_others_is_refused_at_every_length() {
    let (_folder, path) = folder();
    let purse = Purse::open(&path, None).unwrap();
    purse.reserve("a", agreed(10, 1_000_000)).unwrap();
    drop(purse);
    let state = beside(&path, "state");
    let whole = std::fs::read(&state).unwrap();
    for length in 0..whole.len() {
        std::fs::write(&state, &whole[..length]).unwrap();
        let error = Purse::open(&path, None).unwrap_err().to_string();
        assert!(
            error.contains("is no state of a channel"),
            "{length}: {error}"
        );
    }
}

#[test]
fn another_channels_state_is_refused() {
    let (_one, path) = folder();
    let purse = Purse::open(&path, None).unwrap();
    purse.reserve("a", agreed(10, 1_000_000)).unwrap();
    drop(purse);
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace(&"01".repeat(32), &"03".repeat(32))).unwrap();
    let error = Purse::open(&path, None).unwrap_err().to_string();
    assert!(error.contains("channel.json.state is of 0:0101"), "{error}");
}

#[test]
fn an_ended_channel_pays_nothing() {
    let (_folder, path) = folder();
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace(&u32::MAX.to_string(), "5")).unwrap();
    let purse = Purse::open(&path, None).unwrap();
    let refused = purse.reserve("a", agreed(1, 1)).unwrap_err().to_string();
    assert_eq!(
        refused,
        "the channel has ended at 5: pay from another --channel"
    );
}

#[derive(Clone, Debug)]
enum Step {
    Reserve(u64, u64),
    Settle(u32),
    Release,
    Doubt,
    Tell(u32, u64),
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..5000u64, 0..9_000_000u64).prop_map(|(limit, price)| Step::Reserve(limit, price)),
        2 => (0..5000u32).prop_map(Step::Settle),
        1 => Just(Step::Release),
        1 => Just(Step::Doubt),
        1 => (0..5000u32, 0..9000u64).prop_map(|(tokens, reserved)| Step::Tell(tokens, reserved)),
        1 => Just(Step::Restart),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn vouchers_only_grow_and_cover_what_they_are_for(steps in prop::collection::vec(step(), 1..40)) {
        let (_folder, path) = folder();
        let mut purse = Purse::open(&path, None).unwrap();
        let (mut amount, mut open) = (0, Vec::new());
        for (number, step) in steps.into_iter().enumerate() {
            match step {
                Step::Reserve(limit, price) => {
                    let name = number.to_string();
                    let Ok(signed) = purse.reserve(&name, agreed(limit, price)) else { continue };
                    open.push(name);
                    let Some(signed) = signed else { continue };
                    let voucher = read_voucher(&purse, &signed);
                    let balance = purse.balance();
                    prop_assert!(voucher.amount >= amount);
                    prop_assert!(voucher.cap >= price);
                    prop_assert!(voucher.amount >= balance.spent.saturating_add(balance.reserved));
                    prop_assert!(voucher.amount <= DEPOSIT);
                    amount = voucher.amount;
                }
                Step::Settle(tokens) => if let Some(name) = open.last()
                    && purse.settle(name, &receipt(tokens)).is_ok() { open.pop(); },
                Step::Release => if let Some(name) = open.pop() { purse.release(&name).unwrap() },
                Step::Doubt => if let Some(name) = open.pop() { purse.doubt(&name).unwrap() },
                Step::Tell(tokens, reserved) => {
                    let before = purse.balance().spent;
                    let all = doubts(&purse);
                    let half: Vec<_> = all.iter().step_by(2)
                        .map(|id| (id.as_str(), settled(tokens))).collect();
                    tell(&purse, counted(before, reserved), &half);
                    prop_assert!(purse.balance().spent >= before);
                }
                Step::Restart => {
                    drop(purse);
                    purse = Purse::open(&path, None).unwrap();
                    open.clear();
                }
            }
        }
    }
}
