//! The thread that makes images, one at a time.

use std::io::Cursor;
use std::time::Instant;

use candle_core::Tensor;
use futures_channel::oneshot::Sender;
use image::codecs::png::PngEncoder;
use image::{ExtendedColorType, ImageEncoder as _};
use zeroize::Zeroizing;

use super::{Diffusion, Pictures, Scheduler};
use crate::deadline::Deadline;
use crate::engine::turn;
use crate::error::EngineError;
use crate::kernel::pool::Pool;
use crate::linear::{blame, is_lost};
use crate::queue::Queue;

/// Images to be made; all has been checked.
pub(crate) struct Job {
    pub(crate) prompt: Zeroizing<Vec<u32>>,
    pub(crate) negative: Zeroizing<Vec<u32>>,
    pub(crate) count: u64,
    pub(crate) size: [usize; 2],
    pub(crate) steps: usize,
    pub(crate) guidance: f64,
    pub(crate) seed: u64,
    pub(crate) deadline: Deadline,
    pub(crate) result: Sender<Result<Pictures, EngineError>>,
}

/// What works.
pub(crate) struct Worker {
    pub(crate) model: Diffusion,
    pub(crate) scheduler: Scheduler,
    pub(crate) pool: Pool,
}

impl Worker {
    /// Works until the queue is closed and empty, or the device is lost.
    pub(crate) fn run(mut self, queue: &Queue<Job>) {
        while queue.wait() {
            queue.retain(|job| !job.result.is_canceled());
            if let Some((_, job)) = queue.pop(|_| 0, |_, _| true) {
                let result = self.pictures(&job).map_err(blame);
                // Whoever asked may be gone.
                drop(job.result.send(result));
                if is_lost() {
                    return;
                }
            }
        }
    }

    pub(super) fn pictures(&mut self, job: &Job) -> Result<Pictures, EngineError> {
        let [width, height] = job.size;
        let text = self.text(job, &job.prompt)?;
        // Without guidance the other side is not needed.
        let other = match job.guidance > 1.0 {
            true => Some(self.text(job, &job.negative)?),
            false => None,
        };
        let images = (0..job.count).map(|index| {
            let latents = self
                .model
                .latents(job.seed.wrapping_add(index), width, height);
            let latents = latents.map_err(fault)?;
            let latents = self.denoise(job, latents, &text, other.as_ref())?;
            let levels = self.levels(job, &latents)?;
            png(&levels, job.size).ok_or(EngineError::Fault)
        });
        Ok(Pictures {
            files: images.collect::<Result<_, _>>()?,
            seed: job.seed,
            size: job.size,
        })
    }

    fn text(&mut self, job: &Job, tokens: &[u32]) -> Result<Tensor, EngineError> {
        check(job)?;
        let _turn = turn();
        self.model
            .text
            .forward(&mut self.pool, tokens)
            .map_err(fault)
    }

    /// All steps, from noise on.
    pub(super) fn denoise(
        &mut self,
        job: &Job,
        noise: Tensor,
        text: &Tensor,
        other: Option<&Tensor>,
    ) -> Result<Tensor, EngineError> {
        let steps = self.scheduler.steps(job.steps);
        let mut x = noise
            .affine(self.scheduler.loudness(&steps), 0.0)
            .map_err(fault)?;
        for step in steps {
            check(job)?;
            let _turn = turn();
            let mut advance = || {
                let shown = self.scheduler.shown(step, &x)?;
                let mut predicted =
                    self.model
                        .unet
                        .forward(&mut self.pool, &shown, step.time, text)?;
                if let Some(other) = other {
                    let without =
                        self.model
                            .unet
                            .forward(&mut self.pool, &shown, step.time, other)?;
                    let towards = predicted.sub(&without)?.affine(job.guidance, 0.0)?;
                    predicted = without.add(&towards)?;
                }
                self.scheduler.step(step, &x, &predicted)
            };
            x = advance().map_err(fault)?;
        }
        Ok(x)
    }

    /// Red, green and blue of each pixel.
    pub(super) fn levels(
        &mut self,
        job: &Job,
        latents: &Tensor,
    ) -> Result<Zeroizing<Vec<u8>>, EngineError> {
        check(job)?;
        let _turn = turn();
        let mut pixels = || {
            let latents = latents.affine(self.model.vae.scale().recip(), 0.0)?;
            let image = self.model.vae.decode(&mut self.pool, &latents)?;
            image
                .squeeze(0)?
                .permute((1, 2, 0))?
                .flatten_all()?
                .to_vec1::<f32>()
        };
        let pixels = Zeroizing::new(pixels().map_err(fault)?);
        if pixels.iter().any(|x| !x.is_finite()) {
            return Err(EngineError::Fault);
        }
        Ok(Zeroizing::new(pixels.iter().map(|x| level(*x)).collect()))
    }
}

/// -1 to 1 as 0 to 255; what is beyond is cut.
#[expect(
    clippy::as_conversions,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "between 0 and 255"
)]
fn level(x: f32) -> u8 {
    libm::rintf((x / 2.0 + 0.5).clamp(0.0, 1.0) * 255.0) as u8
}

fn png(levels: &[u8], [width, height]: [usize; 2]) -> Option<Zeroizing<Vec<u8>>> {
    let mut file = Cursor::new(Vec::new());
    let [width, height] = [u32::try_from(width).ok()?, u32::try_from(height).ok()?];
    let encoder = PngEncoder::new(&mut file);
    encoder
        .write_image(levels, width, height, ExtendedColorType::Rgb8)
        .ok()?;
    Some(Zeroizing::new(file.into_inner()))
}

/// Whether to go on.
fn check(job: &Job) -> Result<(), EngineError> {
    job.deadline.check(Instant::now())?;
    match job.result.is_canceled() {
        true => Err(EngineError::Stopped),
        false => Ok(()),
    }
}

fn fault(_: candle_core::Error) -> EngineError {
    EngineError::Fault
}
