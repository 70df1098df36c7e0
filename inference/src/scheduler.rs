//! The thread that decodes: one step at a time, for all answers under way.
//!
//! In a step each sequence gives the model the tokens that it has not seen: a
//! piece of its prompt, or the token chosen last. So a long prompt delays the
//! others by one piece only, and answers join and leave between steps.

use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::Instant;

use futures_channel::mpsc::UnboundedSender;
use zeroize::Zeroizing;

use crate::answer::{Event, FinishReason, Usage};
use crate::deadline::Deadline;
use crate::detokenizer::Detokenizer;
use crate::engine::turn;
use crate::error::EngineError;
use crate::qwen3::{Cache, Qwen3, Span};
use crate::sampler::Sampler;
use crate::stop::{Said, Stop};
use crate::tokens::Tokens;

/// One answer to make.
pub(crate) struct Job {
    pub(crate) prompt: Zeroizing<Vec<u32>>,
    /// Most tokens of the answer; with the prompt, they fit the context.
    pub(crate) max_tokens: usize,
    pub(crate) sampler: Sampler,
    pub(crate) stop: Stop,
    pub(crate) deadline: Deadline,
    pub(crate) events: UnboundedSender<Result<Event, EngineError>>,
}

/// A model and how it is used.
#[derive(Debug)]
pub(crate) struct Scheduler {
    pub(crate) model: Qwen3,
    pub(crate) tokens: std::sync::Arc<Tokens>,
    /// Tokens that end an answer.
    pub(crate) ends: Vec<u32>,
    /// Most answers at a time.
    pub(crate) batch: usize,
}

impl Scheduler {
    /// Works until the queue is closed and empty.
    pub(crate) fn run(&self, queue: &Receiver<Job>) {
        let mut running = Vec::new();
        while self.admit(queue, &mut running) {
            running.retain(Sequence::is_wanted);
            self.step(&mut running);
        }
    }

    /// Fills the batch; waits only when there is nothing else to do.
    fn admit(&self, queue: &Receiver<Job>, running: &mut Vec<Sequence>) -> bool {
        while running.len() < self.batch {
            let job = match running.is_empty() {
                true => queue.recv().map_err(|_| TryRecvError::Disconnected),
                false => queue.try_recv(),
            };
            match job {
                Ok(job) => running.push(Sequence::new(job, &self.model)),
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => return !running.is_empty(),
            }
        }
        true
    }

    fn step(&self, running: &mut Vec<Sequence>) {
        if running.is_empty() {
            return;
        }
        let mut spans: Vec<_> = running.iter_mut().map(Sequence::span).collect();
        let logits = {
            let _turn = turn();
            self.model.forward(&mut spans)
        };
        match logits {
            Ok(logits) => {
                let mut logits = logits.into_iter();
                running.retain_mut(|sequence| {
                    let logits = logits.next().unwrap_or_default();
                    match sequence.advance(&logits, self) {
                        Ok(Next::Step) => true,
                        Ok(Next::Finish(reason)) => sequence.finish(reason),
                        Err(error) => sequence.fail(error),
                    }
                });
            }
            Err(_) => running.retain(|sequence| sequence.fail(EngineError::Fault)),
        }
    }
}

/// An answer under way.
struct Sequence {
    /// Tokens that the model is to see, and how many of them it has.
    tokens: Zeroizing<Vec<u32>>,
    seen: usize,
    cache: Cache,
    sampler: Sampler,
    text: Detokenizer,
    stop: Stop,
    max_tokens: usize,
    usage: Usage,
    deadline: Deadline,
    events: UnboundedSender<Result<Event, EngineError>>,
}

enum Next {
    Step,
    Finish(FinishReason),
}

impl Sequence {
    fn new(job: Job, model: &Qwen3) -> Self {
        let prompt = job.prompt.len();
        Self {
            cache: model.cache(prompt.saturating_add(job.max_tokens)),
            tokens: job.prompt,
            seen: 0,
            sampler: job.sampler,
            text: Detokenizer::default(),
            stop: job.stop,
            max_tokens: job.max_tokens,
            usage: Usage {
                prompt,
                completion: 0,
            },
            deadline: job.deadline,
            events: job.events,
        }
    }

    /// Whether anyone still waits for it and may.
    fn is_wanted(&self) -> bool {
        match self.deadline.check(Instant::now()) {
            Ok(()) => !self.events.is_closed(),
            Err(error) => self.fail(error),
        }
    }

    /// What this sequence adds to the next step.
    fn span(&mut self) -> Span<'_> {
        let unseen = self.tokens.get(self.seen..).unwrap_or_default();
        let tokens = unseen.chunks(PIECE).next().unwrap_or_default();
        self.seen = self.seen.saturating_add(tokens.len());
        Span {
            tokens,
            cache: &mut self.cache,
        }
    }

    /// Chooses the next token, unless the prompt has not been read to its end.
    fn advance(&mut self, logits: &[f32], scheduler: &Scheduler) -> Result<Next, EngineError> {
        if self.seen < self.tokens.len() {
            return Ok(Next::Step);
        }
        let token = self.sampler.next(logits).ok_or(EngineError::Fault)?;
        self.usage.completion = self.usage.completion.saturating_add(1);
        if scheduler.ends.contains(&token) {
            return Ok(Next::Finish(FinishReason::Stop));
        }
        let piece = self.text.push(&scheduler.tokens, token);
        match self.stop.push(&piece.ok_or(EngineError::Fault)?) {
            Said::More(text) => self.say(text),
            Said::Last(text) => {
                self.say(text);
                return Ok(Next::Finish(FinishReason::Stop));
            }
        }
        if self.usage.completion >= self.max_tokens {
            return Ok(Next::Finish(FinishReason::Length));
        }
        self.tokens.clear();
        self.tokens.push(token);
        self.seen = 0;
        Ok(Next::Step)
    }

    /// Says what was held back, and why this is the end; the sequence is over.
    fn finish(&mut self, reason: FinishReason) -> bool {
        let rest = self.stop.finish();
        self.say(rest);
        self.send(Ok(Event::Finish {
            reason,
            usage: self.usage,
        }));
        false
    }

    /// Ends with an error; the sequence is over.
    fn fail(&self, error: EngineError) -> bool {
        self.send(Err(error));
        false
    }

    fn say(&self, text: String) {
        if !text.is_empty() {
            self.send(Ok(Event::Text(text)));
        }
    }

    /// A receiver that is gone is noticed before the next step.
    fn send(&self, event: Result<Event, EngineError>) {
        drop(self.events.unbounded_send(event));
    }
}

/// Tokens of a prompt that are read in one step.
const PIECE: usize = 128;
