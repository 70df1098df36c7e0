//! The thread that embeds, one text at a time.

use std::sync::mpsc::Receiver;
use std::time::Instant;

use futures_channel::oneshot::Sender;
use zeroize::Zeroizing;

use crate::answer::{Embeddings, Usage};
use crate::bert::Bert;
use crate::deadline::Deadline;
use crate::engine::turn;
use crate::error::EngineError;

/// Texts to embed.
pub(crate) struct Job {
    /// Each has at least one token and fits the context.
    pub(crate) texts: Vec<Zeroizing<Vec<u32>>>,
    pub(crate) deadline: Deadline,
    pub(crate) result: Sender<Result<Embeddings, EngineError>>,
}

/// Works until the queue is closed and empty.
pub(crate) fn run(model: &Bert, queue: &Receiver<Job>) {
    for job in queue {
        let result = embed(model, &job);
        // Whoever asked may be gone.
        drop(job.result.send(result));
    }
}

fn embed(model: &Bert, job: &Job) -> Result<Embeddings, EngineError> {
    let mut vectors = Vec::with_capacity(job.texts.len());
    let mut prompt = 0_usize;
    for tokens in &job.texts {
        job.deadline.check(Instant::now())?;
        if job.result.is_canceled() {
            return Err(EngineError::Stopped);
        }
        let vector = {
            let _turn = turn();
            model.embed(tokens)
        };
        let vector = vector.map_err(|_| EngineError::Fault)?;
        if vector.iter().any(|x| !x.is_finite()) {
            return Err(EngineError::Fault);
        }
        vectors.push(vector);
        prompt = prompt.saturating_add(tokens.len());
    }
    let usage = Usage {
        prompt,
        completion: 0,
    };
    Ok(Embeddings { vectors, usage })
}
