//! What was executed for an answer: tokens and settings, as the engine knows them.
//!
//! It is for whoever has to vouch for the answer, and says how much of it is paid for.
//! Token ids are text in another form: they are wiped when dropped, and in no `Debug`
//! form.

use std::fmt;
use std::mem::take;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use zeroize::Zeroizing;

use crate::answer::{FinishReason, Usage};
use crate::deadline::Deadline;
use crate::error::RequestError;
use crate::request::Sampling;

/// Hears of every answer that came to its end. Its clones are one witness.
#[derive(Clone, Debug, Default)]
pub struct Witness {
    bounds: Option<Bounds>,
    heard: Arc<Mutex<Heard>>,
}

/// What is paid for: of all answers with one witness together.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Bounds {
    /// Most tokens that are read and made; a prompt of several answers is read once.
    pub tokens: usize,
    /// When all has to be said.
    pub until: Instant,
}

#[derive(Default)]
struct Heard {
    asked: usize,
    executed: Vec<Executed>,
    /// What was promised to answers, of what the bounds allow.
    promised: usize,
    /// What was asked last.
    prompt: Zeroizing<Vec<u32>>,
    /// What was begun last.
    read: Zeroizing<Vec<u32>>,
    worked: usize,
    /// Whether a token was made.
    said: bool,
}

/// One answer, or one text that was embedded.
pub struct Executed {
    /// Which of those that were asked for with one witness.
    pub index: usize,
    /// What the model read.
    pub prompt: Zeroizing<Vec<u32>>,
    /// Images for which some of those tokens stand.
    pub images: usize,
    /// What it had to be, if it had to be of a form, in the grammar library's words.
    pub form: Option<Zeroizing<String>>,
    /// What it said, a token that ended the answer included; nothing of an embedder.
    pub answer: Zeroizing<Vec<u32>>,
    /// How tokens were chosen: complete, but for an embedder.
    pub sampling: Sampling,
    /// Whether the engine made up the seed.
    pub own_seed: bool,
    /// Most tokens that the answer could have.
    pub max_tokens: usize,
    /// Texts that would have ended it.
    pub stop: Vec<String>,
    /// Why it ended; nothing of an embedder.
    pub reason: Option<FinishReason>,
    /// What it cost.
    pub usage: Usage,
}

impl Witness {
    /// One that sees to it that no more is done than this.
    #[must_use]
    pub fn within(bounds: Bounds) -> Self {
        Self {
            bounds: Some(bounds),
            ..Self::default()
        }
    }

    /// Tokens that were read and made, for answers that did not come to their end too.
    #[must_use]
    pub fn worked(&self) -> usize {
        self.heard().worked
    }

    /// What was heard since the last time, in the order in which it was asked for.
    #[must_use]
    pub fn take(&self) -> Vec<Executed> {
        let mut executed = take(&mut self.heard().executed);
        executed.sort_by_key(|executed| executed.index);
        executed
    }

    /// The number of the next answer.
    pub(crate) fn ask(&self) -> usize {
        let mut heard = self.heard();
        let index = heard.asked;
        heard.asked = index.saturating_add(1);
        index
    }

    /// Promises an answer as many tokens as it asks for, or as are left of `room`.
    pub(crate) fn allow(
        &self,
        prompt: &[u32],
        asked: Option<usize>,
        room: usize,
    ) -> Result<usize, RequestError> {
        let Some(Bounds { tokens, .. }) = self.bounds else {
            return Ok(asked.unwrap_or(room));
        };
        let mut heard = self.heard();
        let read = match *heard.prompt == prompt {
            true => 0,
            false => prompt.len(),
        };
        let left = tokens.saturating_sub(heard.promised);
        let most = left.saturating_sub(read).min(room);
        // An answer has a token at least.
        let answer = asked.unwrap_or(most.max(1));
        let wanted = read.saturating_add(answer);
        if wanted > left {
            return Err(RequestError::Limit {
                found: wanted,
                left,
            });
        }
        heard.promised = heard.promised.saturating_add(wanted);
        heard.prompt = Zeroizing::new(prompt.to_vec());
        Ok(answer)
    }

