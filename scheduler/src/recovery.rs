//! Asks workers what became of requests whose end was lost, and settles or releases these.
//!
//! ```text
//! GET /network/settlements/{id}    200: what it came to, signed;  202: it is being answered;
//!                                  404: it is not, and was not
//! ```
//!
//! The worker is the one that the request was sealed to, behind the gate, so a settlement is
//! of the request that it is asked for; its receipt is checked like any, but for the hashes of
//! bytes that went by in another process. A worker that was started anew has other keys, and
//! knows of nothing: what its last life did not settle is released in the end.

use std::collections::HashMap;
use std::future::{pending, ready};
use std::time::{Duration, Instant};

use attestation::appraisal::chain;
use attestation::register::Digest256;
use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::http::StatusCode;
use futures_util::StreamExt as _;
use futures_util::stream;
use http_body_util::{BodyExt as _, Limited};
use sealed::Settlement;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tycho_types::cell::HashBytes;

use crate::books::{Books, Kept, now};
use crate::directory::Outcome;
use crate::ledger::Failed;
use crate::ledger::receipts::{Served, SettleError};
use crate::relay::{SETTLEMENTS, of_worker};
use crate::reputation::Event;
use crate::scheduler::{LONGEST, Scheduler};
use crate::settlement::{SettlementError, outcome, read, same};
use crate::unended::Lost;
use crate::workers::Worker;

/// What a worker says.
enum Told {
    Settled(Bytes),
    UnderWay,
    Unknown,
    /// Nothing.
    Away,
}

impl Scheduler {
    /// As long as it is polled.
    pub(crate) async fn recover(&self) {
        let Books::Kept(kept) = &self.books else {
            return pending().await;
        };
        // At first all that there is.
        self.look(kept, now().saturating_add(1)).await;
        let (mut looks, mut asks) = (interval(LOOK), interval(ASK));
        asks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        looks.tick().await;
        loop {
            tokio::select! {
                _ = looks.tick() => self.look(kept, now().saturating_sub(LONG)).await,
                _ = asks.tick() => {
                    let workers = by_worker(kept.requests.due(Instant::now()));
                    let workers = stream::iter(workers.into_values());
                    workers
                        .for_each_concurrent(WORKERS, |lost| self.ask_one(kept, lost))
                        .await;
                }
            }
        }
    }

    /// For what others have left, which may have died.
    async fn look(&self, kept: &Kept, before: u32) {
        match kept.ledger.unended(before).await {
            Ok(unended) => kept.requests.find(&unended, LONGEST, Instant::now(), now()),
            Err(error) => tracing::warn!("what was lost is not known: {}", chain(&error)),
        }
    }

    /// One worker about what is its, which holds up what is others' for as long as two answers
    /// at most. Of what there is no time for nothing is known, and nothing is let go of.
    async fn ask_one(&self, kept: &Kept, lost: Vec<Lost>) {
        let since = Instant::now();
        let lost = stream::iter(lost).take_while(|_| ready(since.elapsed() < PATIENCE));
        lost.for_each_concurrent(AT_ONCE, |lost| self.ask(kept, lost))
            .await;
    }

    async fn ask(&self, kept: &Kept, lost: Lost) {
        kept.requests.asked(&lost.key, Instant::now());
        let worker = self.workers.get(&lost.worker);
        let told = match &worker {
            Some(_) => self.told(&lost).await,
            None => Told::Away,
        };
        let now = Instant::now();
        let is_over = match (told, worker) {
            (Told::Settled(said), Some(worker)) => return self.settle(lost, &said, &worker).await,
            (Told::Unknown, _) => lost.never_came(now),
            (Told::Away, _) => lost.is_over(now),
            (Told::UnderWay, _) => lost.is_late(now),
            (Told::Settled(_), None) => false,
        };
        if is_over {
            self.books.release(lost.key).await;
        }
    }

    async fn told(&self, lost: &Lost) -> Told {
        let id = hex::encode(lost.key.id);
        let mut request = Request::new(Body::empty());
        *request.uri_mut() = of_worker(&format!("{SETTLEMENTS}{id}"));
        let exchange = async {
            let sent = self.fabric.send(lost.worker, request).await.ok()?;
            let (head, body) = sent.into_parts();
            let body = Limited::new(body, Settlement::MAX).collect().await.ok()?;
            Some((head.status, body.to_bytes()))
        };
        match timeout(PATIENCE, exchange).await {
            Ok(Some((StatusCode::OK, said))) => Told::Settled(said),
            Ok(Some((StatusCode::ACCEPTED, _))) => Told::UnderWay,
            Ok(Some((StatusCode::NOT_FOUND, _))) => Told::Unknown,
            _ => Told::Away,
        }
    }

    async fn settle(&self, lost: Lost, said: &[u8], worker: &Worker) {
        let served = match served(&lost, said, worker.receipt_key) {
            Ok(served) => served,
            Err(error) => {
                return self
                    .unpaid(&lost, worker, chain(&error), &thought(&error))
                    .await;
            }
        };
        let (owner, earned) = (served.receipt.channel.address, served.receipt.cost());
        match self.books.settle(lost.key, served).await {
            Ok(sum) => {
                tracing::info!(worker = %lost.worker, "settled after its end was lost");
                self.metrics.settled(sum.tokens, sum.amount, None);
                self.books
                    .seen((owner, lost.worker), earned.unwrap_or_default());
            }
            // It is asked again.
            Err(Failed::Store(error)) => tracing::warn!("not settled: {}", chain(&error)),
            Err(error) => {
                let outcome = match error {
                    // Of the same request, which its client has sent and paid twice.
                    Failed::Refused(SettleError::Twice) => Outcome::Abandoned,
                    _ => outcome(&error),
                };
                self.unpaid(&lost, worker, chain(&error), &outcome).await
            }
        }
    }

