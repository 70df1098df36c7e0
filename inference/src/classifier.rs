//! The thread that recognises images, one at a time, and one of each tenant in turn.

use std::sync::Arc;
use std::time::Instant;

use futures_channel::oneshot::Sender;
use media::Pixels;

use crate::answer::Label;
use crate::deadline::Deadline;
use crate::engine::turn;
use crate::error::EngineError;
use crate::kernel::pool::Pool;
use crate::linear::{blame, is_lost};
use crate::queue::Queue;
use crate::vision::Vit;

/// Images to recognise.
pub(crate) struct Job {
    /// Each fits the model.
    pub(crate) images: Vec<Pixels>,
    /// Of the first images; the others wait.
    pub(crate) labels: Vec<Vec<Label>>,
    /// So many of the likeliest labels are wanted.
    pub(crate) top: usize,
    pub(crate) deadline: Deadline,
    pub(crate) result: Sender<Result<Vec<Vec<Label>>, EngineError>>,
}

/// Works until the queue is closed and empty, or the device is lost.
pub(crate) fn run(model: &Vit, pool: &mut Pool, queue: &Queue<Job>) {
    while queue.wait() {
        queue.retain(|job| !job.result.is_canceled());
        let Some((tenant, mut job)) = queue.pop(|_| 0, |_, _| true) else {
            continue;
        };
        let result = match job.next(model, pool) {
            Ok(()) if job.labels.len() < job.images.len() => {
                queue.put_back(tenant, job);
                continue;
            }
            Ok(()) => Ok(job.labels),
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
    /// Recognises one more image.
    fn next(&mut self, model: &Vit, pool: &mut Pool) -> Result<(), EngineError> {
        self.deadline.check(Instant::now())?;
        let image = self.images.get(self.labels.len());
        let logits = {
            let _turn = turn();
            model.logits(pool, image.ok_or(EngineError::Fault)?)
        };
        let logits = logits.map_err(|_| EngineError::Fault)?;
        if logits.iter().any(|logit| !logit.is_finite()) {
            return Err(EngineError::Fault);
        }
        self.labels
            .push(likeliest(model.labels(), &logits, self.top));
        Ok(())
    }
}

/// The likeliest labels by the softmax of their logits; of equal ones, the first.
fn likeliest(labels: &[Arc<str>], logits: &[f32], top: usize) -> Vec<Label> {
    let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let parts: Vec<_> = logits.iter().map(|logit| (logit - most).exp()).collect();
    let total: f32 = parts.iter().sum();
    let mut all: Vec<_> = labels
        .iter()
        .zip(parts)
        .map(|(name, part)| Label {
            name: Arc::clone(name),
            probability: part / total,
        })
        .collect();
    all.sort_by(|a, b| b.probability.total_cmp(&a.probability));
    all.truncate(top);
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model_dir::ModelDir;
    use crate::queue::Line as _;
    use crate::request::Tenant;
    use futures_channel::oneshot;
    use futures_executor::block_on;
    use std::time::Duration;

    #[test]
    fn when_the_device_is_lost_a_request_says_so_and_the_engine_ends() {
        let vit = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("reference/vision/vit");
        let mut pool = Pool::new(true).unwrap();
        let model = Vit::load(&mut pool, &ModelDir::new(&vit)).unwrap();
        let (queue, mut pendings) = (Queue::new(4), Vec::new());
        for _ in 0..2 {
            let (result, pending) = oneshot::channel();
            let job = Job {
                images: Vec::new(),
                labels: Vec::new(),
                top: 1,
                deadline: Deadline::after(Duration::from_secs(600)),
                result,
            };
            assert!(queue.push(Tenant::new(), job).is_ok());
            pendings.push(pending);
        }
        queue.close();
        crate::linear::lose();
        run(&model, &mut pool, &queue);
        let first = block_on(pendings.remove(0)).unwrap();
        assert_eq!(first.err(), Some(EngineError::Device));
        assert_eq!(queue.waiting(), 1);
    }

    #[test]
    fn the_likeliest_come_first_and_all_are_one() {
        let labels = ["a", "b", "c", "d"].map(Arc::from);
        let logits = [1.0, 1000.0, 1.0, 1001.0];
        let all = likeliest(&labels, &logits, 9);
        let names: Vec<_> = all.iter().map(|label| &*label.name).collect();
        assert_eq!(names, ["d", "b", "a", "c"]);
        let odds = all[0].probability / all[1].probability;
        assert!((odds - 1.0_f32.exp()).abs() < 1e-5);
        let total: f32 = all.iter().map(|label| label.probability).sum();
        assert!((total - 1.0).abs() < 1e-6);
        assert_eq!(likeliest(&labels, &logits, 2), all[..2]);
    }
}
