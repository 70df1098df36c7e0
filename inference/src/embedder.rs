//! The thread that embeds, one text at a time, and one of each tenant in turn.

use std::time::Instant;

use futures_channel::oneshot::Sender;
use zeroize::Zeroizing;

use crate::answer::{Embeddings, Usage};
use crate::bert::Bert;
use crate::deadline::Deadline;
use crate::engine::turn;
use crate::error::EngineError;
use crate::kernel::pool::Pool;
use crate::linear::{blame, is_lost};
use crate::queue::Queue;
use crate::request::Sampling;
use crate::witness::{Executed, Witness};

/// Texts to embed.
pub(crate) struct Job {
    /// Each has at least one token and fits the context.
    pub(crate) texts: Vec<Zeroizing<Vec<u32>>>,
    /// Of the first texts; the others wait.
    pub(crate) vectors: Vec<Vec<f32>>,
    pub(crate) deadline: Deadline,
    pub(crate) witness: Option<Witness>,
    pub(crate) result: Sender<Result<Embeddings, EngineError>>,
}

/// Works until the queue is closed and empty, or the device is lost.
pub(crate) fn run(model: &Bert, pool: &mut Pool, queue: &Queue<Job>) {
    while queue.wait() {
        queue.retain(|job| !job.result.is_canceled());
        let Some((tenant, mut job)) = queue.pop(|_| 0, |_, _| true) else {
            continue;
        };
        let result = match job.next(model, pool) {
            Ok(()) if job.vectors.len() < job.texts.len() => {
                queue.put_back(tenant, job);
                continue;
            }
            Ok(()) => Ok(Embeddings {
                usage: job.usage(),
                vectors: job.vectors,
            }),
            Err(error) => Err(blame(error)),
        };
        // Whoever asked may be gone.
        drop(job.result.send(result));
        if is_lost() {
            return;
        }
    }
}

impl Job {
    /// Embeds one more text.
    fn next(&mut self, model: &Bert, pool: &mut Pool) -> Result<(), EngineError> {
        self.deadline.check(Instant::now())?;
        let tokens = self.texts.get(self.vectors.len());
        let vector = {
            let _turn = turn();
            model.embed(pool, tokens.ok_or(EngineError::Fault)?)
        };
        let vector = vector.map_err(|_| EngineError::Fault)?;
        if vector.iter().any(|x| !x.is_finite()) {
            return Err(EngineError::Fault);
        }
        self.vectors.push(vector);
        if self.vectors.len() == self.texts.len() {
            self.testify();
        }
        Ok(())
    }

    /// Tells the witness, before anybody can ask it.
    fn testify(&self) {
        let Some(witness) = &self.witness else {
            return;
        };
        for tokens in &self.texts {
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
                usage: usage(tokens.len()),
            });
        }
    }

    fn usage(&self) -> Usage {
        usage(self.texts.iter().map(|text| text.len()).sum())
    }
}

fn usage(prompt: usize) -> Usage {
    Usage {
        prompt,
        ..Usage::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::Line as _;
    use crate::request::Tenant;
    use futures_channel::oneshot;
    use futures_executor::block_on;
    use std::time::Duration;

    #[test]
    fn when_the_device_is_lost_a_request_says_so_and_the_engine_ends() {
        let mut pool = Pool::new(true).unwrap();
        let (queue, mut pendings) = (Queue::new(4), Vec::new());
        for _ in 0..2 {
            let (result, pending) = oneshot::channel();
            let job = Job {
                texts: Vec::new(),
                vectors: Vec::new(),
                deadline: Deadline::after(Duration::from_secs(600)),
                witness: None,
                result,
            };
            assert!(queue.push(Tenant::new(), job).is_ok());
            pendings.push(pending);
        }
        queue.close();
        crate::linear::lose();
        run(&Bert::bare(), &mut pool, &queue);
        let first = block_on(pendings.remove(0)).unwrap();
        assert_eq!(first.err(), Some(EngineError::Device));
        assert_eq!(queue.waiting(), 1);
    }
}
