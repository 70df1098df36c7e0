//! One request on its way: to a scheduler, to a worker of its choice that proved itself,
//! and to another one until an answer begins; if so agreed, to a second one beside the
//! first when most others have begun.

use std::collections::BTreeSet;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use attestation::appraisal::chain;
use attestation::register::Digest256;
use axum::body::Bytes;
use axum::http::{HeaderMap, StatusCode, response};
use futures_util::future::select_ok;
use scheduler::pass::Pass;
use scheduler::retry::Patience;
use sealed::{Assignment, AssignmentRequest, Envelope, Header, RequestHead, SealError, SizeClass};
use tokio::time::{sleep, timeout};

use super::Network;
use super::answer::{Answer, AnswerError};
use super::deal::{Deal, Due, Most};
use super::prices::PriceError;
use super::purse::{Purse, PurseError};
use super::route::{Route, RouteError};
use super::scheduler::Failure;
use super::workers::{ProofError, Proved};
use crate::gateway::problem::Problem;

/// What an application asks.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) path: String,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
    pub(super) model: String,
    pub(super) most: Most,
    /// Nanotons for a million tokens, for not having to wait as long.
    pub(super) tip: u64,
    /// Of its conversation: the same for all its requests.
    pub(super) affinity: Digest256,
    pub(super) tenant: [u8; 32],
}

/// An answer that has begun, and from where.
#[derive(Debug)]
pub(super) struct Begun {
    pub(super) head: response::Parts,
    pub(super) answer: Answer,
    pub(super) scheduler: String,
}

impl Network {
    /// Asks until an answer begins, or nobody is left.
    pub(super) async fn exchange(&self, request: &Request) -> Result<Begun, Problem> {
        let (asking, started) = (Asking::default(), Instant::now());
        let until = started.checked_add(self.options.deadline);
        if !self.options.hedge {
            return self.one_by_one(request, until, &asking).await;
        }
        let after = self.patience(&request.model, Patience::begin);
        let mut first = pin!(self.one_by_one(request, until, &asking));
        let begun = match timeout(after, first.as_mut()).await {
            Ok(begun) => begun,
            Err(_) if self.patience(&request.model, |patience| patience.again(1)) => {
                self.usage.hedged();
                let second = pin!(self.one_by_one(request, until, &asking));
                // The other one is dropped, and what it cost is in doubt.
                select_ok([first, second]).await.map(|(begun, _)| begun)
            }
            Err(_) => first.await,
        }?;
        self.patience(&request.model, |patience| {
            patience.first(started.elapsed());
        });
        Ok(begun)
    }

    /// Asks the worker of that assignment, and nobody else.
    pub(super) async fn ask(
        &self,
        request: &Request,
        assignment: &Assignment,
    ) -> Result<Begun, Problem> {
        let mut last = None;
        let until = Instant::now().checked_add(self.options.deadline);
        for route in self.routes() {
            // Once more, where what was in doubt is counted by now.
            for _ in 0..ATTEMPTS {
                let asked = async {
                    let purse = route.purse(&self.purses).await.map_err(elsewhere)?;
                    let asked = self.sealed(&route, purse, request, assignment, until);
                    asked.await
                };
                match asked.await {
                    Ok(begun) => return Ok(begun),
                    Err((error, next)) => {
                        last = Some(error);
                        if !matches!(next, Next::Same) {
                            break;
                        }
                    }
                }
            }
        }
        Err(last.map_or_else(late, problem))
    }

    /// Nobody who is asked for the same request beside this.
    async fn one_by_one(
        &self,
        request: &Request,
        until: Option<Instant>,
        asking: &Asking,
    ) -> Result<Begun, Problem> {
        let (mut last, started) = (None, Instant::now());
        loop {
            let round = self.round(request, until, asking, &mut last);
            if let Some(begun) = round.await {
                return Ok(begun);
            }
            match &last {
                Some(_) if left(until).is_none() => return Err(late()),
                Some(error) if error.passes() && started.elapsed() < RESTART => {
                    sleep(PAUSE).await;
                }
                _ => return Err(last.map_or_else(late, problem)),
            }
        }
    }

