//! The thread that embeds, one text at a time.

use std::time::Instant;

use futures_channel::oneshot::Sender;
use zeroize::Zeroizing;

use crate::answer::{Embeddings, Usage};
use crate::bert::Bert;
use crate::deadline::Deadline;
use crate::engine::turn;
use crate::error::EngineError;
use crate::kernel::pool::Pool;
use crate::queue::Queue;
use crate::request::Sampling;
use crate::witness::{Executed, Witness};

/// Texts to embed.
pub(crate) struct Job {
    /// Each has at least one token and fits the context.
    pub(crate) texts: Vec<Zeroizing<Vec<u32>>>,
    pub(crate) deadline: Deadline,
    pub(crate) witness: Option<Witness>,
    pub(crate) result: Sender<Result<Embeddings, EngineError>>,
}

/// Works until the queue is closed and empty.
pub(crate) fn run(model: &Bert, pool: &mut Pool, queue: &Queue<Job>) {
    while queue.wait() {
        if let Some((_, job)) = queue.pop(|_| 0, |_| true) {
            let result = embed(model, pool, &job);
            // Whoever asked may be gone.
            drop(job.result.send(result));
        }
    }
}

fn embed(model: &Bert, pool: &mut Pool, job: &Job) -> Result<Embeddings, EngineError> {
    let mut vectors = Vec::with_capacity(job.texts.len());
    let mut prompt = 0_usize;
    for tokens in &job.texts {
        job.deadline.check(Instant::now())?;
        if job.result.is_canceled() {
            return Err(EngineError::Stopped);
        }
        let vector = {
            let _turn = turn();
            model.embed(pool, tokens)
        };
        let vector = vector.map_err(|_| EngineError::Fault)?;
        if vector.iter().any(|x| !x.is_finite()) {
            return Err(EngineError::Fault);
        }
        vectors.push(vector);
        prompt = prompt.saturating_add(tokens.len());
    }
    if let Some(witness) = &job.witness {
        for tokens in &job.texts {
            witness.tell(Executed {
                index: witness.ask(),
                prompt: tokens.clone(),
                images: 0,
                form: None,
                answer: Zeroizing::default(),
                sampling: Sampling::default(),
                own_seed: false,
                max_tokens: 0,
                stop: Vec::new(),
                reason: None,
                usage: Usage {
                    prompt: tokens.len(),
                    ..Usage::default()
                },
            });
        }
    }
    let usage = Usage {
        prompt,
        ..Usage::default()
    };
    Ok(Embeddings { vectors, usage })
}
