//! An answer under way: what was read and said of it, and where its keys and values are.

use std::time::Instant;

use zeroize::Zeroizing;

use super::Job;
use super::accounts::SLICE;
use crate::answer::{Event, FinishReason, Usage};
use crate::channel::Sender;
use crate::deadline::Deadline;
use crate::decoder::Span;
use crate::detokenizer::Detokenizer;
use crate::error::EngineError;
use crate::kernel::attention::PAGE;
use crate::kernel::level::Cpu;
use crate::logprobs::{Logprob, Scores, Unsaid};
use crate::memory::{Content, Memory};
use crate::request::Tenant;
use crate::sampler::Sampler;
use crate::stop::{Said, Stop};
use crate::tokens::Tokens;
use crate::vision::Sight;
use crate::witness::{Attended, Executed};

/// An answer that has begun.
pub(crate) struct Sequence {
    pub(super) tenant: Tenant,
    /// Of all answers, which.
    pub(super) began: u64,
    /// The prompt, and the answer so far.
    pub(super) tokens: Zeroizing<Vec<u32>>,
    pub(super) sights: Vec<Sight>,
    /// Tokens that the model has read.
    pub(super) seen: usize,
    /// Tokens that it reads in this step.
    pub(super) next: usize,
    pub(super) pages: Vec<usize>,
    sampler: Sampler,
    /// The next token, once all have been read.
    chosen: Result<u32, EngineError>,
    pub(super) over: bool,
    text: Detokenizer,
    stop: Stop,
    logprobs: Option<usize>,
    unsaid: Unsaid,
    pub(super) max_tokens: usize,
    /// Tokens that had been said when it began, or was taken up again.
    said: usize,
    pub(super) usage: Usage,
    pub(super) deadline: Deadline,
    attended: Option<Attended>,
    pub(super) events: Sender,
}

impl Sequence {
    pub(super) fn new(tenant: Tenant, began: u64, job: Job) -> Self {
        if let Some(Attended { witness, .. }) = &job.attended {
            witness.read(&job.prompt);
        }
        Self {
            tenant,
            began,
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
            said: 0,
            deadline: job.deadline,
            attended: job.attended,
            events: job.events,
        }
    }

    /// Begins with what the memory holds.
    pub(super) fn recall(&mut self, memory: &mut Memory) {
        self.pages = memory.recall(&self.tenant, &self.tokens, &self.sights);
        self.seen = self.pages.len().saturating_mul(PAGE);
        self.said = self.usage.completion;
    }

    /// Gives back its pages; it will read again what it had read.
    pub(super) fn forget(&mut self, memory: &mut Memory) {
        memory.leave(std::mem::take(&mut self.pages));
        (self.seen, self.next) = (0, 0);
    }

    /// Whether it has said enough since then for having read so much.
    pub(super) fn had_its_slice(&self) -> bool {
        self.usage.completion.saturating_sub(self.said) >= SLICE
    }

    /// Pages that it was promised and does not have yet.
    pub(super) fn missing(&self) -> usize {
        let pages = self.tokens.len().div_ceil(PAGE);
        pages.saturating_sub(self.pages.len())
    }

    /// Pages that both share: with what stands before them they are the same.
    pub(super) fn begins_as(&self, other: &Self) -> usize {
        let both = self.pages.iter().zip(&other.pages);
        both.take_while(|(own, other)| own == other).count()
    }

    /// Whether the next step reads more than there are pages for.
    pub(super) fn lacks_pages(&self) -> bool {
        self.pages.len() < self.seen.saturating_add(self.next).div_ceil(PAGE)
    }

    pub(super) fn unseen(&self) -> usize {
        self.tokens.len().saturating_sub(self.seen)
    }

    /// Whether this step reads all that is left.
    pub(super) fn is_read(&self) -> bool {
        self.next > 0 && self.next == self.unseen()
    }

    pub(super) fn span(&self) -> Span<'_> {
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
    pub(super) fn settle(&mut self, memory: &mut Memory) -> bool {
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
    pub(super) fn choose(&mut self, cpu: Cpu, tokens: &Tokens, logits: &mut [f32]) {
        let scores = self.logprobs.map(|_| Scores::new(logits));
        self.chosen = self.sampler.next(cpu, logits);
        if let (Some(count), Some(scores), Ok(token)) = (self.logprobs, scores, self.chosen) {
            self.unsaid.push(scores.of(tokens, token, count));
        }
    }

    /// Takes the chosen token; says whether the answer is over.
    pub(super) fn advance(&mut self, tokens: &Tokens, ends: &[u32]) -> bool {
        let token = match self.chosen {
            Ok(token) => token,
            Err(error) => return self.fail(error),
        };
        self.usage.completion = self.usage.completion.saturating_add(1);
        if let Some(Attended { witness, .. }) = &self.attended {
            witness.say();
        }
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

    /// Whether anyone still waits for it and may.
    pub(super) fn is_wanted(&mut self) -> bool {
        match self.deadline.check(Instant::now()) {
            Ok(()) => !self.events.is_closed(),
            Err(error) => !self.end(error),
        }
    }

    /// Ends before it is over: with what was made, where that is paid for.
    pub(super) fn end(&mut self, error: EngineError) -> bool {
        let attended = self.attended.as_ref();
        match attended.is_some_and(|attended| attended.witness.has_earned()) {
            true => self.finish(FinishReason::Length),
            false => self.fail(error),
        }
    }

    /// Says what was held back, and why this is the end.
    fn finish(&mut self, reason: FinishReason) -> bool {
        let text = self.stop.finish();
        let logprobs = self.unsaid.finish();
        self.tell(text, logprobs);
        let usage = self.usage;
        self.testify(reason);
        self.events.send(Ok(Event::Finish { reason, usage }));
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
    pub(super) fn fail(&self, error: EngineError) -> bool {
        self.events.send(Err(error));
        true
    }

    fn say(&mut self, text: String) {
        let logprobs = self.unsaid.take(text.len());
        self.tell(text, logprobs);
    }

    fn tell(&self, text: String, logprobs: Vec<Logprob>) {
        if !text.is_empty() || !logprobs.is_empty() {
            self.events.send(Ok(Event::Text { text, logprobs }));
        }
    }
}

/// Keeps sequences in the order in which they began.
pub(super) fn insert(sequences: &mut Vec<Sequence>, sequence: Sequence) {
    let place = sequences.partition_point(|other| other.began < sequence.began);
    sequences.insert(place, sequence);
}
