//! An answer once more: what was said is read at once, and each token compared with
//! the one that is chosen there.
//!
//! No bit depends on how a sequence was read, so the logits after a token are those
//! that the answer was made of, and the same sampler with the same seed has to choose
//! the same token. This is exact for models and settings alike; where another
//! library decides about bits (feature `cuda`), it is not promised.

use futures_channel::oneshot::Sender;
use zeroize::Zeroizing;

use crate::decoder::{Span, Workspace};
use crate::engine::turn;
use crate::error::{EngineError, RequestError};
use crate::kernel::attention::PAGE;
use crate::request::Sampling;
use crate::sampler::Sampler;
use crate::scheduler::Scheduler;

/// What is said to have been answered.
#[derive(Clone, Default)]
pub struct Replay {
    /// What the model had read.
    pub prompt: Zeroizing<Vec<u32>>,
    /// What it said then.
    pub answer: Zeroizing<Vec<u32>>,
    /// What that had to be, as [`crate::Executed`] has it.
    pub form: Option<String>,
    /// How it chose; the seed has to be there.
    pub sampling: Sampling,
}

/// The first token of an answer that this machine would not have chosen.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Difference {
    /// Its place in the answer.
    pub index: usize,
    /// What was said.
    pub found: u32,
    /// What would have been.
    pub expected: u32,
}

/// Why an answer cannot be made again.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReplayError {
    /// While it was read.
    #[error("the answer could not be read again")]
    Engine(#[source] EngineError),
    /// Then nothing says which tokens to expect.
    #[error("no seed")]
    NoSeed,
    /// No room for both, or the wrong kind of model.
    #[error("the model cannot have answered this")]
    Request(#[source] RequestError),
    /// Not one of the model's.
    #[error("token {found}, expected less than {vocabulary}")]
    Token {
        /// As it was said.
        found: u32,
        /// Tokens that the model knows.
        vocabulary: usize,
    },
}

pub(crate) type Outcome = Result<Option<Difference>, ReplayError>;

/// A replay that waits for its turn.
pub(crate) struct Asked {
    pub(crate) answer: Zeroizing<Vec<u32>>,
    pub(crate) outcome: Sender<Outcome>,
}

impl Scheduler {
    /// Reads and compares; other answers wait.
    pub(crate) fn replay(
        &mut self,
        prompt: &[u32],
        answer: &[u32],
        mut sampler: Sampler,
    ) -> Outcome {
        let tokens = Zeroizing::new([prompt, answer].concat());
        let vocabulary = self.model.shape().vocabulary;
        let known = |token: u32| usize::try_from(token).is_ok_and(|token| token < vocabulary);
        if let Some(found) = tokens.iter().copied().find(|token| !known(*token)) {
            return Err(ReplayError::Token { found, vocabulary });
        }
        // Nothing is chosen after the last token.
        let (_, read) = tokens.split_last().unwrap_or((&0, &[]));
        let pages: Vec<usize> = std::iter::from_fn(|| self.memory.page())
            .take(read.len().div_ceil(PAGE))
            .collect();
        let outcome = match pages.len() == read.len().div_ceil(PAGE) {
            true => self.compare(read, &pages, answer, &mut sampler),
            false => Err(ReplayError::Engine(EngineError::Fault)),
        };
        self.memory.leave(pages);
        outcome
    }

    fn compare(
        &mut self,
        read: &[u32],
        pages: &[usize],
        answer: &[u32],
        sampler: &mut Sampler,
    ) -> Outcome {
        let mut work = Workspace::default();
        let first = read.len().saturating_sub(answer.len());
        let (prompt, said) = read.split_at(first.saturating_add(1).min(read.len()));
        // The last token of the prompt is the first after which something is chosen.
        let (last, before) = prompt
            .split_last()
            .map_or((None, prompt), |(last, before)| (Some(*last), before));
        let mut position = 0_usize;
        for tokens in before.chunks(STEP) {
            let span = Span {
                tokens,
                position,
                pages,
                sights: &[],
                wanted: false,
                best: None,
            };
            self.logits(&[span], &mut work)?;
            position = position.saturating_add(tokens.len());
        }
        let asked: Vec<u32> = last.into_iter().chain(said.iter().copied()).collect();
        let asked = Zeroizing::new(asked);
        let mut answer = (0_usize..).zip(answer);
        let cpu = self.pool.cpu();
        let vocabulary = self.model.shape().vocabulary;
        for tokens in asked.chunks(WANTED) {
            // A span each: then the logits after every token come out of one pass.
            let spans: Vec<Span<'_>> = tokens
                .chunks(1)
                .zip(position..)
                .map(|(tokens, position)| Span {
                    tokens,
                    position,
                    pages,
                    sights: &[],
                    wanted: true,
                    best: None,
                })
                .collect();
            position = position.saturating_add(tokens.len());
            let logits = self.logits(&spans, &mut work)?;
            for (logits, (index, found)) in logits.chunks_exact_mut(vocabulary).zip(&mut answer) {
                let expected = sampler.next(cpu, logits).map_err(ReplayError::Engine)?;
                if expected != *found {
                    return Ok(Some(Difference {
                        index,
                        found: *found,
                        expected,
                    }));
                }
            }
        }
        Ok(None)
    }

    fn logits<'a>(
        &mut self,
        spans: &[Span<'_>],
        work: &'a mut Workspace,
    ) -> Result<&'a mut [f32], ReplayError> {
        let _turn = turn();
        let logits = self
            .model
            .forward(&mut self.pool, &mut self.memory, spans, work);
        logits.map_err(|_| ReplayError::Engine(EngineError::Fault))
    }
}

/// Tokens that are read in one pass.
const STEP: usize = 256;

/// Tokens after which logits are wanted in one pass: with 150,000 of them each, 40 MB.
pub(crate) const WANTED: usize = 64;
