//! Probes: a question of the operator's own, asked of one machine and asked again of others
//! that run the same, as a client like any other.
//!
//! Each goes the way of all requests, from a new client with other secrets: proved, sealed,
//! relayed, paid from a Channel, settled. So no worker can tell it by what it is shown; who
//! reads along inside of a broken TD knows it only by its words, which are the operator's.
//! With the same seed a model on the same engine says the same, token by token. Where two
//! differ, more are asked, and two thirds decide; a machine of the operator's own decides
//! alone. A probe costs two requests, and seven where somebody differs.
//!
//! It does not establish that a machine which agrees is honest towards others. Who has most
//! of the machines has the say, unless there is one of the operator's.

mod question;
mod rounds;

use std::collections::BTreeMap;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ::scheduler::machine::{Machine, Proof};
use ::scheduler::reputation::{Event, liars};
use ::scheduler::scheduler::Scheduler as Judge;
use anyhow::{Context as _, ensure};
use attestation::appraisal::chain;
use attestation::policy::Policy;
use attestation::register::Digest256;
use clap::Args;
use sealed::Assignment;
use tokio::time::sleep;

use self::question::{Prompts, Question, said};
use self::rounds::{Candidate, Group, Rounds};
use super::agreed::SettlementError;
use super::answer::{Answer, AnswerError};
use super::purse::Purse;
use super::scheduler::{Scheduler, Url};
use super::secret::Secret;
use super::{Network, Options};
use crate::artefacts::read;
use crate::gateway::problem::Problem;

/// Whether, how often and for how much a scheduler's workers are probed.
#[derive(Args, Debug)]
pub struct ProbeArgs {
    /// Ask workers these questions, and compare their answers: a text on each line, that
    /// nobody else has and a user might ask. Without it nobody is probed.
    #[arg(long, value_name = "FILE")]
    probes: Option<PathBuf>,
    /// From one probe to the next, on average.
    #[arg(
        long,
        value_name = "SECONDS",
        default_value_t = 600,
        requires = "probes"
    )]
    probe_every: u32,
    /// A channel to pay them from, as `cocoon chain channel open --out` wrote it.
    #[arg(long, value_name = "FILE", requires_all = ["probes", "probe_max_price"])]
    probe_channel: Option<PathBuf>,
    /// Nanotons to spend of that channel, at most.
    #[arg(long, value_name = "NANOTONS", requires = "probe_channel")]
    probe_budget: Option<u64>,
    /// Nanotons for a million tokens, at most.
    #[arg(long, value_name = "NANOTONS", requires = "probes")]
    probe_max_price: Option<u64>,
    /// The operator's own machine, as /network/v1/standings names it: what it says is true,
    /// however many others say otherwise.
    #[arg(long, value_name = "MACHINE", requires = "probes")]
    probe_reference: Option<Digest256>,
    /// Where clients find the scheduler, if not where it listens.
    #[arg(long, value_name = "URL", requires = "probes")]
    probe_url: Option<Url>,
}

impl ProbeArgs {
    /// Who probes the workers of `judge`, which listens at `address`.
    pub fn open(
        self,
        judge: &Arc<Judge>,
        policy: &Arc<Policy>,
        address: SocketAddr,
    ) -> anyhow::Result<Option<Prober>> {
        let Some(probes) = self.probes else {
            return Ok(None);
        };
        let prompts = Prompts::parse(&String::from_utf8(read(&probes)?)?);
        let prompts = prompts.with_context(|| format!("{} has no text", probes.display()))?;
        let host = match address.ip().is_unspecified() {
            true => Ipv4Addr::LOCALHOST.into(),
            false => address.ip(),
        };
        let url = match self.probe_url {
            Some(url) => url,
            None => format!("http://{}", SocketAddr::new(host, address.port())).parse()?,
        };
        ensure!(
            self.probe_every > 0,
            "--probe-every 0 leaves no time between probes"
        );
        let budget = self.probe_budget;
        let purse = self.probe_channel.map(|path| Purse::open(&path, budget));
        Ok(Some(Prober {
            judge: Arc::clone(judge),
            way: Scheduler::new(url)?,
            policy: Arc::clone(policy),
            purses: purse.transpose()?.into_iter().map(Arc::new).collect(),
            prompts,
            max_price: self.probe_max_price.unwrap_or(u64::MAX),
            reference: self.probe_reference.map(Machine),
            rounds: Mutex::default(),
            every: self.probe_every.into(),
        }))
    }
}

