//! The thread that decodes: one step at a time, for all answers under way.
//!
//! In a step each sequence gives the model tokens that it has not seen: a piece of
//! its prompt, or the token chosen last. The room in a step is shared equally among
//! tenants, and by each among its prompts, so that a long prompt or many delay the
//! others by little, and answers join and leave in between.
//!
//! An image is seen in the step that reads the first of its tokens that are not known,
//! which delays the others by as long as that takes.
//!
//! An answer begins when there is a place in the batch, and pages for its prompt that
//! nobody else was promised. Whoever has had and holds the least room is next
//! ([`accounts`]); if there is none, the answers that began last of whoever has had and
//! holds the most are put aside for it, and so they are if pages run out later. They
//! wait in the queue again, before others of their tenant, and are read again when it is
//! their turn: their tokens are the same, since no bit depends on how a sequence was
//! read.
//!
//! Nothing waits for ever, however others come and go. What has no room lets a bounded
//! number pass, who have not had much more, and then all wait until it has; a tenant's only answer says [`SLICE`]
//! tokens before it gives way, so that reading it was not in vain.
//!
//! What is not read is not made: an answer whose reader is behind pauses ([`paused`]).

mod accounts;
#[cfg(test)]
mod fairness;
mod paused;
mod sequence;
mod shares;

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use zeroize::Zeroizing;

pub(crate) use self::accounts::Accounts;
use self::accounts::SLICE;
use self::paused::Paused;
use self::sequence::{Sequence, insert};
use self::shares::{Shares, share};
use crate::activity::Counters;
use crate::answer::{Event, FinishReason, Usage};
use crate::channel::Sender;
use crate::deadline::Deadline;
use crate::decoder::{Decoder, Workspace};
use crate::engine::turn;
use crate::error::EngineError;
use crate::kernel::attention::PAGE;
use crate::kernel::pool::Pool;
use crate::memory::Memory;
use crate::queue::{Line as _, Queue};
use crate::replay::Asked;
use crate::request::Tenant;
use crate::sampler::Sampler;
use crate::stop::Stop;
use crate::tokens::Tokens;
use crate::vision::{Llava, Sight};
use crate::witness::Attended;

/// One answer to make.
pub(crate) struct Job {
    pub(crate) prompt: Zeroizing<Vec<u32>>,
    /// Images in the prompt.
    pub(crate) sights: Vec<Sight>,
    /// Most tokens of the answer; with the prompt, they fit context and memory.
    pub(crate) max_tokens: usize,
    pub(crate) sampler: Sampler,
    pub(crate) stop: Stop,
    /// As in the request.
    pub(crate) logprobs: Option<usize>,
    pub(crate) deadline: Deadline,
    pub(crate) attended: Option<Attended>,
    /// Not to be answered, but compared with this.
    pub(crate) replay: Option<Asked>,
    pub(crate) events: Sender,
}

impl Job {
    /// Whether anyone still waits for it and may.
    fn is_wanted(&self) -> bool {
        match self.deadline.check(Instant::now()) {
            Ok(()) => !self.events.is_closed(),
            Err(error) => {
                self.end(error);
                false
            }
        }
    }

    /// Ends without a word. Others of the same request that are paid for are not lost by it.
    fn end(&self, error: EngineError) {
        let attended = self.attended.as_ref();
        let finish = Event::Finish {
            reason: FinishReason::Length,
            usage: Usage::default(),
        };
        let has_earned = attended.is_some_and(|attended| attended.witness.has_earned());
        self.events.send(has_earned.then_some(finish).ok_or(error));
    }
}

/// What waits.
pub(crate) enum Work {
    New(Job),
    /// Put aside.
    Begun(Sequence),
}

impl Work {
    /// Tokens to read.
    fn tokens(&self) -> usize {
        match self {
            Self::New(job) => {
                let answer = job.replay.as_ref().map_or(0, |asked| asked.answer.len());
                job.prompt.len().saturating_add(answer)
            }
            Self::Begun(sequence) => sequence.tokens.len(),
        }
    }

