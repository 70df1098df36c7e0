//! Parties of tests: keys, Channels, vouchers and receipts by number.

use chain::wallet::Key;
use contracts::channel::{Channel, STORAGE_RESERVE, Terms};
use contracts::receipt::{Receipt, Work};
use contracts::voucher::{Signed, Voucher};
use tycho_types::cell::{HashBytes, Lazy};
use tycho_types::models::StdAddr;

use super::Identity;
use super::account::STORAGE;
use super::receipts::Served;

pub(super) const NOW: u32 = 1_800_000_000;
pub(super) const UNTIL: u32 = NOW + 30 * 24 * 3600;
pub(super) const DELAY: u32 = 3600;
pub(super) const GLOBAL_ID: i32 = -777;
/// Of the scheduler.
pub(super) const OURS: u8 = 200;
/// A coin for a million tokens.
pub(super) const PRICE: u64 = 1_000_000_000;

pub(super) fn key(number: u8) -> Key {
    Key::from_seed([number; 32])
}

pub(super) fn wallet(number: u8) -> StdAddr {
    StdAddr::new(0, HashBytes([number; 32]))
}

pub(super) fn identity() -> Identity {
    Identity {
        key: key(OURS),
        payee: wallet(OURS),
        global_id: GLOBAL_ID,
    }
}

/// From a client to the scheduler.
pub(super) fn client(number: u8) -> Channel {
    channel(number, OURS)
}

/// From the scheduler to the owner of a worker.
pub(super) fn worker(number: u8) -> Channel {
    channel(OURS, number)
}

fn channel(payer: u8, payee: u8) -> Channel {
    Channel::new(Terms {
        payer: wallet(payer),
        payee: wallet(payee),
        key: key(payer).public(),
        until: UNTIL,
        delay: DELAY,
        fee: 0,
        market: wallet(payee),
    })
    .unwrap()
}

/// A balance of which so much can be claimed.
pub(super) const fn holding(amount: u64) -> u64 {
    amount + STORAGE_RESERVE + STORAGE
}

/// A payer's voucher for so many tokens at [`PRICE`].
pub(super) fn voucher(channel: &Channel, tokens: u64) -> Voucher {
    Voucher::first(GLOBAL_ID, channel.address.clone())
        .next(tokens, PRICE, NOW / 3600, HashBytes::ZERO)
        .unwrap()
}

pub(super) fn sign(number: u8, voucher: &Voucher) -> Signed {
    let hash = HashBytes(voucher.hash().unwrap());
    voucher.signed(key(number).sign(&hash)).unwrap()
}

/// What a worker says of a request by its number.
pub(super) fn receipt(channel: &Channel, number: u8, tokens: u32) -> Receipt {
    let work = Work {
        model: HashBytes([1; 32]),
        build: HashBytes([2; 32]),
        prompt_tokens: tokens / 2,
        completion_tokens: tokens - tokens / 2,
    };
    Receipt {
        global_id: GLOBAL_ID,
        channel: channel.address.clone(),
        request: HashBytes([number; 32]),
        response: HashBytes([3; 32]),
        price: PRICE,
        time: NOW,
        work: Lazy::new(&work).unwrap(),
    }
}

/// The same, signed, and seen to be about that request.
pub(super) fn served(receipt: Receipt) -> Served {
    let hash = HashBytes(receipt.hash().unwrap());
    Served {
        signature: key(WORKER_KEY).sign(&hash),
        key: key(WORKER_KEY).public(),
        request: receipt.request,
        response: receipt.response,
        receipt,
    }
}

const WORKER_KEY: u8 = 77;
