//! One of each message and state that money is about.

use contracts::app::{self, Declare, Want, Wanted};
use contracts::cells::Bytes;
use contracts::channel::{self, Claim, Close, Report, Rest, TopUp};
use contracts::market::{self, Children, Step, Totals};
use contracts::receipt::{Receipt, Work};
use contracts::reports::{Demand, Redeemed};
use contracts::voucher::{Signed, Voucher};
use tycho_types::cell::{Cell, CellBuilder, HashBytes, Lazy};
use tycho_types::models::StdAddr;

use super::{Reader, dict, read};

pub(crate) fn samples(seed: [u8; 32], some: bool) -> Vec<(&'static str, Cell, Reader)> {
    let hash = HashBytes(seed);
    let address = StdAddr::new(0, hash);
    let number = u64::from_be_bytes(seed[..8].try_into().unwrap());
    let short = u32::from_be_bytes(seed[8..12].try_into().unwrap());
    let voucher = Voucher {
        global_id: -239,
        channel: address.clone(),
        epoch: short,
        cap: number,
        amount: number,
        tokens: number,
        receipts: hash,
    };
    let signed = voucher.signed([seed[0]; 64]).unwrap();
    let rest = Rest {
        payer: address.clone(),
        market: address.clone(),
        until: short,
        delay: short,
    };
    let channel = channel::State {
        paid: number,
        held: number,
        ends: short,
        payee: address.clone(),
        key: hash,
        fee: 10,
        rest: Lazy::new(&rest).unwrap(),
        reported: number,
        tokens: number,
    };
    let children = Children::new(address.clone(), address.clone()).unwrap();
    let terms = market::Terms {
        model: hash,
        gpu: Bytes([seed[1]; 16]),
        capacity: short,
        stake: number,
        ceiling: number,
        children: Lazy::new(&children).unwrap(),
    };
    let totals = Totals {
        epoch: short,
        price: number,
        workers: short,
        wanted: number,
        tokens: number,
        amount: number,
        reports: short,
        head: hash,
        before: hash,
    };
    let wanted = Wanted {
        market: address.clone(),
        model: hash,
        requests_per_day: short,
        tokens_per_request: short,
    };
    let work = Work {
        model: hash,
        build: hash,
        prompt_tokens: short,
        completion_tokens: short,
    };
    let wants = Lazy::new(&wanted).unwrap();
    let query_id = number;
    samples! {
        Voucher = voucher;
        Signed = signed.clone();
        channel::State = channel.clone();
        Rest = rest;
        Claim = Claim { query_id, voucher: signed.clone() };
        Report = Report { query_id, voucher: signed };
        TopUp = TopUp { query_id };
        Close = Close { query_id };
        Redeemed = Redeemed {
            query_id,
            amount: number,
            tokens: number,
            fee: number,
            receipts: hash,
            reporter: address.clone(),
            first: Lazy::new(&channel).unwrap(),
        };
        app::State = app::State {
            owner: address.clone(),
            declared: short,
            wanted: some.then(|| wants.clone()),
        };
        Wanted = wanted;
        Want = Want { query_id, wanted: wants };
        Declare = Declare { query_id };
        app::Leave = app::Leave { query_id };
        Demand = Demand {
            query_id,
            epoch: short,
            owner: address.clone(),
            model: hash,
            tokens: number,
            deposit: number,
        };
        market::State = market::State {
            asks: dict(seed[2], short),
            peaks: dict(seed[3], hash),
            last: some.then(|| Lazy::new(&totals).unwrap()),
            ..market::State::new(short, number, &terms).unwrap()
        };
        market::Terms = terms;
        Children = children;
        Totals = totals;
        Step = Step { query_id };
        Work = work;
        Receipt = Receipt {
            global_id: -3,
            channel: address,
            request: hash,
            response: hash,
            price: number,
            time: short,
            work: Lazy::new(&work).unwrap(),
        };
    }
}