    fn is_wanted(&mut self) -> bool {
        match self {
            Self::New(job) => job.is_wanted(),
            Self::Begun(sequence) => sequence.is_wanted(),
        }
    }
}

/// A model and how it is used.
#[derive(Debug)]
pub(crate) struct Scheduler {
    pub(crate) model: Decoder,
    /// What sees, if anything does.
    pub(crate) tower: Option<Llava>,
    pub(crate) pool: Pool,
    pub(crate) memory: Memory,
    pub(crate) tokens: Arc<Tokens>,
    /// Tokens that end an answer.
    pub(crate) ends: Vec<u32>,
    /// Most answers at a time.
    pub(crate) batch: usize,
    pub(crate) counters: Arc<Counters>,
    /// Answers that were ever begun.
    pub(crate) begun: u64,
    pub(crate) accounts: Accounts,
}

impl Scheduler {
    /// Works until the queue is closed and empty, or the device is lost. What is paused by
    /// then has ended.
    pub(crate) fn run(mut self, queue: &Queue<Work>) {
        let mut running: Vec<Sequence> = Vec::new();
        let mut paused = Paused::default();
        let mut work = Workspace::default();
        let mut looked = Instant::now();
        loop {
            #[cfg(any(test, feature = "cuda"))]
            self.model.wipe(&mut self.memory);
            paused.release(queue);
            if running.is_empty() {
                self.counters.set_running(0);
                // Made of what was read and said.
                work = Workspace::default();
                #[cfg(any(test, feature = "cuda"))]
                self.model.clear();
                if !queue.wait_for(GONE) {
                    return;
                }
            }
            if looked.elapsed() >= GONE {
                self.memory.forget_gone();
                looked = Instant::now();
            }
            queue.retain(Work::is_wanted);
            for sequence in running.extract_if(.., |s| !s.is_wanted()) {
                self.memory.leave(sequence.pages);
            }
            self.admit(queue, &mut running);
            self.counters.set_running(running.len());
            self.step(queue, &mut running, &mut work);
            paused.take(&mut running, &mut self.memory, queue.limit());
            if self.model.is_lost() {
                paused.fail(EngineError::Device);
                for sequence in running {
                    sequence.fail(EngineError::Device);
                }
                queue.retain(|work| match work {
                    Work::New(_) => true,
                    Work::Begun(sequence) => !sequence.fail(EngineError::Device),
                });
                return;
            }
        }
    }

    /// Fills the batch, and charges for it if some have to wait.
    fn admit(&mut self, queue: &Queue<Work>, running: &mut Vec<Sequence>) {
        while queue.waiting() > 0 {
            let all: Vec<_> = running.iter().collect();
            let shares = self.shares(&all);
            let mut aside = Vec::new();
            // Nobody passes whoever stands lower by a slice of all pages.
            let slice = self.memory.limit().saturating_mul(SLICE);
            let mut most = usize::MAX;
            let next = queue.pop(
                |tenant| self.standing(&shares, tenant),
                |standing, work| {
                    let tokens = work.tokens();
                    let found = match standing <= most {
                        true => self.find_room(all.clone(), &shares, standing, tokens),
                        false => None,
                    };
                    let fits = found.is_some();
                    match found {
                        Some(found) => aside = found,
                        None => most = most.min(standing.saturating_add(slice)),
                    }
                    fits
                },
            );
            let Some((tenant, work)) = next else {
                return self.accounts.charge(&shares, &queue.tenants());
            };
            for began in aside {
                self.put_aside(queue, running, began);
            }
            let sequence = match work {
                Work::New(mut job) => {
                    if let Some(Asked { answer, outcome }) = job.replay.take() {
                        let found = self.replay(&job.prompt, &answer, job.sampler);
                        // Whoever asked may be gone.
                        drop(outcome.send(found));
                        continue;
                    }
                    self.counters.add_prompt(job.prompt.len());
                    self.begun = self.begun.saturating_add(1);
                    let mut new = Sequence::new(tenant, self.begun, job);
                    new.recall(&mut self.memory);
                    new.usage.cached = new.seen;
                    new
                }
                Work::Begun(mut old) => {
                    old.recall(&mut self.memory);
                    old
                }
            };
            insert(running, sequence);
        }
    }

