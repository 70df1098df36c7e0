//! What the ledger does, each a transaction.

use contracts::channel::Channel;
use contracts::reports::epoch;
use contracts::voucher::{Signed, Voucher};
use tycho_types::cell::HashBytes;

use super::account::{self, Account, AdmitError, Order, Standing, Sum, VoucherError};
use super::receipts::{Served, SettleError, Tree};
use super::requests::{Asked, Request, RequestKey, Stage};
use super::rows::{Book, Kept, Side};
use super::store::{Connection, StoreError};
use super::{Admission, Identity, ObserveError};

/// What an operation says, if the database did not fail.
pub(super) type Said<T, E> = Result<Result<T, E>, StoreError>;

/// A Channel as the chain has it: a new one, or one that has changed.
pub(super) fn observe(
    connection: &mut dyn Connection,
    identity: &Identity,
    channel: &Channel,
    balance: u64,
    now: u32,
) -> Said<Side, ObserveError> {
    let side = match identity.side(&channel.terms) {
        Ok(side) => side,
        Err(error) => return Ok(Err(error)),
    };
    let new = Book {
        side,
        account: Account::new(channel.clone(), balance, identity.global_id, now),
        signed: None,
        tree: Tree::default(),
    };
    let address = &channel.address.address;
    new.insert(connection)?;
    let book = Book::lock(connection, identity.global_id, address)?;
    let book = book.ok_or(StoreError::Column)?;
    // Another scheduler may have looked later.
    if book.account.seen <= now {
        new.update_chain(connection)?;
    }
    Ok(Ok(book.side))
}

/// Reserves what a request may cost, and signs for it.
pub(super) fn admit(
    connection: &mut dyn Connection,
    identity: &Identity,
    asked: &Asked,
    order: &Order,
    signed: Option<&Signed>,
    now: u32,
) -> Said<Admission, AdmitError> {
    let Asked { key, channel, .. } = asked;
    let books = both(connection, identity.global_id, &key.client, channel)?;
    let Some((mut client, mut worker)) = books else {
        return Ok(Err(AdmitError::Unknown));
    };
    let request = Request {
        key: *key,
        worker: *channel,
        limit: order.limit,
        price: order.price,
        ask: order.ask,
        stage: Stage::Open,
    };
    if let Some(known) = Request::find(connection, key)? {
        // Whoever asked first has it served, and may not have heard of it.
        let is_ours = known == request && asked.is_known(connection)?;
        let voucher = worker.signed.filter(|_| is_ours);
        let admission = voucher.map(|voucher| Admission { voucher });
        return Ok(admission.ok_or(AdmitError::Repeated));
    }
    let admitted = match admitted(&mut client, &mut worker, order, signed, now) {
        Ok(voucher) => voucher,
        Err(error) => return Ok(Err(error)),
    };
    let voucher = match worker.signed.take() {
        Some(newest) if newest.unverified().as_ref() == Ok(&admitted) => newest,
        _ => identity.sign(&admitted)?,
    };
    worker.signed = Some(voucher.clone());
    client.update(connection)?;
    worker.update(connection)?;
    request.insert(connection, asked, now)?;
    Ok(Ok(Admission { voucher }))
}

fn admitted(
    client: &mut Book,
    worker: &mut Book,
    order: &Order,
    signed: Option<&Signed>,
    now: u32,
) -> Result<Voucher, AdmitError> {
    let newest = client.account.voucher.amount;
    let is_newer = signed
        .map(|signed| client.receive(signed, now))
        .transpose()?;
    let head = worker.tree.head();
    let admitted = account::admit(&mut client.account, &mut worker.account, order, head, now);
    match (admitted, signed, is_newer) {
        (Err(AdmitError::NotCovered { standing, .. }), Some(signed), Some(false)) => {
            Err(AdmitError::Stale {
                found: signed.unverified().map_or(0, |voucher| voucher.amount),
                newest,
                standing,
            })
        }
        (admitted, ..) => admitted,
    }
}

impl Book {
    fn receive(&mut self, signed: &Signed, now: u32) -> Result<bool, VoucherError> {
        let is_newer = self.account.receive(signed, now)?;
        if is_newer {
            self.signed = Some(signed.clone());
        }
        Ok(is_newer)
    }
}

/// Takes a client's voucher without a request; says how the client stands.
pub(super) fn voucher(
    connection: &mut dyn Connection,
    identity: &Identity,
    client: &HashBytes,
    signed: &Signed,
    now: u32,
) -> Said<Standing, AdmitError> {
    let book = Book::lock(connection, identity.global_id, client)?;
    let Some(mut book) = book.filter(|book| book.side == Side::Client) else {
        return Ok(Err(AdmitError::Unknown));
    };
    match book.receive(signed, now) {
        Ok(true) => book.update(connection)?,
        Ok(false) => {}
        Err(error) => return Ok(Err(error.into())),
    }
    Ok(Ok(book.account.standing()))
}

