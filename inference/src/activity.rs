//! What an engine has done and is doing, in numbers.

use std::sync::atomic::{AtomicU64, Ordering};

/// Numbers of one model, since it was loaded.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Activity {
    /// Answers that are being made; not those that pause until they are read.
    pub running: u64,
    /// Requests that wait, and answers that were put aside for others.
    pub waiting: u64,
    /// Tokens of prompts.
    pub prompt: u64,
    /// Tokens of answers.
    pub completion: u64,
}

/// The same, while it changes.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    running: AtomicU64,
    prompt: AtomicU64,
    completion: AtomicU64,
}

impl Counters {
    pub(crate) fn activity(&self, waiting: usize) -> Activity {
        Activity {
            waiting: number(waiting),
            running: self.running.load(Ordering::Relaxed),
            prompt: self.prompt.load(Ordering::Relaxed),
            completion: self.completion.load(Ordering::Relaxed),
        }
    }

    pub(crate) fn set_running(&self, answers: usize) {
        self.running.store(number(answers), Ordering::Relaxed);
    }

    pub(crate) fn add_prompt(&self, tokens: usize) {
        self.prompt.fetch_add(number(tokens), Ordering::Relaxed);
    }

    pub(crate) fn add_completion(&self, tokens: usize) {
        self.completion.fetch_add(number(tokens), Ordering::Relaxed);
    }
}

fn number(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}