    /// Which of these answers have to be put aside for one that reads so many tokens, of
    /// a tenant that stands here; `None` if it has to wait.
    fn find_room(
        &self,
        mut left: Vec<&Sequence>,
        shares: &Shares,
        standing: usize,
        tokens: usize,
    ) -> Option<Vec<u64>> {
        let pages = tokens.div_ceil(PAGE);
        let after = standing.saturating_add(shares.one_more(pages).saturating_mul(SLICE));
        let mut shares = Cow::Borrowed(shares);
        let mut aside = Vec::new();
        loop {
            // A page more, or it would be put aside at once.
            let room = self.memory.limit().saturating_sub(shares.pages());
            if left.is_empty() || left.len() < self.batch && room > pages {
                return Some(aside);
            }
            let last = left.remove(self.heaviest(&left, &shares)?);
            shares = Cow::Owned(self.shares(&left));
            if self.standing(&shares, &last.tenant) < after {
                return None;
            }
            aside.push(last.began);
        }
    }

    /// Where the last answer is of the tenant that stands highest, but for those that
    /// have no other and have only begun.
    fn heaviest(&self, running: &[&Sequence], shares: &Shares) -> Option<usize> {
        let mut ready = Vec::new();
        for (tenant, _) in shares.each() {
            let place = running.iter().rposition(|s| s.tenant == *tenant)?;
            if shares.answers(tenant) > 1 || running.get(place)?.had_its_slice() {
                ready.push((self.standing(shares, tenant), place));
            }
        }
        ready.into_iter().max().map(|(_, place)| place)
    }

    fn shares(&self, running: &[&Sequence]) -> Shares {
        Shares::of(running, self.batch, self.memory.limit())
    }

    fn standing(&self, shares: &Shares, tenant: &Tenant) -> usize {
        self.accounts.standing(tenant, shares.get(tenant))
    }

    /// Puts aside what began then.
    fn put_aside(&mut self, queue: &Queue<Work>, running: &mut Vec<Sequence>, began: u64) {
        for mut sequence in running.extract_if(.., |sequence| sequence.began == began) {
            sequence.forget(&mut self.memory);
            queue.put_back(sequence.tenant.clone(), Work::Begun(sequence));
        }
    }

    fn step(&mut self, queue: &Queue<Work>, running: &mut Vec<Sequence>, work: &mut Workspace) {
        share(running);
        self.provide(queue, running);
        let _turn = turn();
        self.look(running);
        let spans: Vec<_> = running.iter().map(Sequence::span).collect();
        if spans.is_empty() {
            return;
        }
        let logits = self
            .model
            .forward(&mut self.pool, &mut self.memory, &spans, work);
        drop(spans);
        let Ok(logits) = logits else {
            if self.model.is_lost() {
                return;
            }
            for sequence in running.drain(..) {
                sequence.fail(EngineError::Fault);
                self.memory.leave(sequence.pages);
            }
            return;
        };
        let chosen = running.iter_mut().filter(|sequence| sequence.is_read());
        let vocabulary = self.model.shape().vocabulary;
        let mut chosen: Vec<_> = chosen.zip(logits.chunks_exact_mut(vocabulary)).collect();
        let (cpu, tokens) = (self.pool.cpu(), &self.tokens);
        self.pool.each_mut(&mut chosen, |_, (sequence, logits)| {
            sequence.choose(cpu, tokens, logits);
        });
        self.counters.add_completion(chosen.len());
        for sequence in running.iter_mut() {
            let read = sequence.settle(&mut self.memory);
            sequence.over = read && sequence.advance(&self.tokens, &self.ends);
        }
        for sequence in running.extract_if(.., |sequence| sequence.over) {
            self.memory.leave(sequence.pages);
        }
    }

