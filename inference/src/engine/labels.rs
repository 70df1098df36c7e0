//! Engines that recognise images.

use std::sync::Arc;

use futures_channel::oneshot;
use media::Image;

use super::{Engine, Kind, Limits, Loaded, Task, check_room, enqueue, run};
use crate::answer::{Label, Pending};
use crate::classifier::{self, Job};
use crate::deadline::Deadline;
use crate::error::{LoadError, RequestError};
use crate::kernel::pool::Pool;
use crate::model_dir::ModelDir;
use crate::queue::Queue;
use crate::request::Tenant;
use crate::vision::{Processor, Vit};

/// What its requests need.
pub(super) struct Classification {
    processor: Arc<Processor>,
    pub(super) queue: Arc<Queue<Job>>,
}

impl Classification {
    pub(super) fn load(
        mut pool: Pool,
        dir: &ModelDir,
        limits: &Limits,
    ) -> Result<Loaded, LoadError> {
        let model = Vit::load(&mut pool, dir)?;
        Ok(Loaded {
            architecture: Vit::ARCHITECTURE,
            tally: model.tally().clone(),
            context: 0,
            kind: Kind::Classification(Self {
                processor: model.processor(),
                queue: run(limits.queue, move |jobs| {
                    classifier::run(&model, &mut pool, jobs);
                })?,
            }),
        })
    }
}

impl Engine {
    /// Queues images, of each of which the `top` likeliest labels are wanted; all or
    /// none. Decodes them here, so that what is no image fails at once.
    pub fn classify(
        &self,
        tenant: Tenant,
        images: &[Image],
        top: usize,
    ) -> Result<Pending<Vec<Vec<Label>>>, RequestError> {
        let Kind::Classification(model) = &self.kind else {
            return Err(self.wrong_task(Task::Classification));
        };
        if images.is_empty() {
            return Err(RequestError::Empty { parameter: "input" });
        }
        check_room(&model.queue, &tenant)?;
        let (result, pending) = oneshot::channel();
        let job = Job {
            images: model.processor.fit_all(images.iter())?,
            labels: Vec::new(),
            top,
            deadline: Deadline::after(self.limits.time),
            result,
        };
        enqueue(&model.queue, tenant, job)?;
        Ok(Pending { result: pending })
    }
}