    /// Asks each scheduler. `last` is why the last attempt failed.
    async fn round(
        &self,
        request: &Request,
        until: Option<Instant>,
        asking: &Asking,
        last: &mut Option<AttemptError>,
    ) -> Option<Begun> {
        for route in self.routes() {
            let mut except: BTreeSet<_> = self.shunned();
            for _ in 0..ATTEMPTS {
                left(until)?;
                let mut asked = Asked::new(asking);
                let others: BTreeSet<_> = except.union(&asked.others()).copied().collect();
                let attempt = self.attempt(&route, request, &others, &mut asked, until);
                let (error, next) = match attempt.await {
                    Ok(begun) => {
                        route.works();
                        return Some(begun);
                    }
                    Err(failed) => failed,
                };
                self.usage.retried();
                let scheduler = route.scheduler().url();
                tracing::warn!(%scheduler, "tried in vain: {}", chain(&error));
                // That nobody else is left says less than why the last one failed.
                match error {
                    AttemptError::Unassigned(_) if last.is_some() => {}
                    error => *last = Some(error),
                }
                match next {
                    Next::Same => {}
                    Next::Worker(worker) => {
                        except.insert(worker);
                    }
                    Next::Scheduler { broken } => {
                        if broken {
                            route.fails();
                        }
                        break;
                    }
                }
            }
        }
        None
    }

    async fn attempt(
        &self,
        route: &Route,
        request: &Request,
        except: &BTreeSet<Digest256>,
        asked: &mut Asked<'_>,
        until: Option<Instant>,
    ) -> Result<Begun, Failed> {
        let purse = route.purse(&self.purses).await.map_err(elsewhere)?;
        let pass = pass(purse.as_deref()).map_err(elsewhere)?;
        let assigned = self.assign(route, request, except, pass.as_ref(), until);
        let assignment = assigned.await?;
        let worker = assignment.worker;
        if !asked.worker(worker) {
            return Err((AttemptError::Again { worker }, Next::Worker(worker)));
        }
        self.sealed(route, purse, request, &assignment, until).await
    }

    /// To the worker of an assignment, once it has proved itself.
    async fn sealed(
        &self,
        route: &Route,
        purse: Option<Arc<Purse>>,
        request: &Request,
        assignment: &Assignment,
        until: Option<Instant>,
    ) -> Result<Begun, Failed> {
        let worker = assignment.worker;
        let proved = self.workers.proved(route.scheduler(), assignment).await;
        let proved = proved.map_err(|error| (error.into(), Next::Worker(worker)))?;
        let left = left(until).ok_or_else(|| elsewhere(AttemptError::Late))?;
        let (envelope, sealed, opener) = self
            .seal(request, assignment, &proved, left)
            .map_err(elsewhere)?;
        let receipt_key = proved
            .receipt_key()
            .ok_or((AttemptError::NoReceiptKey { worker }, Next::Worker(worker)))?;
        let hash = Digest256::of(&sealed);
        let pass = pass(purse.as_deref()).map_err(elsewhere)?;
        let due = Due {
            fee: route.fee(),
            tip: request.tip,
        };
        let deal = Deal::new(purse, envelope, receipt_key, hash, request.most, due);
        let voucher = deal.reserve().await.map_err(elsewhere)?;
        let scheduler = route.scheduler();
        let sent = scheduler.send(
            &deal.envelope,
            pass.as_ref(),
            voucher.as_ref(),
            sealed,
            left,
        );
        let response = match sent.await {
            Ok(response) => response,
            Err(failure) => {
                let next = match &failure {
                    Failure::Refused { counted, .. } => {
                        match failure.is_final() {
                            true => deal.release().await,
                            false => deal.doubt().await,
                        }
                        match counted {
                            None => Next::Worker(worker),
                            Some(counted) if deal.refused(voucher, *counted).await => Next::Same,
                            Some(_) => Next::Scheduler { broken: false },
                        }
                    }
                    // A worker's time was over.
                    Failure::Late => Next::Scheduler { broken: false },
                    _ => Next::Scheduler { broken: true },
                };
                return Err((failure.into(), next));
            }
        };
        let begun = Answer::begin(response.into_body(), opener, deal, left).await;
        let (head, answer) = begun.map_err(|error| {
            if error.is_lie() {
                self.shun(worker);
            }
            (error.into(), Next::Worker(worker))
        })?;
        Ok(Begun {
            head,
            answer,
            scheduler: scheduler.url().to_string(),
        })
    }

