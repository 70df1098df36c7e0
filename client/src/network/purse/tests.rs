use super::*;

use contracts::receipt::Work;
use proptest::prelude::*;
use tempfile::TempDir;
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
    let one = purse.reserve("a", 1000, 2_000_000).unwrap().unwrap();
    assert_eq!(read_voucher(&purse, &one).amount, 2000);
    let two = purse.reserve("b", 1000, 2_000_000).unwrap().unwrap();
    assert_eq!(read_voucher(&purse, &two).amount, 4000);
    assert_eq!(purse.settle("a", &receipt(100)).unwrap(), 200);
    purse.release("b").unwrap();
    // What was not used pays for the next one: the voucher stays.
    let three = purse.reserve("c", 1000, 2_000_000).unwrap().unwrap();
    assert_eq!(three, two);
    let balance = purse.balance();
    assert_eq!(
        (balance.spent, balance.reserved, balance.tokens),
        (200, 2000, 100)
    );
    let four = purse.reserve("d", 1000, 2_000_000).unwrap().unwrap();
    let four = read_voucher(&purse, &four);
    assert_eq!(four.amount, 4200);
    assert_ne!(four.receipts, HashBytes::ZERO, "of the receipt so far");
}

#[test]
fn no_more_is_signed_than_deposit_and_budget_allow() {
    for (budget, most) in [(None, DEPOSIT), (Some(500), 500)] {
        let (_folder, path) = folder();
        let purse = Purse::open(&path, budget).unwrap();
        purse.reserve("a", most - 1, 1_000_000).unwrap();
        let refused = purse.reserve("b", 2, 1_000_000).unwrap_err().to_string();
        assert_eq!(refused, "the request may cost 2 nanotons, and 1 are left");
        assert!(purse.reserve("b", 1, 1_000_000).unwrap().is_some());
    }
}

#[test]
fn a_receipt_for_more_than_was_agreed_moves_nothing() {
    let (_folder, path) = folder();
    let purse = Purse::open(&path, None).unwrap();
    purse.reserve("a", 10, 1_000_000).unwrap();
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
    let before = purse.reserve("a", 1000, 1_000_000).unwrap().unwrap();
    drop(purse);
    let purse = Purse::open(&path, None).unwrap();
    assert_eq!(purse.reserve("b", 600, 1_000_000).unwrap(), Some(before));
    let counted = Counted {
        spent: 0,
        reserved: 1300,
    };
    assert!(purse.reconcile(counted).unwrap());
    assert!(!purse.reconcile(counted).unwrap(), "once");
    let balance = purse.balance();
    assert_eq!((balance.spent, balance.reserved), (0, 1300), "700 beside b");
    let after = purse.reserve("c", 600, 1_000_000).unwrap().unwrap();
    assert_eq!(read_voucher(&purse, &after).amount, 1900);
}

#[test]
fn all_that_were_refused_at_once_ask_again() {
    let (_folder, path) = folder();
    let purse = Purse::open(&path, None).unwrap();
    purse.reserve("lost", 1000, 1_000_000).unwrap();
    purse.doubt("lost").unwrap();
    purse.reserve("first", 100, 1_000_000).unwrap();
    let sent = purse.reserve("second", 100, 1_000_000).unwrap();
    purse.release("first").unwrap();
    purse.release("second").unwrap();
    let counted = Counted {
        spent: 0,
        reserved: 1000,
    };
    assert!(purse.refused(sent.as_ref(), counted).unwrap());
    assert!(purse.refused(sent.as_ref(), counted).unwrap(), "it is held");
    purse.reserve("third", 900, 1_000_000).unwrap();
    let nothing = Counted {
        spent: 0,
        reserved: 0,
    };
    purse.reconcile(nothing).unwrap();
    assert!(purse.refused(sent.as_ref(), nothing).unwrap(), "newer");
    let newest = purse.in_doubt();
    assert!(!purse.refused(newest.as_ref(), nothing).unwrap());
}

#[test]
fn once_all_is_over_doubts_end_with_what_the_scheduler_counts_within_them() {
    for (spent, believed) in [(0, 100), (100, 100), (350, 350), (u64::MAX, 1100)] {
        let (_folder, path) = folder();
        let purse = Purse::open(&path, None).unwrap();
        purse.reserve("a", 100, 1_000_000).unwrap();
        purse.settle("a", &receipt(100)).unwrap();
        purse.reserve("b", 1000, 1_000_000).unwrap();
        purse.doubt("b").unwrap();
        assert!(purse.in_doubt().is_some());
        let counted = Counted { spent, reserved: 0 };
        assert!(purse.reconcile(counted).unwrap());
        assert_eq!(purse.balance().spent, believed, "{spent}");
        assert!(purse.in_doubt().is_none());
        assert!(!purse.reconcile(counted).unwrap());
    }
}

#[test]
fn while_something_is_under_way_no_doubt_ends() {
    let (_folder, path) = folder();
    let purse = Purse::open(&path, None).unwrap();
    purse.reserve("a", 1000, 1_000_000).unwrap();
    purse.doubt("a").unwrap();
    purse.reserve("b", 500, 1_000_000).unwrap();
    let counted = |spent, reserved| Counted { spent, reserved };
    assert!(!purse.reconcile(counted(400, 0)).unwrap(), "it may be of b");
    assert!(purse.reconcile(counted(400, 500)).unwrap());
    assert_eq!(purse.balance().reserved, 900);
    purse.settle("b", &receipt(500)).unwrap();
    purse.reconcile(counted(900, 0)).unwrap();
    let balance = purse.balance();
    assert_eq!((balance.spent, balance.reserved), (900, 0));
}

#[test]
fn two_processes_cannot_sign_beside_each_other() {
    let (_folder, path) = folder();
    let _purse = Purse::open(&path, None).unwrap();
    let error = Purse::open(&path, None).unwrap_err().to_string();
    assert!(
        error.ends_with("another process pays from this channel"),
        "{error}"
    );
}

#[test]
fn nothing_leaves_that_is_not_on_disk() {
    let (folder, path) = folder();
    let purse = Purse::open(&path, None).unwrap();
    folder.close().unwrap();
    let refused = purse.reserve("a", 10, 1_000_000).unwrap_err();
    assert!(matches!(refused, PurseError::Disk(_)), "{refused}");
    assert_eq!(purse.balance().reserved, 0);
}

#[test]
fn another_channels_state_is_refused() {
    let (_one, path) = folder();
    let purse = Purse::open(&path, None).unwrap();
    purse.reserve("a", 10, 1_000_000).unwrap();
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
    let refused = purse.reserve("a", 1, 1).unwrap_err().to_string();
    assert_eq!(refused, "the channel has ended at 5");
}

#[derive(Clone, Debug)]
enum Step {
    Reserve(u64, u64),
    Settle(u32),
    Release,
    Doubt,
    Reconcile(u64, u64),
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..5000u64, 0..9_000_000u64).prop_map(|(limit, price)| Step::Reserve(limit, price)),
        2 => (0..5000u32).prop_map(Step::Settle),
        1 => Just(Step::Release),
        1 => Just(Step::Doubt),
        1 => (0..90_000u64, 0..2u64).prop_map(|(spent, reserved)| Step::Reconcile(spent, reserved)),
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
                    let Ok(signed) = purse.reserve(&name, limit, price) else { continue };
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
                Step::Reconcile(spent, reserved) => {
                    let before = purse.balance().spent;
                    purse.reconcile(Counted { spent, reserved }).unwrap();
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
