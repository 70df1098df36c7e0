//! The thread that decodes: one step at a time, for all answers under way.
//!
//! In a step each sequence gives the model tokens that it has not seen: a piece of
//! its prompt, or the token chosen last. The room in a step is shared equally, so a
//! long prompt delays the others by little, and answers join and leave in between.
//!
//! An image is seen in the step that reads the first of its tokens that are not known,
//! which delays the others by as long as that takes.
//!
//! An answer begins when there are pages for its prompt. If pages run out later,
//! the answer that began last is put aside and read again when there is room: its
//! tokens are the same, since no bit depends on how a sequence was read.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_channel::mpsc::UnboundedSender;
use zeroize::Zeroizing;

use crate::activity::Counters;
use crate::answer::{Event, FinishReason, Usage};
use crate::deadline::Deadline;
use crate::decoder::{Decoder, Span, Workspace};
use crate::detokenizer::Detokenizer;
use crate::engine::turn;
use crate::error::EngineError;
use crate::kernel::attention::PAGE;
use crate::kernel::level::Cpu;
use crate::kernel::pool::Pool;
use crate::logprobs::{Logprob, Scores, Unsaid};
use crate::memory::{Content, Memory};
use crate::queue::Queue;
use crate::replay::Asked;
use crate::request::Tenant;
use crate::sampler::Sampler;
use crate::stop::{Said, Stop};
use crate::tokens::Tokens;
use crate::vision::{Llava, Sight};
use crate::witness::{Attended, Executed};

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
}

