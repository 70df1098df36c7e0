//! From noise to an image: at which times the network is asked, and what a step does.
//!
//! DDIM without noise of its own, and Euler's method. A directory that names PNDM gets
//! DDIM, which has the same noise levels and needs no history.
//!
//! Sources: `DDIMScheduler` and `EulerDiscreteScheduler` of Hugging Face diffusers.

#![expect(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::cast_precision_loss,
    reason = "at most 10,000 times and 1000 steps"
)]

use candle_core::Tensor;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::config::check_neutral;
use crate::config::unsupported;
use crate::error::LoadError;
use crate::model_dir::ModelDir;

/// How much of an image is left at each time, and how it is asked for.
#[derive(Debug)]
pub(crate) struct Scheduler {
    /// The product of `1 - beta` up to each time of the training.
    kept: Vec<f64>,
    euler: bool,
    velocity: bool,
    spacing: Spacing,
    offset: f64,
    /// What an image has kept after the last step of DDIM.
    last: f64,
    clip: Option<f64>,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq)]
#[serde(rename_all = "lowercase")]
enum Spacing {
    Leading,
    Linspace,
    Trailing,
}

/// One call of the network.
#[derive(Clone, Copy, Debug)]
pub(super) struct Step {
    pub(super) time: f64,
    /// Of the noise in the image now and after it; for DDIM, what is kept of the image.
    now: f64,
    next: f64,
}

impl Scheduler {
    pub(crate) fn load(dir: &ModelDir) -> Result<Self, LoadError> {
        check_neutral(FILE, &dir.json::<Map<_, _>>(FILE)?, &neutral())?;
        let config: Config = dir.json(FILE)?;
        let (euler, pndm) = match config.class.as_str() {
            "DDIMScheduler" => (false, false),
            "EulerDiscreteScheduler" => (true, false),
            "PNDMScheduler" => (false, true),
            found => {
                let expected = "DDIMScheduler, EulerDiscreteScheduler or PNDMScheduler";
                return Err(unsupported(FILE, "_class_name", found, expected));
            }
        };
        let kept = config.kept()?;
        let clips = config.clip_sample.unwrap_or(!pndm) && !euler;
        let to_one = config.set_alpha_to_one.unwrap_or(!pndm);
        Ok(Self {
            euler,
            velocity: match config.prediction_type.as_deref() {
                None | Some("epsilon") => false,
                Some("v_prediction") => true,
                Some(found) => {
                    let expected = "epsilon or v_prediction";
                    return Err(unsupported(FILE, "prediction_type", found, expected));
                }
            },
            spacing: config.timestep_spacing.unwrap_or(match euler {
                true => Spacing::Linspace,
                false => Spacing::Leading,
            }),
            offset: f64::from(config.steps_offset.unwrap_or(0)),
            last: if to_one {
                1.0
            } else {
                kept.first().copied().unwrap_or(1.0)
            },
            clip: clips.then(|| config.clip_sample_range.unwrap_or(1.0)),
            kept,
        })
    }

    /// The steps, the noisiest first.
    pub(super) fn steps(&self, count: usize) -> Vec<Step> {
        let all = self.kept.len();
        let times = self.times(count);
        let next = |index: usize, time: f64| match (self.euler, times.get(index + 1)) {
            (true, Some(next)) => self.noise(*next),
            (true, None) => 0.0,
            (false, _) => match time - (all / count.max(1)) as f64 {
                time if time < 0.0 => self.last,
                time => self.kept_at(time),
            },
        };
        let now = |time| match self.euler {
            true => self.noise(time),
            false => self.kept_at(time),
        };
        let steps = times.iter().enumerate().map(|(index, time)| Step {
            time: *time,
            now: now(*time),
            next: next(index, *time),
        });
        steps.collect()
    }

    /// What normal noise is multiplied with at the beginning.
    pub(super) fn loudness(&self, steps: &[Step]) -> f64 {
        let most = steps.iter().map(|step| step.now).fold(0.0, f64::max);
        match (self.euler, self.spacing) {
            (false, _) => 1.0,
            (true, Spacing::Leading) => libm::sqrt(most * most + 1.0),
            (true, _) => most,
        }
    }

    /// What the network is shown.
    pub(super) fn shown(&self, step: Step, x: &Tensor) -> candle_core::Result<Tensor> {
        match self.euler {
            true => x.affine(libm::sqrt(step.now * step.now + 1.0).recip(), 0.0),
            false => Ok(x.clone()),
        }
    }

