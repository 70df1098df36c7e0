//! A payer that is killed at any moment: what it has signed and paid is what it said.
#![cfg(test)]
#![allow(
    clippy::arithmetic_side_effects,
    clippy::unwrap_used,
    reason = "a panic is a failure"
)]

use std::io::{self, BufRead, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use attestation::register::Digest256;
use client::network::agreed::Agreed;
use client::network::purse::{ChannelFile, Purse};
use contracts::receipt::{Receipt, Work};
use tempfile::TempDir;
use tycho_types::cell::{HashBytes, Lazy};
use tycho_types::models::StdAddr;

const PAYERS: usize = 4;

#[test]
fn whoever_is_killed_at_any_moment_has_signed_and_paid_what_it_said() {
    let (_folder, path) = channel();
    let (mut signed, mut paid) = (0, 0);
    for round in 0..16 {
        let mut payer = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "payer", "--ignored", "--nocapture"])
            .env(CHANNEL, &path)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(payer.stdout.take().unwrap());
        let mut hear = || {
            let mut line = String::new();
            let read = lines.read_line(&mut line).unwrap();
            // The harness says something too, and the last line may be cut.
            let line = line.strip_suffix('\n').unwrap_or_default();
            match line
                .split_once(' ')
                .map(|(what, n)| (what, n.parse::<u64>()))
            {
                Some(("signed", Ok(amount))) => signed = amount.max(signed),
                Some(("paid", Ok(amount))) => paid += amount,
                _ => {}
            }
            read > 0
        };
        // At another place each time.
        for _ in 0..10 + round * 7 {
            assert!(hear(), "it pays");
        }
        payer.kill().unwrap();
        while hear() {}
        payer.wait().unwrap();
        let purse = Purse::open(&path, None).unwrap();
        let unsaid = purse.balance().spent.checked_sub(paid);
        let most = u64::try_from(PAYERS).unwrap() * TOKENS;
        assert!(unsaid.is_some_and(|unsaid| unsaid <= most), "{unsaid:?}");
        paid = purse.balance().spent;
        let doubts = purse.in_doubt().map_or(0, |doubts| doubts.requests.len());
        assert!(doubts <= PAYERS * (round + 1), "{doubts} were under way");
        let next = purse.reserve("next", agreed(0)).unwrap().unwrap();
        purse.release("next").unwrap();
        assert!(next.unverified().unwrap().amount >= signed);
    }
}

/// In a process that the test above kills.
#[test]
#[ignore = "pays until it is killed"]
fn payer() {
    let Some(path) = std::env::var_os(CHANNEL) else {
        return;
    };
    let purse = Purse::open(Path::new(&path), None).unwrap();
    let pay = |payer: usize| {
        for number in 0.. {
            let name = format!("{}-{payer}-{number}", std::process::id());
            let signed = purse.reserve(&name, agreed(20)).unwrap().unwrap();
            tell("signed", signed.unverified().unwrap().amount);
            match number % 3 {
                0 => purse.release(&name).unwrap(),
                _ => tell("paid", purse.settle(&name, &receipt()).unwrap()),
            }
        }
    };
    std::thread::scope(|scope| {
        for payer in 0..PAYERS {
            scope.spawn(move || pay(payer));
        }
    });
}

fn tell(what: &str, amount: u64) {
    let line = format!("{what} {amount}\n");
    io::stdout().lock().write_all(line.as_bytes()).unwrap();
}

fn channel() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("channel.json");
    let channel = ChannelFile {
        channel: StdAddr::new(0, HashBytes([1; 32])).to_string(),
        global_id: -3,
        payee: StdAddr::new(0, HashBytes([2; 32])).to_string(),
        deposit: 1_000_000_000,
        until: u32::MAX,
        voucher_key: "key".into(),
    };
    std::fs::write(&path, serde_json::to_vec(&channel).unwrap()).unwrap();
    std::fs::write(folder.path().join("key"), "07".repeat(32)).unwrap();
    (folder, path)
}

fn agreed(limit: u64) -> Agreed {
    Agreed {
        limit,
        price: 1_000_000,
        request: Digest256::ZERO,
        receipt_key: Digest256::ZERO,
        until: u32::MAX,
    }
}

fn receipt() -> Receipt {
    let work = Work {
        model: HashBytes::ZERO,
        build: HashBytes::ZERO,
        prompt_tokens: 0,
        completion_tokens: u32::try_from(TOKENS).unwrap(),
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

/// Of each answer.
const TOKENS: u64 = 7;

const CHANNEL: &str = "COCOON_TEST_CHANNEL";