/// Who asks.
pub struct Prober {
    judge: Arc<Judge>,
    way: Scheduler,
    policy: Arc<Policy>,
    purses: Vec<Arc<Purse>>,
    prompts: Prompts,
    max_price: u64,
    reference: Option<Machine>,
    rounds: Mutex<Rounds>,
    /// In seconds.
    every: u64,
}

impl Prober {
    /// Probes at moments that nobody can foresee, as long as it is polled.
    pub async fn run(&self) {
        loop {
            sleep(SECOND).await;
            // One second is as likely as any other, however long the last probe is ago.
            if random().is_ok_and(|random| random.checked_rem(self.every) != Some(0)) {
                continue;
            }
            match self.probe().await {
                Ok(Finding::Lied(machine)) => tracing::warn!(%machine, "a probe found a lie"),
                Ok(finding) => tracing::info!("a probe: {finding}"),
                Err(error) => tracing::info!("a probe came to nothing: {}", chain(&error)),
            }
        }
    }

    /// Asks one question of as many machines as it takes, and has what it says judged.
    pub async fn probe(&self) -> Result<Finding, ProbeError> {
        let group = self.group()?;
        let question = Question::draw(&self.prompts, &group.model)?;
        let mut answers: Vec<(Candidate, Digest256)> = Vec::new();
        let mut failed = None;
        for candidate in group.candidates.iter().take(MOST) {
            match self.ask(*candidate, &question).await {
                Ok(Heard::Said(digest)) => answers.push((*candidate, digest)),
                Ok(Heard::Lied) => return Ok(self.lied(candidate)),
                Err(error) => failed = Some(error),
            }
            match &answers[..] {
                [(_, said), (_, otherwise)] if said == otherwise => break,
                [(first, _), (other, _)] if Some(first.machine) == self.reference => {
                    return Ok(self.lied(other));
                }
                _ => {}
            }
        }
        if let (0 | 1, Some(error)) = (answers.len(), failed) {
            return Err(error);
        }
        let liars = liars(&answers).map(|liars| liars.copied().collect::<Vec<_>>());
        let Some(liars) = liars else {
            return Ok(Finding::Undecided);
        };
        for (candidate, _) in &answers {
            if !liars.contains(candidate) {
                self.judged(candidate, Event::Agreed);
            }
        }
        for liar in &liars {
            self.judged(liar, Event::Lied);
        }
        Ok(match liars.first() {
            Some(liar) => Finding::Lied(liar.machine),
            None => Finding::Agreed,
        })
    }

    /// Workers of several machines that have to say the same, and have room.
    fn group(&self) -> Result<Group, ProbeError> {
        let mut groups: BTreeMap<_, Group> = BTreeMap::new();
        for (worker, known) in self.judge.workers.all() {
            let Proof { machine, engine } = known.proof;
            let is_asked = self.judge.workers.standings().of(&machine) > 0;
            if engine.is_none() || known.offer.draining || !is_asked {
                continue;
            }
            for model in &known.offer.models {
                let price = self.judge.price(model.ask);
                if model.free == 0 || price > self.max_price {
                    continue;
                }
                let kind = (model.name.clone(), model.root.clone(), engine);
                let group = groups.entry(kind).or_default();
                group.model.clone_from(&model.name);
                group.candidates.push(Candidate {
                    worker,
                    machine,
                    price,
                });
            }
        }
        let mut rounds = self.rounds.lock().unwrap_or_else(PoisonError::into_inner);
        let groups = groups.into_values().collect();
        let drawn = rounds.draw(groups, self.reference, || random().unwrap_or_default());
        drawn.ok_or(ProbeError::Nobody)
    }