impl Scheduler {
    /// Works until the queue is closed and empty.
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
        }
    }

    /// Lets go of what nobody wants.
    fn release(&mut self, sequences: &mut Vec<Sequence>) {
        for sequence in sequences.extract_if(.., |s| !wanted(s.deadline, &s.events)) {
            self.memory.leave(sequence.pages);
        }
    }

    /// Fills the batch, first with what was put aside.
    fn admit(
        &mut self,
        queue: &Queue<Job>,
        running: &mut Vec<Sequence>,
        aside: &mut Vec<Sequence>,
    ) {
        while running.len() < self.batch {
            let memory = &self.memory;
            let alone = running.is_empty();
            let fits = |tokens: &[u32]| alone || memory.room() > tokens.len().div_ceil(PAGE);
            let sequence = match aside.pop() {
                Some(sequence) if fits(&sequence.tokens) => sequence,
                Some(sequence) => return aside.push(sequence),
                None => {
                    let share =
                        |tenant: &Tenant| running.iter().filter(|s| s.tenant == *tenant).count();
                    match queue.pop(share, |job| fits(&job.prompt)) {
                        Some((tenant, mut job)) => match job.replay.take() {
                            Some(Asked { answer, outcome }) => {
                                let found = self.replay(&job.prompt, &answer, job.sampler);
                                // Whoever asked may be gone.
                                drop(outcome.send(found));
                                continue;
                            }
                            None => {
                                self.counters.add_prompt(job.prompt.len());
                                Sequence::new(tenant, job)
                            }
                        },
                        None => return,
                    }
                }
            };
            running.push(sequence.recall(&mut self.memory));
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
        let mut index = 0;
        while let Some(sequence) = running.get_mut(index) {
            let missing = sequence.seen.saturating_add(sequence.next).div_ceil(PAGE);
            if sequence.pages.len() >= missing {
                index = index.saturating_add(1);
            } else if let Some(page) = self.memory.page() {
                sequence.pages.push(page);
            } else if let Some(mut last) = running.pop() {
                self.memory.leave(std::mem::take(&mut last.pages));
                (last.seen, last.next) = (0, 0);
                aside.push(last);
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

/// Divides the room in a step: a token for each answer, the rest for prompts.
fn share(running: &mut [Sequence]) {
    let mut readers = running
        .iter()
        .filter(|sequence| sequence.unseen() > 1)
        .count();
    let mut room = STEP.saturating_sub(running.len());
    for sequence in running {
        sequence.next = sequence.unseen().min(1);
        if let Some(part) = room.checked_div(readers).filter(|_| sequence.unseen() > 1) {
            let more = sequence.unseen().saturating_sub(1).min(part);
            sequence.next = sequence.next.saturating_add(more);
            room = room.saturating_sub(more);
            readers = readers.saturating_sub(1);
        }
    }
}

/// An answer under way.
struct Sequence {
    tenant: Tenant,
    /// The prompt, and the answer so far.
    tokens: Zeroizing<Vec<u32>>,
    sights: Vec<Sight>,
    /// Tokens that the model has read.
    seen: usize,
    /// Tokens that it reads in this step.
    next: usize,
    pages: Vec<usize>,
    sampler: Sampler,
    /// The next token, once all have been read.
    chosen: Result<u32, EngineError>,
    over: bool,
    text: Detokenizer,
    stop: Stop,
    logprobs: Option<usize>,
    unsaid: Unsaid,
    max_tokens: usize,
    usage: Usage,
    deadline: Deadline,
    attended: Option<Attended>,
    events: UnboundedSender<Result<Event, EngineError>>,
}

impl Sequence {
    fn new(tenant: Tenant, job: Job) -> Self {
        Self {
            tenant,
            usage: Usage {
                prompt: job.prompt.len(),
                ..Usage::default()
            },
            tokens: {
                // More would leave a copy behind that is not wiped.
                let room = job.prompt.len().saturating_add(job.max_tokens);
                let mut tokens = Zeroizing::new(Vec::with_capacity(room));
                tokens.extend_from_slice(&job.prompt);
                tokens
            },
            sights: job.sights,
            seen: 0,
            next: 0,
            pages: Vec::new(),
            sampler: job.sampler,
            chosen: Err(EngineError::Fault),
            over: false,
            text: Detokenizer::default(),
            stop: job.stop,
            logprobs: job.logprobs,
            unsaid: Unsaid::default(),
            max_tokens: job.max_tokens,
            deadline: job.deadline,
            attended: job.attended,
            events: job.events,
        }
    }

    fn work(&self, tokens: usize) {
        if let Some(Attended { witness, .. }) = &self.attended {
            witness.work(tokens);
        }
    }

    /// Begins with what the memory holds.
    fn recall(mut self, memory: &mut Memory) -> Self {
        self.pages = memory.recall(&self.tenant, &self.tokens, &self.sights);
        self.seen = self.pages.len().saturating_mul(PAGE);
        if self.usage.completion == 0 {
            self.usage.cached = self.seen;
            self.work(self.usage.prompt);
        }
        self
    }

    fn unseen(&self) -> usize {
        self.tokens.len().saturating_sub(self.seen)
    }

    /// Whether this step reads all that is left.
    fn is_read(&self) -> bool {
        self.next > 0 && self.next == self.unseen()
    }

    fn span(&self) -> Span<'_> {
        let end = self.seen.saturating_add(self.next);
        Span {
            tokens: self.tokens.get(self.seen..end).unwrap_or_default(),
            position: self.seen,
            pages: &self.pages,
            sights: &self.sights,
            wanted: self.is_read(),
            best: self.sampler.enough().filter(|_| self.logprobs.is_none()),
        }
    }

    /// Notes what has been read; says whether a token was chosen.
    fn settle(&mut self, memory: &mut Memory) -> bool {
        let read = self.is_read();
        let first = self.seen.checked_div(PAGE).unwrap_or(0);
        self.seen = self.seen.saturating_add(self.next);
        let whole = self.tokens.get(..self.seen).unwrap_or_default();
        let contents = Content::of(whole, &self.sights);
        let mut after = first
            .checked_sub(1)
            .and_then(|before| self.pages.get(before))
            .copied();
        for (page, content) in self.pages.iter().zip(contents).skip(first) {
            memory.remember(&self.tenant, after, *page, content);
            after = Some(*page);
        }
        for sight in &mut self.sights {
            sight.forget(self.seen);
        }
        read
    }

    /// Chooses the next token.
    fn choose(&mut self, cpu: Cpu, tokens: &Tokens, logits: &mut [f32]) {
        let scores = self.logprobs.map(|_| Scores::new(logits));
        self.chosen = self.sampler.next(cpu, logits);
        if let (Some(count), Some(scores), Ok(token)) = (self.logprobs, scores, self.chosen) {
            self.unsaid.push(scores.of(tokens, token, count));
        }
    }

    /// Takes the chosen token; says whether the answer is over.
    fn advance(&mut self, tokens: &Tokens, ends: &[u32]) -> bool {
        let token = match self.chosen {
            Ok(token) => token,
            Err(error) => return self.fail(error),
        };
        self.usage.completion = self.usage.completion.saturating_add(1);
        self.work(1);
        self.tokens.push(token);
        if ends.contains(&token) {
            self.unsaid.forget_last();
            return self.finish(FinishReason::Stop);
        }
        let Some(piece) = self.text.push(tokens, token) else {
            return self.fail(EngineError::Fault);
        };
        match self.stop.push(&piece) {
            Said::More(text) => self.say(text),
            Said::Last(text) => {
                self.say(text);
                self.unsaid = Unsaid::default();
                return self.finish(FinishReason::Stop);
            }
        }
        if self.sampler.is_over() {
            return self.finish(FinishReason::Stop);
        }
        if self.usage.completion >= self.max_tokens {
            return self.finish(FinishReason::Length);
        }
        false
    }

    /// Says what was held back, and why this is the end.
    fn finish(&mut self, reason: FinishReason) -> bool {
        let text = self.stop.finish();
        let logprobs = self.unsaid.finish();
        self.tell(text, logprobs);
        let usage = self.usage;
        self.testify(reason);
        self.send(Ok(Event::Finish { reason, usage }));
        true
    }

    /// Tells the witness, before anybody can ask it.
    fn testify(&mut self, reason: FinishReason) {
        if let Some(Attended { witness, executed }) = self.attended.take() {
            let answer = self.tokens.get(self.usage.prompt..).unwrap_or_default();
            witness.tell(Executed {
                answer: Zeroizing::new(answer.to_vec()),
                reason: Some(reason),
                usage: self.usage,
                ..executed
            });
        }
    }

    /// Ends with an error.
    fn fail(&self, error: EngineError) -> bool {
        self.send(Err(error));
        true
    }

    fn say(&mut self, text: String) {
        let logprobs = self.unsaid.take(text.len());
        self.tell(text, logprobs);
    }

    fn tell(&self, text: String, logprobs: Vec<Logprob>) {
        if !text.is_empty() || !logprobs.is_empty() {
            self.send(Ok(Event::Text { text, logprobs }));
        }
    }

    /// A receiver that is gone is noticed before the next step.
    fn send(&self, event: Result<Event, EngineError>) {
        drop(self.events.unbounded_send(event));
    }
}

/// Tokens that are read in one step.
pub(crate) const STEP: usize = 256;

/// How often it is looked who is gone.
const GONE: Duration = Duration::from_millis(500);