    /// A choice that keeps to what was asked for: schedulers may lie.
    async fn assign(
        &self,
        route: &Route,
        request: &Request,
        except: &BTreeSet<Digest256>,
        pass: Option<&Pass>,
        until: Option<Instant>,
    ) -> Result<Assignment, Failed> {
        let most = self
            .most(&request.model, request.tip)
            .await
            .map_err(elsewhere)?;
        let left = left(until).ok_or_else(|| elsewhere(AttemptError::Late))?;
        let wanted = AssignmentRequest {
            model: request.model.clone(),
            limit: request.most.limit(),
            max_price: most,
            tip: request.tip,
            deadline_ms: millis(left),
            affinity: Some(request.affinity),
            except: except.iter().copied().take(MAX_EXCEPT).collect(),
        };
        let assigned = route.scheduler().assign(&wanted, pass).await;
        let assignment = assigned.map_err(|failure| {
            let broken = !matches!(failure, Failure::Refused { .. });
            (
                AttemptError::Unassigned(failure),
                Next::Scheduler { broken },
            )
        })?;
        if assignment.price > most {
            return Err(elsewhere(AttemptError::Price {
                found: assignment.price,
                most,
            }));
        }
        match except.contains(&assignment.worker) {
            true => Err(elsewhere(AttemptError::Again {
                worker: assignment.worker,
            })),
            false => Ok(assignment),
        }
    }

    /// Only for a worker that has proved itself.
    fn seal(
        &self,
        request: &Request,
        assignment: &Assignment,
        proved: &Arc<Proved>,
        left: Duration,
    ) -> Result<(Envelope, Bytes, sealed::Response), AttemptError> {
        let (mut id, mut random) = ([0; 16], [0; 64]);
        for bytes in [&mut id[..], &mut random[..]] {
            let filled = aws_lc_rs::rand::fill(bytes);
            filled.map_err(|_| AttemptError::Random)?;
        }
        let envelope = Envelope {
            worker: proved.key().id(),
            model: request.model.clone(),
            id,
            limit: request.most.limit(),
            price: assignment.price,
            deadline_ms: millis(left),
            class: SizeClass::of(request.body.len()),
        };
        let headers = RequestHead::HEADERS.iter().filter_map(|name| {
            let value = request.headers.get(*name)?.to_str().ok()?;
            Some(Header((*name).into(), value.into()))
        });
        let head = RequestHead {
            method: "POST".into(),
            path: request.path.clone(),
            headers: headers.collect(),
            tenant: request.tenant,
        };
        let sealed = || {
            let (mut out, mut sealer, opener) =
                sealed::seal(proved.key(), &envelope.encode(), random)?;
            sealer.chunk(&head.encode(), &mut out)?;
            sealer.last(&request.body, &mut out)?;
            Ok((out.into(), opener))
        };
        let (sealed, opener) = sealed().map_err(|error: SealError| error)?;
        Ok((envelope, sealed, opener))
    }
}

/// What shows whose turn it is.
fn pass(purse: Option<&Purse>) -> Result<Option<Pass>, PurseError> {
    purse.map(Purse::pass).transpose()
}

/// Whom a request is at.
type Asking = Mutex<BTreeSet<Digest256>>;

/// An attempt's worker among them, while it lasts.
#[derive(Debug)]
struct Asked<'a> {
    asking: &'a Asking,
    worker: Option<Digest256>,
}

impl<'a> Asked<'a> {
    const fn new(asking: &'a Asking) -> Self {
        Self {
            asking,
            worker: None,
        }
    }

    fn others(&self) -> MutexGuard<'a, BTreeSet<Digest256>> {
        self.asking.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether nobody else asks it.
    fn worker(&mut self, worker: Digest256) -> bool {
        let is_new = self.others().insert(worker);
        self.worker = is_new.then_some(worker);
        is_new
    }
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        if let Some(worker) = self.worker {
            self.others().remove(&worker);
        }
    }
}

type Failed = (AttemptError, Next);

/// Where to try next.
#[derive(Debug)]
enum Next {
    Same,
    Worker(Digest256),
    Scheduler { broken: bool },
}

fn elsewhere(error: impl Into<AttemptError>) -> Failed {
    (error.into(), Next::Scheduler { broken: false })
}

fn left(until: Option<Instant>) -> Option<Duration> {
    until.and_then(|until| until.checked_duration_since(Instant::now()))
}

fn millis(left: Duration) -> u32 {
    u32::try_from(left.as_millis()).unwrap_or(u32::MAX)
}

fn late() -> Problem {
    let message = "no answer began before the deadline";
    Problem::new(StatusCode::GATEWAY_TIMEOUT, "deadline_exceeded", message)
}

