//! Engines that make images.

use std::sync::Arc;
use std::thread;

use futures_channel::oneshot;

use super::{Card, Engine, HEAVY, Info, Kind, Limits, Task, enqueue};
use crate::answer::Pending;
use crate::deadline::Deadline;
use crate::diffusion::{Diffusion, Job, PictureRequest, Pictures, Prompts, Scheduler, Worker};
use crate::error::{LoadError, RequestError};
use crate::kernel::pool::Pool;
use crate::model_dir::ModelDir;
use crate::queue::Queue;

impl Engine {
    /// Queues images of a text.
    pub fn picture(&self, request: PictureRequest) -> Result<Pending<Pictures>, RequestError> {
        let Kind::Generation {
            prompts,
            sides,
            queue,
        } = &self.kind
        else {
            return Err(self.wrong_task(Task::Generation));
        };
        let size = request.check(*sides)?;
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
            prompt: prompts.encode(&request.prompt)?,
            negative: prompts.encode(&request.negative)?,
            count: request.count,
            size,
            steps: request.steps,
            guidance: request.guidance,
            seed,
            deadline: Deadline::after(self.limits.time),
            result,
        };
        enqueue(queue, request.tenant, job)?;
        Ok(Pending { result: pending })
    }

    pub(super) fn load_generation(dir: &ModelDir, limits: Limits) -> Result<Self, LoadError> {
        let spawn = |source| LoadError::Spawn { source };
        let mut pool = Pool::new(false).map_err(spawn)?;
        let model = Diffusion::load(&mut pool, dir)?;
        let prompts = Prompts::load(dir, model.vocabulary(), model.context())?;
        let info = Info {
            task: Task::Generation,
            architecture: Diffusion::ARCHITECTURE,
            parameters: model.parameters(),
            context: model.context(),
            images: false,
            self_tested: false,
        };
        let sides = model.sides();
        let worker = Worker {
            model,
            scheduler: Scheduler::load(dir)?,
            pool,
        };
        let queue = Arc::new(Queue::new(limits.queue.min(HEAVY)));
        let jobs = Arc::clone(&queue);
        let thread = thread::Builder::new().name("engine-0".into());
        thread.spawn(move || worker.run(&jobs)).map_err(spawn)?;
        Ok(Self {
            info,
            limits,
            card: Card::default(),
            kind: Kind::Generation {
                prompts: Box::new(prompts),
                sides,
                queue,
            },
        })
    }
}