    /// The worker's word does not count: nothing is charged, as for an answer that passed.
    /// Where nobody knows what passed it may be of another client's request with this
    /// identifier, so nothing is thought of the worker, and it has its time to say more.
    async fn unpaid(&self, lost: &Lost, worker: &Worker, error: String, outcome: &Outcome) {
        tracing::warn!(worker = %lost.worker, "not paid: {error}");
        if lost.request.is_none() {
            if lost.is_over(Instant::now()) {
                self.books.release(lost.key).await;
            }
            return;
        }
        // Who is linked elsewhere is judged there.
        let is_seen = worker.at.is_none();
        for event in Event::of(outcome).filter(|_| is_seen) {
            self.judged(&lost.worker, worker.proof.machine, event);
        }
        self.books.release(lost.key).await;
    }
}

fn served(lost: &Lost, said: &[u8], key: [u8; 32]) -> Result<Served, SettlementError> {
    let (receipt, settlement) = read(said, key)?;
    if let Some(passed) = lost.request {
        same("request", receipt.request, passed)?;
    }
    let key = HashBytes(key);
    Ok(Served::told(receipt, settlement.signature, key))
}

/// What it says of a worker that a settlement does not count. Clients choose identifiers: one
/// of another request is what was asked for, and no lie.
const fn thought(error: &SettlementError) -> Outcome {
    match error {
        SettlementError::Hash { .. } => Outcome::Abandoned,
        error => error.outcome(),
    }
}

fn by_worker(all: Vec<Lost>) -> HashMap<Digest256, Vec<Lost>> {
    let mut workers: HashMap<_, Vec<_>> = HashMap::new();
    for lost in all {
        workers.entry(lost.worker).or_default().push(lost);
    }
    workers
}

/// Between two looks at what is open in the books for long.
const LOOK: Duration = Duration::from_secs(60);

/// Seconds: most answers take less, so what is open for longer may be nobody's.
const LONG: u32 = 60;

const ASK: Duration = Duration::from_millis(250);

/// Workers that are asked at a time.
const WORKERS: usize = 32;

/// Requests that one is asked about at a time.
const AT_ONCE: usize = 8;

/// For an answer, and for beginning to ask one in a row.
const PATIENCE: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    use chain::wallet::Key;
    use contracts::receipt::{Receipt, Work};
    use tycho_types::boc::Boc;
    use tycho_types::cell::{CellBuilder, Lazy};
    use tycho_types::models::StdAddr;

    use crate::ledger::RequestKey;
    use crate::unended::Requests;

    const PASSED: Digest256 = Digest256::from_bytes([5; 32]);

    /// What a worker says of a request by its hash.
    fn said(request: Digest256, key: &Key) -> Vec<u8> {
        let work = Work {
            model: HashBytes::ZERO,
            build: HashBytes::ZERO,
            prompt_tokens: 1,
            completion_tokens: 1,
        };
        let receipt = Receipt {
            global_id: -239,
            channel: StdAddr::new(0, HashBytes::ZERO),
            request: HashBytes(*request.as_bytes()),
            response: HashBytes::ZERO,
            price: 1,
            time: 1,
            work: Lazy::new(&work).unwrap(),
        };
        let hash = HashBytes(receipt.hash().unwrap());
        let settlement = Settlement {
            receipt: Boc::encode(CellBuilder::build_from(&receipt).unwrap()),
            signature: key.sign(&hash),
            tokens: 2,
        };
        settlement.encode()
    }

    fn lost(worker: u8, id: u8, request: Option<Digest256>) -> Vec<Lost> {
        let (requests, now) = (Requests::default(), Instant::now());
        let key = RequestKey {
            client: HashBytes([id; 32]),
            id: [id; 16],
        };
        let worker = Digest256::from_bytes([worker; 32]);
        requests.lose(key, worker, request, LONGEST, now);
        requests.due(now)
    }

    #[test]
    fn a_settlement_of_another_request_with_this_identifier_is_nobodys_lie() {
        let (worker, other) = (Key::from_seed([7; 32]), Key::from_seed([8; 32]));
        let of = |known, said: &[u8]| {
            let served = served(&lost(1, 1, known)[0], said, worker.public().0);
            served.map_err(|error| thought(&error))
        };
        let (mine, theirs) = (said(PASSED, &worker), said(Digest256::ZERO, &worker));
        assert_eq!(of(Some(PASSED), &mine).unwrap().request.0, [5; 32]);
        assert!(of(None, &theirs).is_ok(), "nobody knows what passed");
        assert_eq!(of(Some(PASSED), &theirs).unwrap_err(), Outcome::Abandoned);
        let forged = said(PASSED, &other);
        assert_eq!(of(Some(PASSED), &forged).unwrap_err(), Outcome::Failed);
    }

    #[test]
    fn each_worker_is_asked_about_its_own() {
        let all = [lost(1, 1, None), lost(2, 2, None), lost(1, 3, None)].concat();
        let by_worker = by_worker(all);
        let ids = |worker: u8| {
            let of = &by_worker[&Digest256::from_bytes([worker; 32])];
            of.iter().map(|lost| lost.key.id[0]).collect::<Vec<_>>()
        };
        assert_eq!((ids(1), ids(2)), (vec![1, 3], vec![2]));
    }
}