    /// Sees the images that the next step reads, each for itself.
    fn look(&mut self, running: &mut Vec<Sequence>) {
        let Some(tower) = &self.tower else {
            return;
        };
        for sequence in running.extract_if(.., |sequence| {
            let tokens = sequence.seen..sequence.seen.saturating_add(sequence.next);
            let mut sights = sequence.sights.iter_mut();
            !sights.all(|sight| sight.look(tower, &mut self.pool, &tokens))
        }) {
            sequence.fail(EngineError::Fault);
            self.memory.leave(sequence.pages);
        }
    }

    /// Finds pages for what the next step reads. Where all have only begun, the one that
    /// began last gives way.
    fn provide(&mut self, queue: &Queue<Work>, running: &mut Vec<Sequence>) {
        while let Some(sequence) = running.iter_mut().find(|s| s.lacks_pages()) {
            if let Some(page) = self.memory.page() {
                sequence.pages.push(page);
                continue;
            }
            let all: Vec<_> = running.iter().collect();
            let last = match self.heaviest(&all, &self.shares(&all)) {
                Some(place) => all.get(place),
                None => all.last(),
            };
            if let Some(began) = last.map(|last| last.began) {
                self.put_aside(queue, running, began);
            }
        }
    }
}

/// Tokens that are read in one step.
pub(crate) const STEP: usize = 256;

/// How often it is looked who is gone.
const GONE: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::channel::channel;
    use crate::decoder::tests::Reader;
    use crate::generation::Generation;
    use crate::kernel::level::Cpu;
    use crate::model_dir::ModelDir;
    use crate::request::Sampling;
    use futures_util::{FutureExt as _, StreamExt as _};

    #[test]
    fn when_the_device_is_lost_the_answers_say_so_and_the_engine_ends() {
        for launches in [1, 7, 200] {
            let reader = Reader::tiny(1, Cpu::detect());
            let Reader {
                model,
                pool,
                memory,
                ..
            } = reader.on(gpu::Double::breaking_after(launches), true);
            let dir = ModelDir::new(&crate::self_test::tiny());
            let scheduler = Scheduler {
                tokens: Arc::new(Tokens::load(&dir, model.shape().vocabulary).unwrap()),
                model,
                tower: None,
                pool,
                memory,
                ends: Vec::new(),
                batch: 1,
                counters: Arc::default(),
                begun: 0,
                accounts: Accounts::default(),
            };
            let queue = Arc::new(Queue::new(4));
            let mut answers = Vec::new();
            for _ in 0..2 {
                let (events, answer) = channel(queue.clone());
                let prompt = Zeroizing::new(vec![5, 6, 7]);
                let defaults = Generation::load(&dir).unwrap().defaults;
                let sampler = defaults.sampler(Sampling::default(), &prompt);
                let job = Job {
                    sampler: sampler.unwrap(),
                    prompt,
                    sights: Vec::new(),
                    max_tokens: 500,
                    stop: Stop::new(Vec::new()),
                    logprobs: None,
                    deadline: Deadline::after(Duration::from_secs(600)),
                    attended: None,
                    replay: None,
                    events,
                };
                assert!(queue.push(Tenant::new(), Work::New(job)).is_ok());
                answers.push(answer);
            }
            // One is under way, the other waits.
            scheduler.run(&queue);
            let mut last = None;
            while let Some(Some(event)) = answers[0].next().now_or_never() {
                last = Some(event);
            }
            assert_eq!(last, Some(Err(EngineError::Device)), "{launches}");
            assert_eq!(queue.waiting(), 1);
        }
    }
}