    /// The image after a step in which the network has `predicted` that.
    pub(super) fn step(
        &self,
        step: Step,
        x: &Tensor,
        predicted: &Tensor,
    ) -> candle_core::Result<Tensor> {
        let mix = |a: f64, b: f64| x.affine(a, 0.0)?.add(&predicted.affine(b, 0.0)?);
        if self.euler {
            let (now, next) = (step.now, step.next);
            let one = now * now + 1.0;
            let clean = match self.velocity {
                true => mix(one.recip(), -now / libm::sqrt(one))?,
                false => mix(1.0, -now)?,
            };
            let slope = x.sub(&clean)?.affine(now.recip(), 0.0)?;
            return x.add(&slope.affine(next - now, 0.0)?);
        }
        let (a, b) = (libm::sqrt(step.now), libm::sqrt(1.0 - step.now));
        let (clean, noise) = match self.velocity {
            true => (mix(a, -b)?, mix(b, a)?),
            false => (mix(a.recip(), -b / a)?, predicted.clone()),
        };
        let clean = match self.clip {
            Some(most) => clean.clamp(-most, most)?,
            None => clean,
        };
        let (a, b) = (libm::sqrt(step.next), libm::sqrt(1.0 - step.next));
        clean.affine(a, 0.0)?.add(&noise.affine(b, 0.0)?)
    }

    fn times(&self, count: usize) -> Vec<f64> {
        let all = self.kept.len();
        let last = all.saturating_sub(1) as f64;
        let times = (0..count).map(|index| match self.spacing {
            Spacing::Leading => ((count - 1 - index) * (all / count)) as f64 + self.offset,
            Spacing::Trailing => {
                libm::rint(all as f64 - index as f64 * all as f64 / count as f64) - 1.0
            }
            Spacing::Linspace => {
                let part = match count {
                    1 => 0.0,
                    _ => (count - 1 - index) as f64 / (count - 1) as f64,
                };
                match self.euler {
                    true => last * part,
                    false => libm::rint(last * part),
                }
            }
        });
        times.collect()
    }

    /// What is kept of an image at a time, between two times evenly.
    fn kept_at(&self, time: f64) -> f64 {
        self.between(time, |kept| kept)
    }

    /// How much louder than an image the noise is at a time.
    fn noise(&self, time: f64) -> f64 {
        self.between(time, |kept| libm::sqrt((1.0 - kept) / kept))
    }

    fn between(&self, time: f64, value: impl Fn(f64) -> f64) -> f64 {
        let below = libm::floor(time);
        // Times are positions in a table of at most 10,000.
        let place = (0..self.kept.len()).find(|place| *place as f64 >= below);
        let at = |place: usize| self.kept.get(place).copied().map(&value);
        let place = place.unwrap_or(self.kept.len().saturating_sub(1));
        let low = at(place).unwrap_or(1.0);
        let high = at(place + 1).unwrap_or(low);
        low + (high - low) * (time - below)
    }
}

#[derive(Debug, Deserialize)]
struct Config {
    #[serde(rename = "_class_name")]
    class: String,
    beta_start: f64,
    beta_end: f64,
    beta_schedule: String,
    num_train_timesteps: Option<u32>,
    prediction_type: Option<String>,
    timestep_spacing: Option<Spacing>,
    steps_offset: Option<u32>,
    set_alpha_to_one: Option<bool>,
    clip_sample: Option<bool>,
    clip_sample_range: Option<f64>,
}

impl Config {
    fn kept(&self) -> Result<Vec<f64>, LoadError> {
        let count = self.num_train_timesteps.unwrap_or(1000);
        if !(1000..=10_000).contains(&count) {
            return Err(unsupported(
                FILE,
                "num_train_timesteps",
                count,
                "1000 to 10000",
            ));
        }
        for (key, found) in [("beta_start", self.beta_start), ("beta_end", self.beta_end)] {
            if !(found > 0.0 && found < 1.0) {
                return Err(unsupported(FILE, key, found, "between 0 and 1"));
            }
        }
        if self.steps_offset.is_some_and(|offset| offset > 1) {
            return Err(unsupported(FILE, "steps_offset", "more", "0 or 1"));
        }
        let roots = match self.beta_schedule.as_str() {
            "linear" => false,
            "scaled_linear" => true,
            found => {
                return Err(unsupported(
                    FILE,
                    "beta_schedule",
                    found,
                    "linear or scaled_linear",
                ));
            }
        };
        let end = |beta: f64| if roots { libm::sqrt(beta) } else { beta };
        let (start, end) = (end(self.beta_start), end(self.beta_end));
        let mut kept = 1.0;
        let kept = (0..count).map(|time| {
            let beta = start + (end - start) * f64::from(time) / f64::from(count - 1);
            kept *= 1.0 - if roots { beta * beta } else { beta };
            kept
        });
        Ok(kept.collect())
    }
}

/// What is done anyway.
fn neutral() -> Vec<(&'static str, Value)> {
    vec![
        ("final_sigmas_type", json!("zero")),
        ("interpolation_type", json!("linear")),
        ("rescale_betas_zero_snr", json!(false)),
        ("sigma_max", Value::Null),
        ("sigma_min", Value::Null),
        ("thresholding", json!(false)),
        ("timestep_type", json!("discrete")),
        ("trained_betas", Value::Null),
        ("use_beta_sigmas", json!(false)),
        ("use_exponential_sigmas", json!(false)),
        ("use_karras_sigmas", json!(false)),
    ]
}

const FILE: &str = "scheduler/scheduler_config.json";