    /// Promises that so many tokens may be read.
    pub(crate) fn allow_texts(&self, found: usize) -> Result<(), RequestError> {
        match self.bounds {
            Some(Bounds { tokens, .. }) if found > tokens => Err(RequestError::Limit {
                found,
                left: tokens,
            }),
            _ => Ok(()),
        }
    }

    /// Whether tokens were made that are paid for.
    pub(crate) fn has_earned(&self) -> bool {
        self.bounds.is_some() && self.heard().said
    }

    /// So long from now, or sooner.
    pub(crate) fn deadline(witness: Option<&Self>, limit: Duration) -> Deadline {
        let bounds = witness.and_then(|witness| witness.bounds);
        let left = bounds.map(|bounds| bounds.until.saturating_duration_since(Instant::now()));
        Deadline::after(left.map_or(limit, |left| left.min(limit)))
    }

    /// An answer to this prompt begins.
    pub(crate) fn read(&self, prompt: &[u32]) {
        let mut heard = self.heard();
        if *heard.read != prompt {
            heard.worked = heard.worked.saturating_add(prompt.len());
            heard.read = Zeroizing::new(prompt.to_vec());
        }
    }

    /// A token was made.
    pub(crate) fn say(&self) {
        let mut heard = self.heard();
        heard.worked = heard.worked.saturating_add(1);
        heard.said = true;
    }

    pub(crate) fn tell(&self, executed: Executed) {
        self.heard().executed.push(executed);
    }

    fn heard(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Heard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Heard")
            .field("asked", &self.asked)
            .field("promised", &self.promised)
            .field("worked", &self.worked)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Executed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Executed")
            .field("index", &self.index)
            .field("reason", &self.reason)
            .field("usage", &self.usage)
            .finish_non_exhaustive()
    }
}

/// An answer that somebody vouches for, while it is made.
pub(crate) struct Attended {
    pub(crate) witness: Witness,
    pub(crate) executed: Executed,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn within(tokens: usize) -> Witness {
        let until = Instant::now();
        Witness::within(Bounds { tokens, until })
    }

    #[test]
    fn answers_share_what_is_paid_for_and_their_prompt_counts_once() {
        let refusal = |found, left| RequestError::Limit { found, left };
        let limit = |found, left| Err(refusal(found, left));
        let witness = within(10);
        assert_eq!(witness.allow(&[1, 2], Some(3), 99), Ok(3));
        assert_eq!(witness.allow(&[1, 2], Some(3), 99), Ok(3));
        assert_eq!(witness.allow(&[1, 2], Some(3), 99), limit(3, 2));
        assert_eq!(witness.allow(&[1, 2], None, 99), Ok(2));
        assert_eq!(witness.allow(&[1, 2], None, 99), limit(1, 0));
        assert_eq!(within(10).allow(&[1; 10], None, 99), limit(11, 10));
        assert_eq!(within(10).allow(&[1; 9], None, 99), Ok(1));
        assert_eq!(within(99).allow(&[1], None, 5), Ok(5), "the context's");
        assert_eq!(Witness::default().allow(&[1], None, 5), Ok(5));
        assert_eq!(within(10).allow_texts(10), Ok(()));
        assert_eq!(within(10).allow_texts(11), Err(refusal(11, 10)));
    }

    #[test]
    fn a_prompt_of_several_answers_is_work_once() {
        let witness = Witness::default();
        for prompt in [&[1, 2], &[1, 2], &[1, 3]] {
            witness.read(prompt);
            witness.say();
        }
        assert_eq!(witness.worked(), 2 + 2 + 3);
    }

    #[test]
    fn only_tokens_that_are_made_and_paid_for_earn() {
        let (paid, free) = (within(10), Witness::default());
        for witness in [&paid, &free] {
            witness.read(&[1, 2]);
            assert!(!witness.has_earned());
            witness.say();
        }
        assert!(paid.has_earned() && !free.has_earned());
    }

    #[test]
    fn nobody_waits_longer_than_was_agreed() {
        let hour = Duration::from_secs(3600);
        let deadline = Witness::deadline(Some(&within(1)), hour);
        assert!(deadline.check(Instant::now()).is_err());
        for free in [None, Some(&Witness::default())] {
            assert!(Witness::deadline(free, hour).check(Instant::now()).is_ok());
        }
    }
}