    /// As a client that was never here.
    async fn ask(&self, candidate: Candidate, question: &Question) -> Result<Heard, ProbeError> {
        let Candidate { worker, price, .. } = candidate;
        let options = Options {
            max_price: self.max_price,
            tip: 0,
            prices: None,
            answer: question.answer,
            deadline: DEADLINE,
            hedge: false,
        };
        let ways = vec![self.way.clone()];
        let (policy, purses) = (Arc::clone(&self.policy), self.purses.clone());
        let secret = Secret::random().map_err(|_| ProbeError::Random)?;
        let network = Network::new(ways, policy, purses, options, &secret);
        let known = self.judge.workers.get(&worker);
        let known = known.ok_or(ProbeError::Gone { worker })?;
        let assignment = Assignment {
            worker,
            price,
            keyset: known.keyset.text().into(),
            expires_ms: 0,
        };
        let began = Instant::now();
        let asked = network.ask(&question.request()?, &assignment).await?;
        // Where another scheduler says that it is counts for nothing.
        let proof = network.workers.all().first().and_then(|it| it.proof());
        if proof != Some(known.proof) {
            return Err(ProbeError::Elsewhere { worker });
        }
        let started = Instant::now();
        match whole(asked.answer).await {
            Ok(body) => {
                // Nobody but a prober knows that it read all the while.
                if started.elapsed() > LATE {
                    self.judged(&candidate, Event::Late);
                }
                let digest = said(&body, began.elapsed()).ok_or(ProbeError::Unread { worker })?;
                Ok(Heard::Said(digest))
            }
            // It counts otherwise than it says, which only a client can see.
            Err(AnswerError::Settlement(
                SettlementError::Counts { .. } | SettlementError::Tokens { .. },
            )) => Ok(Heard::Lied),
            Err(error) => Err(ProbeError::Answer(chain(&error))),
        }
    }

    fn lied(&self, candidate: &Candidate) -> Finding {
        self.judged(candidate, Event::Lied);
        Finding::Lied(candidate.machine)
    }

    fn judged(&self, candidate: &Candidate, event: Event) {
        self.judge
            .judged(&candidate.worker, candidate.machine, event);
    }
}

/// What a probe says.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Finding {
    /// All said the same.
    Agreed,
    /// One said otherwise than the others, or signed for other tokens than it said.
    Lied(Machine),
    /// They differ, and no two thirds of them agree.
    Undecided,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Agreed => f.write_str("all say the same"),
            Self::Lied(machine) => write!(f, "machine {machine} lied"),
            Self::Undecided => f.write_str("they differ, and too few agree"),
        }
    }
}

enum Heard {
    Said(Digest256),
    Lied,
}

/// All of an answer, settled; else it is in doubt what it cost.
async fn whole(mut answer: Answer) -> Result<Vec<u8>, AnswerError> {
    let mut body = Vec::new();
    loop {
        match answer.next().await {
            Ok(Some(bytes)) if body.len() < MAX_ANSWER => body.extend_from_slice(&bytes),
            Ok(None) => break,
            ended => return Err(ended.err().unwrap_or(AnswerError::Late)),
        }
    }
    answer.settle().await.map(|_| body)
}

fn random() -> Result<u64, ProbeError> {
    let mut bytes = [0; 8];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| ProbeError::Random)?;
    Ok(u64::from_be_bytes(bytes))
}

/// One of so many, if there are any.
fn draw(count: usize) -> Result<Option<usize>, ProbeError> {
    let random = random()?;
    let count = u64::try_from(count).unwrap_or(u64::MAX);
    let drawn = random.checked_rem(count);
    Ok(drawn.and_then(|drawn| usize::try_from(drawn).ok()))
}

/// Machines for one question.
const MOST: usize = 7;

const SECOND: Duration = Duration::from_secs(1);

const DEADLINE: Duration = Duration::from_secs(300);

/// No answer as short takes as long once it has begun.
const LATE: Duration = Duration::from_secs(30);

const MAX_ANSWER: usize = 1 << 20;

/// Why a probe says nothing.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// What there is to judge is judged as of any request.
    #[error("the answer did not come: {0}")]
    Answer(String),
    /// It proved to be on another machine, or to run something else.
    #[error("worker {worker} is not what another scheduler says")]
    Elsewhere {
        /// Who it was.
        worker: Digest256,
    },
    /// Just now.
    #[error("worker {worker} is gone")]
    Gone {
        /// Who it was.
        worker: Digest256,
    },
    /// One machine alone of each kind.
    #[error("no two machines have to say the same")]
    Nobody,
    /// Not JSON.
    #[error("a question cannot be written")]
    Question(#[source] serde_json::Error),
    /// The system gives none.
    #[error("no randomness")]
    Random,
    /// Nobody answers.
    #[error("{code}: {message}")]
    Refused {
        /// Of OpenAI's error object.
        code: String,
        /// Of OpenAI's error object.
        message: String,
    },
    /// Not an answer to a chat, but an error perhaps.
    #[error("what worker {worker} answered cannot be compared")]
    Unread {
        /// Who it was.
        worker: Digest256,
    },
}

impl From<Problem> for ProbeError {
    fn from(Problem { code, message, .. }: Problem) -> Self {
        Self::Refused { code, message }
    }
}
