//! Images of texts: Stable Diffusion 1 and 2, as diffusers lays them out.
//!
//! ```text
//! text -> tokens -> states of CLIP ─┐
//! noise -> [ UNet, with and without the text -> one step of the scheduler ] -> VAE
//! ```
//!
//! One image at a time. The noise is a function of the seed ([`noise`]), so the same
//! request gives the same bytes on the same kind of processor. A checker of images, if
//! the directory has one, is not used.
//!
//! Source: `StableDiffusionPipeline` of Hugging Face diffusers.

mod block;
mod config;
mod noise;
mod picture;
mod prompt;
mod scheduler;
#[cfg(test)]
mod tests;
mod text;
mod transformer;
mod unet;
mod vae;
mod worker;

use candle_core::Tensor;

use crate::error::LoadError;
use crate::kernel::pool::Pool;
use crate::model_dir::ModelDir;
use crate::weights::Tally;
pub use picture::{PictureRequest, Pictures};
pub(crate) use prompt::Prompts;
pub(crate) use scheduler::Scheduler;
use text::TextEncoder;
use unet::Unet;
use vae::Vae;
pub(crate) use worker::{Job, Worker};

/// Weights of the three networks.
#[derive(Debug)]
pub(crate) struct Diffusion {
    text: TextEncoder,
    unet: Unet,
    vae: Vae,
    tally: Tally,
}

impl Diffusion {
    /// As `_class_name` in model_index.json has it.
    pub(crate) const ARCHITECTURE: &'static str = "StableDiffusionPipeline";

    /// What says that a directory has this layout.
    pub(crate) const INDEX: &'static str = "model_index.json";

    pub(crate) fn load(pool: &mut Pool, dir: &ModelDir) -> Result<Self, LoadError> {
        config::check_index(dir)?;
        let (text, a) = TextEncoder::load(pool, dir)?;
        let (unet, b) = Unet::load(pool, dir, text.width())?;
        let (vae, c) = Vae::load(pool, dir, unet.channels())?;
        Ok(Self {
            text,
            unet,
            vae,
            tally: Tally {
                parameters: a.saturating_add(b).saturating_add(c),
                format: None,
            },
        })
    }

    /// Tokens that a prompt has, control tokens included.
    pub(crate) fn context(&self) -> usize {
        self.text.context()
    }

    /// Tokens that there are.
    pub(crate) fn vocabulary(&self) -> usize {
        self.text.vocabulary()
    }

    /// Pixels of a side: a multiple of the first, the second at most.
    pub(crate) fn sides(&self) -> (usize, usize) {
        let factor = self.vae.factor();
        let unit = factor.saturating_mul(self.unet.unit());
        (unit, factor.saturating_mul(self.unet.side()))
    }

    pub(crate) fn tally(&self) -> &Tally {
        &self.tally
    }

    /// Latents of an image of this size, at the beginning.
    fn latents(&self, seed: u64, width: usize, height: usize) -> candle_core::Result<Tensor> {
        let factor = self.vae.factor();
        let side = |pixels: usize| pixels.checked_div(factor).unwrap_or(0);
        noise::normal(seed, [1, self.unet.channels(), side(height), side(width)])
    }
}
