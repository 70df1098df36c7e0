//! How likely each token was, by the model alone: before bias, penalties,
//! temperature and constraint.

use crate::tokens::Tokens;

/// A token of an answer and its probability.
#[derive(Clone, Debug, PartialEq)]
pub struct Logprob {
    /// The token that was chosen.
    pub chosen: Candidate,
    /// The likeliest ones, as many as were asked for, the likeliest first.
    pub top: Vec<Candidate>,
}

/// A token that could have been chosen.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    /// What it stands for; half a character is possible.
    pub bytes: Vec<u8>,
    /// Natural logarithm of its probability.
    pub logprob: f64,
}

/// Probabilities of one place in an answer, before anything is chosen there.
#[derive(Debug)]
pub(crate) struct Scores {
    logits: Vec<f32>,
    /// Logarithm of the sum of all weights.
    total: f64,
}

impl Scores {
    pub(crate) fn new(logits: &[f32]) -> Self {
        let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let weights = logits.iter().map(|logit| weight(*logit, most));
        Self {
            total: f64::from(most) + libm::log(weights.sum()),
            logits: logits.to_vec(),
        }
    }

    /// What is told of `token`, with the `count` likeliest beside it.
    pub(crate) fn of(&self, tokens: &Tokens, token: u32, count: usize) -> Logprob {
        let mut top: Vec<_> = (0_u32..).zip(&self.logits).collect();
        let order = |a: &(u32, &f32), b: &(u32, &f32)| b.1.total_cmp(a.1).then(a.0.cmp(&b.0));
        if (1..top.len()).contains(&count) {
            top.select_nth_unstable_by(count, order);
        }
        top.truncate(count);
        top.sort_unstable_by(order);
        Logprob {
            chosen: self.candidate(tokens, token),
            top: top
                .into_iter()
                .map(|(token, _)| self.candidate(tokens, token))
                .collect(),
        }
    }

    fn candidate(&self, tokens: &Tokens, token: u32) -> Candidate {
        let logit = usize::try_from(token)
            .ok()
            .and_then(|place| self.logits.get(place));
        let logit = logit.copied().unwrap_or(f32::NEG_INFINITY);
        Candidate {
            bytes: tokens.bytes(token).to_vec(),
            // JSON has no infinity; clients know this number for "never".
            logprob: (f64::from(logit) - self.total).max(NEVER),
        }
    }
}

fn weight(logit: f32, most: f32) -> f64 {
    libm::exp(f64::from(logit) - f64::from(most))
}

/// Tokens whose text has not been said yet: it may still become a stop text.
#[derive(Debug, Default)]
pub(crate) struct Unsaid {
    held: Vec<Logprob>,
    /// Bytes of what is held, without those that have been said.
    bytes: usize,
}

impl Unsaid {
    pub(crate) fn push(&mut self, logprob: Logprob) {
        self.bytes = self.bytes.saturating_add(logprob.chosen.bytes.len());
        self.held.push(logprob);
    }

    /// The tokens that `said` more bytes have begun.
    pub(crate) fn take(&mut self, said: usize) -> Vec<Logprob> {
        let left = self.bytes.saturating_sub(said);
        let mut tail = 0_usize;
        let kept = self.held.iter().rev().take_while(|logprob| {
            tail = tail.saturating_add(logprob.chosen.bytes.len());
            tail <= left
        });
        let begun = self.held.len().saturating_sub(kept.count());
        self.bytes = left;
        self.held.drain(..begun).collect()
    }

    /// The token that ends an answer is no part of it.
    pub(crate) fn forget_last(&mut self) {
        if let Some(last) = self.held.pop() {
            self.bytes = self.bytes.saturating_sub(last.chosen.bytes.len());
        }
    }

    /// All of them.
    pub(crate) fn finish(&mut self) -> Vec<Logprob> {
        std::mem::take(&mut self.held)
    }
}

/// As OpenAI writes a probability of zero.
const NEVER: f64 = -9999.0;

#[cfg(test)]
mod tests {
    use super::*;

    fn logprob(text: &str) -> Logprob {
        Logprob {
            chosen: Candidate {
                bytes: text.into(),
                logprob: 0.0,
            },
            top: Vec::new(),
        }
    }

    #[test]
    fn probabilities_add_up_and_the_likeliest_come_first() {
        let dir = crate::model_dir::ModelDir::new(&crate::self_test::tiny());
        let tokens = Tokens::load(&dir, 3072).unwrap();
        let scores = Scores::new(&[1.0, 3.0, 2.0, 3.0, f32::NEG_INFINITY]);
        let logprob = scores.of(&tokens, 2, 4);
        let logprobs: Vec<_> = logprob.top.iter().map(|top| top.logprob).collect();
        assert_eq!(logprobs[0].to_bits(), logprobs[1].to_bits());
        assert_eq!(logprobs[2].to_bits(), logprob.chosen.logprob.to_bits());
        let sum: f64 = logprobs.iter().map(|logprob| logprob.exp()).sum();
        assert!((sum - 1.0).abs() < 1e-12);
        assert!((scores.of(&tokens, 4, 0).chosen.logprob - NEVER).abs() < 1e-9);
    }

    #[test]
    fn a_token_is_told_with_the_text_that_begins_it() {
        let mut unsaid = Unsaid::default();
        unsaid.push(logprob("ab"));
        unsaid.push(logprob("cd"));
        unsaid.push(logprob("ef"));
        assert_eq!(unsaid.take(3), [logprob("ab"), logprob("cd")]);
        assert_eq!(unsaid.take(1), []);
        assert_eq!(unsaid.take(1), [logprob("ef")]);
        unsaid.push(logprob(""));
        assert_eq!(unsaid.finish(), [logprob("")]);
    }
}
