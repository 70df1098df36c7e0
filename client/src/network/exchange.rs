//! One request on its way: to a scheduler, to a worker of its choice that proved itself,
//! and to another one until an answer begins.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use attestation::appraisal::chain;
use attestation::register::Digest256;
use axum::body::Bytes;
use axum::http::{HeaderMap, StatusCode, response};
use sealed::{Assignment, AssignmentRequest, Envelope, Header, RequestHead, SealError, SizeClass};

use super::Network;
use super::answer::{Answer, AnswerError};
use super::deal::{Deal, Most};
use super::purse::PurseError;
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
        let until = Instant::now().checked_add(self.options.deadline);
        let mut last = None;
        for route in self.routes() {
            let mut except: BTreeSet<_> = self.shunned();
            for _ in 0..ATTEMPTS {
                let left = until.and_then(|until| until.checked_duration_since(Instant::now()));
                let Some(left) = left.filter(|left| !left.is_zero()) else {
                    return Err(late());
                };
                let (error, next) = match self.attempt(&route, request, &except, left).await {
                    Ok(begun) => {
                        route.works();
                        return Ok(begun);
                    }
                    Err(failed) => failed,
                };
                self.usage.retried();
                let scheduler = route.scheduler().url();
                tracing::warn!(%scheduler, "tried in vain: {}", chain(&error));
                last = Some(error);
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
        Err(last.map_or_else(late, problem))
    }

    async fn attempt(
        &self,
        route: &Route,
        request: &Request,
        except: &BTreeSet<Digest256>,
        left: Duration,
    ) -> Result<Begun, Failed> {
        let purse = route.purse(&self.purses).await.map_err(elsewhere)?;
        let assignment = self.assign(route, request, except, left).await?;
        let worker = assignment.worker;
        let proved = self.workers.proved(route.scheduler(), &assignment).await;
        let proved = proved.map_err(|error| (error.into(), Next::Worker(worker)))?;
        let (envelope, sealed, opener) = self.seal(request, &assignment, &proved, left)?;
        let deal = Deal {
            purse,
            envelope,
            receipt_key: proved
                .receipt_key()
                .ok_or((AttemptError::NoReceiptKey { worker }, Next::Worker(worker)))?,
            request: Digest256::of(&sealed),
            most: request.most,
        };
        let voucher = deal.reserve().await.map_err(elsewhere)?;
        let scheduler = route.scheduler();
        let sent = scheduler.send(&deal.envelope, voucher.as_ref(), sealed, left);
        let response = match sent.await {
            Ok(response) => response,
            Err(failure) => {
                let is_refused = matches!(failure, Failure::Refused { .. });
                match is_refused {
                    true => deal.release().await,
                    false => deal.doubt().await,
                }
                let next = match &failure {
                    Failure::Refused { code, .. } if code == "not_covered" => {
                        match deal.admit_doubts().await {
                            true => Next::Same,
                            false => Next::Scheduler { broken: false },
                        }
                    }
                    Failure::Refused { .. } => Next::Worker(worker),
                    _ => Next::Scheduler { broken: true },
                };
                return Err((failure.into(), next));
            }
        };
        let begun = Answer::begin(response.into_body(), opener, deal, left).await;
        match begun {
            Ok((head, answer)) => Ok(Begun {
                head,
                answer,
                scheduler: scheduler.url().to_string(),
            }),
            Err((deal, error)) => {
                deal.doubt().await;
                Err((error.into(), Next::Worker(worker)))
            }
        }
    }

    /// A choice that keeps to what was asked for: schedulers may lie.
    async fn assign(
        &self,
        route: &Route,
        request: &Request,
        except: &BTreeSet<Digest256>,
        left: Duration,
    ) -> Result<Assignment, Failed> {
        let wanted = AssignmentRequest {
            model: request.model.clone(),
            limit: request.most.limit(),
            max_price: self.options.max_price,
            deadline_ms: millis(left),
            affinity: Some(request.affinity),
            except: except.iter().copied().take(MAX_EXCEPT).collect(),
        };
        let assigned = route.scheduler().assign(&wanted).await;
        let assignment = assigned.map_err(|failure| {
            let broken = !matches!(failure, Failure::Refused { .. });
            (failure.into(), Next::Scheduler { broken })
        })?;
        if assignment.price > self.options.max_price {
            return Err(elsewhere(AttemptError::Price {
                found: assignment.price,
                most: self.options.max_price,
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
    ) -> Result<(Envelope, Bytes, sealed::Response), Failed> {
        let (mut id, mut random) = ([0; 16], [0; 64]);
        for bytes in [&mut id[..], &mut random[..]] {
            let filled = aws_lc_rs::rand::fill(bytes);
            filled.map_err(|_| elsewhere(AttemptError::Random))?;
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
        let (sealed, opener) = sealed().map_err(|error: SealError| elsewhere(error))?;
        Ok((envelope, sealed, opener))
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
        AttemptError::Scheduler(Failure::Refused {
            status,
            code,
            message,
            retry,
        }) => {
            let problem = Problem::new(*status, code, message);
            return match retry {
                Some(retry) => problem.after(*retry),
                None => problem,
            };
        }
        AttemptError::Scheduler(_) | AttemptError::Route(RouteError::Terms(_)) => {
            (StatusCode::BAD_GATEWAY, "scheduler_unreachable")
        }
        AttemptError::Route(_) | AttemptError::Purse(_) => {
            (StatusCode::PAYMENT_REQUIRED, "not_covered")
        }
        AttemptError::Price { .. } => (StatusCode::PAYMENT_REQUIRED, "price_too_high"),
        AttemptError::Proof(_) | AttemptError::NoReceiptKey { .. } => {
            (StatusCode::BAD_GATEWAY, "worker_not_trusted")
        }
        AttemptError::Again { .. } | AttemptError::Answer(_) => {
            (StatusCode::BAD_GATEWAY, "worker_gone")
        }
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

/// Why an attempt came to nothing.
#[derive(Debug, thiserror::Error)]
pub(super) enum AttemptError {
    #[error("the scheduler chose worker {worker} again")]
    Again { worker: Digest256 },
    #[error("the worker's answer did not begin")]
    Answer(#[from] AnswerError),
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
}