/// What the application is told of the last failure.
fn problem(error: AttemptError) -> Problem {
    let (status, code) = match &error {
        AttemptError::Scheduler(failure)
        | AttemptError::Unassigned(failure)
        | AttemptError::Proof(ProofError::Scheduler(failure))
            if let Failure::Refused {
                status,
                code,
                message,
                retry,
                ..
            } = failure =>
        {
            let problem = Problem::new(*status, code, message);
            return match retry {
                Some(retry) => problem.after(*retry),
                None => problem,
            };
        }
        AttemptError::Scheduler(_)
        | AttemptError::Unassigned(_)
        | AttemptError::Proof(ProofError::Scheduler(_))
        | AttemptError::Route(RouteError::Terms(_)) => {
            (StatusCode::BAD_GATEWAY, "scheduler_unreachable")
        }
        AttemptError::Route(RouteError::NoChannel { .. }) => {
            (StatusCode::PAYMENT_REQUIRED, "no_channel")
        }
        AttemptError::Purse(PurseError::Empty { .. }) => {
            (StatusCode::PAYMENT_REQUIRED, "purse_empty")
        }
        AttemptError::Purse(PurseError::Ended { .. }) => {
            (StatusCode::PAYMENT_REQUIRED, "channel_ended")
        }
        AttemptError::Purse(_) => (StatusCode::INTERNAL_SERVER_ERROR, "purse_failed"),
        AttemptError::Market(PriceError::None(_)) => (StatusCode::NOT_FOUND, "model_not_found"),
        AttemptError::Market(_) => (StatusCode::SERVICE_UNAVAILABLE, "price_unknown"),
        AttemptError::Price { .. } => (StatusCode::PAYMENT_REQUIRED, "price_too_high"),
        AttemptError::Proof(_) | AttemptError::NoReceiptKey { .. } => {
            (StatusCode::BAD_GATEWAY, "worker_not_trusted")
        }
        AttemptError::Again { .. } | AttemptError::Answer(_) => {
            (StatusCode::BAD_GATEWAY, "worker_gone")
        }
        AttemptError::Late => return late(),
        AttemptError::Random | AttemptError::Seal(_) => {
            (StatusCode::INTERNAL_SERVER_ERROR, "cannot_seal")
        }
    };
    Problem::new(status, code, chain(&error))
}

/// As many as schedulers read.
const MAX_EXCEPT: usize = 16;

/// With each scheduler.
const ATTEMPTS: usize = 4;

/// In which a scheduler is back, if that was all.
const RESTART: Duration = Duration::from_secs(5);

/// Before all are asked again.
const PAUSE: Duration = Duration::from_millis(250);

/// Why an attempt came to nothing.
#[derive(Debug, thiserror::Error)]
pub(super) enum AttemptError {
    #[error("the scheduler chose worker {worker} again")]
    Again { worker: Digest256 },
    #[error("the worker's answer did not begin")]
    Answer(#[from] AnswerError),
    #[error("its time was over before it was sent")]
    Late,
    #[error("what the model may cost is not known")]
    Market(#[from] PriceError),
    #[error("worker {worker} has no key for receipts")]
    NoReceiptKey { worker: Digest256 },
    #[error("the scheduler wants {found} nanotons for a million tokens, at most {most} are paid")]
    Price { found: u64, most: u64 },
    #[error("the worker did not prove itself")]
    Proof(#[from] ProofError),
    #[error("the request is not paid for")]
    Purse(#[from] PurseError),
    #[error("no randomness")]
    Random,
    #[error("the scheduler cannot be paid")]
    Route(#[from] RouteError),
    #[error("the scheduler gave no answer")]
    Scheduler(#[from] Failure),
    #[error("the request cannot be sealed")]
    Seal(#[from] SealError),
    #[error("the scheduler names no worker")]
    Unassigned(#[source] Failure),
}

impl AttemptError {
    /// Whether a scheduler that starts again is all that it takes.
    fn passes(&self) -> bool {
        match self {
            Self::Route(RouteError::Terms(failure))
            | Self::Proof(ProofError::Scheduler(failure))
            | Self::Scheduler(failure)
            | Self::Unassigned(failure) => match failure {
                Failure::Broken | Failure::Unreachable(_) => true,
                Failure::Refused { code, .. } => code == "draining",
                Failure::Garbled(_) | Failure::Late => false,
            },
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scheduler_that_is_gone_says_nothing_against_the_worker_it_named() {
        let gone = AttemptError::Proof(ProofError::Scheduler(Failure::Broken));
        assert!(gone.passes(), "it may only be starting again");
        assert_eq!(problem(gone).code, "scheduler_unreachable");
        let lie = AttemptError::Proof(ProofError::Swapped {
            found: Digest256::of(b"one"),
            expected: Digest256::of(b"two"),
        });
        assert!(!lie.passes());
        assert_eq!(problem(lie).code, "worker_not_trusted");
    }
}
