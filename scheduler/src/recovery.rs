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

use std::future::pending;
use std::time::{Duration, Instant};

use attestation::appraisal::chain;
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
use crate::ledger::receipts::Served;
use crate::relay::{SETTLEMENTS, of_worker};
use crate::reputation::Event;
use crate::scheduler::{MAX_DEADLINE, OLD, Scheduler};
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
                    let due = stream::iter(kept.requests.due(Instant::now()));
                    due.for_each_concurrent(AT_ONCE, |lost| self.ask(lost)).await;
                }
            }
        }
    }

    /// For what others have left, which may have died.
    async fn look(&self, kept: &Kept, before: u32) {
        let longest = MAX_DEADLINE.saturating_add(OLD);
        match kept.ledger.unended(before).await {
            Ok(unended) => kept.requests.find(&unended, longest, Instant::now(), now()),
            Err(error) => tracing::warn!("what was lost is not known: {}", chain(&error)),
        }
    }

    async fn ask(&self, lost: Lost) {
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
            // What this process has lost is being answered for as long as it takes.
            (Told::UnderWay, _) => lost.request.is_none() && lost.is_over(now),
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
                    .unpaid(&lost, worker, chain(&error), &error.outcome())
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
                self.unpaid(&lost, worker, chain(&error), &outcome(&error))
                    .await
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

/// Between two looks at what is open in the books for long.
const LOOK: Duration = Duration::from_secs(60);

/// Seconds: most answers take less, so what is open for longer may be nobody's.
const LONG: u32 = 60;

const ASK: Duration = Duration::from_millis(250);

/// Workers that are asked at a time.
const AT_ONCE: usize = 32;

const PATIENCE: Duration = Duration::from_secs(5);
