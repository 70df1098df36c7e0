//! What was executed for an answer: tokens and settings, as the engine knows them.
//!
//! It is for whoever has to vouch for the answer. Token ids are text in another
//! form: they are wiped when dropped, and in no `Debug` form.

use std::fmt;
use std::mem::take;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use zeroize::Zeroizing;

use crate::answer::{FinishReason, Usage};
use crate::request::Sampling;

/// Hears of every answer that came to its end. Its clones are one witness.
#[derive(Clone, Debug, Default)]
pub struct Witness(Arc<Mutex<Heard>>);

#[derive(Debug, Default)]
struct Heard {
    asked: usize,
    executed: Vec<Executed>,
}

/// One answer, or one text that was embedded.
pub struct Executed {
    /// Which of those that were asked for with one witness.
    pub index: usize,
    /// What the model read.
    pub prompt: Zeroizing<Vec<u32>>,
    /// Images for which some of those tokens stand.
    pub images: usize,
    /// Whether it had to be of a form, which is not kept.
    pub constrained: bool,
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

    pub(crate) fn tell(&self, executed: Executed) {
        self.heard().executed.push(executed);
    }

    fn heard(&self) -> MutexGuard<'_, Heard> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
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
