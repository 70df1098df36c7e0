//! Engines that make images.

use std::sync::Arc;

use futures_channel::oneshot;

use super::{Engine, HEAVY, Kind, Limits, Loaded, Task, enqueue, run};
use crate::answer::Pending;
use crate::deadline::Deadline;
use crate::diffusion::{Diffusion, Job, PictureRequest, Pictures, Prompts, Scheduler, Worker};
use crate::error::{LoadError, RequestError};
use crate::kernel::pool::Pool;
use crate::model_dir::ModelDir;
use crate::queue::Queue;

/// What its requests need.
pub(super) struct Generation {
    prompts: Prompts,
    /// Pixels that a side is a multiple of, and those that it has at most.
    sides: (usize, usize),
    pub(super) queue: Arc<Queue<Job>>,
}

impl Generation {
    pub(super) fn load(
        mut pool: Pool,
        dir: &ModelDir,
        limits: &Limits,
    ) -> Result<Loaded, LoadError> {
        let model = Diffusion::load(&mut pool, dir)?;
        let prompts = Prompts::load(dir, model.vocabulary(), model.context())?;
        let (tally, context, sides) = (model.tally().clone(), model.context(), model.sides());
        let worker = Worker {
            model,
            scheduler: Scheduler::load(dir)?,
            pool,
        };
        Ok(Loaded {
            architecture: Diffusion::ARCHITECTURE,
            tally,
            context,
            kind: Kind::Generation(Box::new(Self {
                prompts,
                sides,
                queue: run(limits.queue.min(HEAVY), move |jobs| worker.run(jobs))?,
            })),
        })
    }
}

impl Engine {
    /// Queues images of a text.
    pub fn picture(&self, request: PictureRequest) -> Result<Pending<Pictures>, RequestError> {
        let Kind::Generation(model) = &self.kind else {
            return Err(self.wrong_task(Task::Generation));
        };
        let size = request.check(model.sides)?;
        let seed = match request.seed {
            Some(seed) => seed,
            None => getrandom::u64().map_err(|_| RequestError::NoRandomness)?,
        };
        if request.prompt.trim().is_empty() {
            return Err(RequestError::Empty {
                parameter: "prompt",
            });
        }
        let (result, pending) = oneshot::channel();
        let job = Job {
            prompt: model.prompts.encode(&request.prompt)?,
            negative: model.prompts.encode(&request.negative)?,
            count: request.count,
            size,
            steps: request.steps,
            guidance: request.guidance,
            seed,
            deadline: Deadline::after(self.limits.time),
            result,
        };
        enqueue(&model.queue, request.tenant, job)?;
        Ok(Pending { result: pending })
    }
}