/// Charges the client and pays the worker by a receipt.
pub(super) fn settle(
    connection: &mut dyn Connection,
    identity: &Identity,
    key: RequestKey,
    served: &Served,
    now: u32,
) -> Said<Sum, SettleError> {
    let Some((request, mut client, mut worker)) = begun(connection, identity, &key)? else {
        return Ok(Err(SettleError::Unknown));
    };
    let order = request.order();
    let (tokens, hash) = match served.check(identity.global_id, &request.worker, &order) {
        Ok(checked) => checked,
        Err(error) => return Ok(Err(error)),
    };
    match request.stage {
        Stage::Open => {}
        Stage::Released => return Ok(Err(SettleError::Released)),
        Stage::Settled => {
            let kept = Kept::find(connection, &key)?;
            return Ok(match kept.filter(|kept| kept.hash == hash) {
                Some(_) => order.used(tokens).ok_or(SettleError::Overflow),
                None => Err(SettleError::Twice),
            });
        }
    }
    if Kept::is_known(connection, &hash)? {
        return Ok(Err(SettleError::Twice));
    }
    let settled = account::settle(&mut client.account, &mut worker.account, &order, tokens);
    let Some(used) = settled else {
        return Ok(Err(SettleError::Overflow));
    };
    let kept = Kept {
        key,
        worker: request.worker,
        position: worker.tree.size,
        epoch: epoch(now),
        hash,
        served: served.clone(),
    };
    worker.tree = worker.tree.with(&hash);
    kept.insert(connection)?;
    finish(connection, request, Stage::Settled, &client, &worker)?;
    Ok(Ok(used))
}

/// Ends a request that has no receipt, and will have none: the client is charged nothing.
pub(super) fn release(
    connection: &mut dyn Connection,
    identity: &Identity,
    key: RequestKey,
) -> Said<(), SettleError> {
    let Some((request, mut client, mut worker)) = begun(connection, identity, &key)? else {
        return Ok(Err(SettleError::Unknown));
    };
    match request.stage {
        Stage::Open => {}
        Stage::Released => return Ok(Ok(())),
        Stage::Settled => return Ok(Err(SettleError::Twice)),
    }
    let order = request.order();
    let settled = account::settle(&mut client.account, &mut worker.account, &order, 0);
    if settled.is_none() {
        return Ok(Err(SettleError::Overflow));
    }
    finish(connection, request, Stage::Released, &client, &worker)?;
    Ok(Ok(()))
}

fn finish(
    connection: &mut dyn Connection,
    request: Request,
    stage: Stage,
    client: &Book,
    worker: &Book,
) -> Result<(), StoreError> {
    client.update(connection)?;
    worker.update(connection)?;
    Request { stage, ..request }.end(connection)
}

/// A request with its two books, which are locked before it is read for good.
fn begun(
    connection: &mut dyn Connection,
    identity: &Identity,
    key: &RequestKey,
) -> Result<Option<(Request, Book, Book)>, StoreError> {
    let Some(request) = Request::find(connection, key)? else {
        return Ok(None);
    };
    let books = both(connection, identity.global_id, &key.client, &request.worker)?;
    let (client, worker) = books.ok_or(StoreError::Column)?;
    let request = Request::find(connection, key)?.ok_or(StoreError::Column)?;
    Ok(Some((request, client, worker)))
}

/// A client's book and a worker's, locked in the order of their addresses, so that no two
/// transactions wait for each other.
fn both(
    connection: &mut dyn Connection,
    global_id: i32,
    client: &HashBytes,
    worker: &HashBytes,
) -> Result<Option<(Book, Book)>, StoreError> {
    let mut lock = |address| Book::lock(connection, global_id, address);
    let (client, worker) = if client <= worker {
        let client = lock(client)?;
        (client, lock(worker)?)
    } else {
        let worker = lock(worker)?;
        (lock(client)?, worker)
    };
    let client = client.filter(|book| book.side == Side::Client);
    let worker = worker.filter(|book| book.side == Side::Worker);
    Ok(client.zip(worker))
}

impl Request {
    pub(super) fn order(&self) -> Order {
        Order {
            limit: self.limit,
            price: self.price,
            ask: self.ask,
            exposure: 0,
            unseen: 0,
        }
    }
}
