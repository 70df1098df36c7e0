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
//! nobody else was promised. Whoever has the fewest answers under way is next; if there
//! is no room, the answers that began last of the tenant with the most are put aside for
//! it, and so they are if pages run out later. They are read again when there is room:
//! their tokens are the same, since no bit depends on how a sequence was read. Of those
//! of one tenant, and so of all, the oldest always goes on.

mod sequence;
mod shares;

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_channel::mpsc::UnboundedSender;
use zeroize::Zeroizing;

use self::sequence::{Sequence, insert};
use self::shares::{Shares, share};
use crate::activity::Counters;
use crate::answer::Event;
use crate::deadline::Deadline;
use crate::decoder::{Decoder, Workspace};
use crate::engine::turn;
use crate::error::EngineError;
use crate::kernel::attention::PAGE;
use crate::kernel::pool::Pool;
use crate::memory::Memory;
use crate::queue::Queue;
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
    pub(crate) events: UnboundedSender<Result<Event, EngineError>>,
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
}

impl Scheduler {
    /// Works until the queue is closed and empty, or the device is lost.
    pub(crate) fn run(mut self, queue: &Queue<Job>) {
        let mut running = Vec::new();
        let mut aside = Vec::new();
        let mut work = Workspace::default();
        let mut looked = Instant::now();
        loop {
            #[cfg(any(test, feature = "cuda"))]
            self.model.wipe(&mut self.memory);
            if running.is_empty() && aside.is_empty() {
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
            queue.retain(|job| wanted(job.deadline, &job.events));
            self.release(&mut running);
            self.release(&mut aside);
            self.admit(queue, &mut running, &mut aside);
            let under_way = running.len().saturating_add(aside.len());
            self.counters.set_running(under_way);
            self.step(&mut running, &mut aside, &mut work);
            if self.model.is_lost() {
                for sequence in running.drain(..).chain(aside) {
                    sequence.fail(EngineError::Device);
                }
                return;
            }
        }
    }

    /// Lets go of what nobody wants.
    fn release(&mut self, sequences: &mut Vec<Sequence>) {
        for sequence in sequences.extract_if(.., |s| !wanted(s.deadline, &s.events)) {
            self.memory.leave(sequence.pages);
        }
    }

    /// Fills the batch: of tenants with equally many answers under way, first with what
    /// was put aside.
    fn admit(
        &mut self,
        queue: &Queue<Job>,
        running: &mut Vec<Sequence>,
        aside: &mut Vec<Sequence>,
    ) {
        loop {
            let shares = Shares::of(running);
            let back = (0..)
                .zip(aside.iter())
                .map(|(place, s)| (shares.get(&s.tenant), place));
            let back: Option<(usize, usize)> = back.min();
            let next = queue.pop(
                |tenant| shares.get(tenant),
                |share, job| {
                    back.is_none_or(|(least, _)| share < least)
                        && self.make_room(running, aside, share, &job.prompt)
                },
            );
            let sequence = match (next, back) {
                (Some((tenant, mut job)), _) => match job.replay.take() {
                    Some(Asked { answer, outcome }) => {
                        let found = self.replay(&job.prompt, &answer, job.sampler);
                        // Whoever asked may be gone.
                        drop(outcome.send(found));
                        continue;
                    }
                    None => {
                        self.counters.add_prompt(job.prompt.len());
                        self.begun = self.begun.saturating_add(1);
                        let mut new = Sequence::new(tenant, self.begun, job);
                        new.recall(&mut self.memory);
                        new.usage.cached = new.seen;
                        new
                    }
                },
                (None, Some((share, place))) => {
                    let mut old = aside.remove(place);
                    if !self.make_room(running, aside, share, &old.tokens) {
                        return insert(aside, old);
                    }
                    old.recall(&mut self.memory);
                    old
                }
                (None, None) => return,
            };
            insert(running, sequence);
        }
    }

    /// Whether there is room for one more that reads `tokens`, of a tenant with `share`
    /// answers under way; to that end, puts aside the last ones of whoever has the most
    /// as long as they are more by two.
    fn make_room(
        &mut self,
        running: &mut Vec<Sequence>,
        aside: &mut Vec<Sequence>,
        share: usize,
        tokens: &[u32],
    ) -> bool {
        let Some((heaviest, most)) = Shares::of(running).most() else {
            return true;
        };
        let promised = running.iter().map(Sequence::missing).sum();
        let mut room = self.memory.room().saturating_sub(promised);
        let mut places = self.batch.saturating_sub(running.len());
        let theirs = running.iter().rev().filter(|s| s.tenant == heaviest);
        let spare = most.saturating_sub(share).saturating_sub(1);
        let mut theirs = theirs.take(spare);
        let mut taken = 0_usize;
        while places == 0 || room <= tokens.len().div_ceil(PAGE) {
            let Some(last) = theirs.next() else {
                return false;
            };
            let pages = last.pages.len().saturating_add(last.missing());
            room = room.saturating_add(pages);
            places = places.saturating_add(1);
            taken = taken.saturating_add(1);
        }
        for _ in 0..taken {
            self.put_aside(running, aside, &heaviest);
        }
        true
    }

    /// Puts aside what this tenant began last.
    fn put_aside(
        &mut self,
        running: &mut Vec<Sequence>,
        aside: &mut Vec<Sequence>,
        tenant: &Tenant,
    ) {
        if let Some(place) = running.iter().rposition(|s| s.tenant == *tenant) {
            let mut last = running.remove(place);
            self.memory.leave(std::mem::take(&mut last.pages));
            (last.seen, last.next) = (0, 0);
            insert(aside, last);
        }
    }

    fn step(
        &mut self,
        running: &mut Vec<Sequence>,
        aside: &mut Vec<Sequence>,
        work: &mut Workspace,
    ) {
        share(running);
        self.provide(running, aside);
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

    /// Finds pages for what the next step reads.
    fn provide(&mut self, running: &mut Vec<Sequence>, aside: &mut Vec<Sequence>) {
        while let Some(sequence) = running.iter_mut().find(|s| s.lacks_pages()) {
            if let Some(page) = self.memory.page() {
                sequence.pages.push(page);
            } else if let Some((heaviest, _)) = Shares::of(running).most() {
                self.put_aside(running, aside, &heaviest);
            }
        }
    }
}

/// Whether anyone still waits for it and may.
fn wanted(deadline: Deadline, events: &UnboundedSender<Result<Event, EngineError>>) -> bool {
    match deadline.check(Instant::now()) {
        Ok(()) => !events.is_closed(),
        Err(error) => {
            // A receiver that is gone does not mind.
            drop(events.unbounded_send(Err(error)));
            false
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
    use crate::decoder::tests::Reader;
    use crate::generation::Generation;
    use crate::kernel::level::Cpu;
    use crate::model_dir::ModelDir;
    use crate::queue::Line as _;
    use crate::request::Sampling;
    use futures_channel::mpsc;

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
            };
            let queue = Queue::new(4);
            let mut answers = Vec::new();
            for _ in 0..2 {
                let (events, answer) = mpsc::unbounded();
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
                assert!(queue.push(Tenant::new(), job).is_ok());
                answers.push(answer);
            }
            // One is under way, the other waits.
            scheduler.run(&queue);
            let mut last = None;
            while let Ok(event) = answers[0].try_recv() {
                last = Some(event);
            }
            assert_eq!(last, Some(Err(EngineError::Device)), "{launches}");
            assert_eq!(queue.waiting(), 1);
        }
    }
}
