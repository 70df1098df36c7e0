//! Latents to pixels.

#![expect(
    clippy::arithmetic_side_effects,
    reason = "counts of levels and blocks, which have been checked"
)]

use candle_core::{Module as _, Tensor};
use candle_nn::GroupNorm;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::block::{Conv, Residual, Source, pixels, rows};
use super::config::{check_levels, check_neutral};
use crate::config::{check_sizes, unsupported};
use crate::encoder;
use crate::error::LoadError;
use crate::kernel::pool::Pool;
use crate::model_dir::ModelDir;
use crate::weights::Weights;

/// The decoder; what encodes is not loaded.
#[derive(Debug)]
pub(super) struct Vae {
    before: Conv,
    enter: Conv,
    middle: (Residual, Attention, Residual),
    up: Vec<(Vec<Residual>, Option<Conv>)>,
    norm: GroupNorm,
    leave: Conv,
    scale: f64,
}

impl Vae {
    /// For latents of so many channels; also how many numbers it has.
    pub(super) fn load(
        pool: &mut Pool,
        dir: &ModelDir,
        channels: usize,
    ) -> Result<(Self, u64), LoadError> {
        let config = Config::load(dir, channels)?;
        let mut weights = Weights::open_as(&dir.part("vae"), "diffusion_pytorch_model")?;
        let mut source = Source {
            pool,
            weights: &mut weights,
            groups: config.norm_num_groups,
            epsilon: 1e-6,
            time: 0,
        };
        let source = &mut source;
        let levels = &config.block_out_channels;
        let (first, last) = levels
            .first()
            .zip(levels.last())
            .map_or((0, 0), |(a, b)| (*a, *b));
        let mut from = last;
        let up = levels.iter().rev().enumerate().map(|(index, to)| {
            let name = format!("decoder.up_blocks.{index}");
            let blocks = (0..=config.layers_per_block).map(|block| {
                let channels = [std::mem::replace(&mut from, *to), *to];
                Residual::load(source, &format!("{name}.resnets.{block}"), channels)
            });
            let blocks = blocks.collect::<Result<_, LoadError>>()?;
            let resize = match index + 1 < levels.len() {
                true => Some(source.conv(&format!("{name}.upsamplers.0.conv"), [*to; 2], 3)?),
                false => None,
            };
            Ok((blocks, resize))
        });
        let up = up.collect::<Result<_, LoadError>>()?;
        let middle = (
            Residual::load(source, "decoder.mid_block.resnets.0", [last; 2])?,
            Attention::load(source, "decoder.mid_block.attentions.0", last)?,
            Residual::load(source, "decoder.mid_block.resnets.1", [last; 2])?,
        );
        let vae = Self {
            before: source.conv("post_quant_conv", [channels; 2], 1)?,
            enter: source.conv("decoder.conv_in", [channels, last], 3)?,
            middle,
            up,
            norm: source.norm("decoder.conv_norm_out", first)?,
            leave: source.conv("decoder.conv_out", [first, 3], 3)?,
            scale: config.scaling_factor,
        };
        Ok((vae, weights.tally().parameters))
    }

    /// Pixels for each latent, on a side.
    pub(super) fn factor(&self) -> usize {
        1 << self.up.len().saturating_sub(1)
    }

    /// What latents were multiplied with.
    pub(super) fn scale(&self) -> f64 {
        self.scale
    }

    /// `[1, 3, height, width]`, from -1 to 1 and a little beyond.
    pub(super) fn decode(&self, pool: &mut Pool, latents: &Tensor) -> candle_core::Result<Tensor> {
        let mut x = self.enter.forward(&self.before.forward(latents)?)?;
        x = self.middle.0.forward(pool, &x, None)?;
        x = self.middle.1.forward(pool, &x)?;
        x = self.middle.2.forward(pool, &x, None)?;
        for (blocks, resize) in &self.up {
            for block in blocks {
                x = block.forward(pool, &x, None)?;
            }
            if let Some(resize) = resize {
                x = resize.double(&x)?;
            }
        }
        self.leave.forward(&self.norm.forward(&x)?.silu()?)
    }
}

/// Of all pixels to all, with one head.
#[derive(Debug)]
struct Attention {
    norm: GroupNorm,
    rows: encoder::Attention,
}

impl Attention {
    fn load(source: &mut Source<'_>, name: &str, channels: usize) -> Result<Self, LoadError> {
        // Files from before 2023 have other names.
        let new = source.weights.contains(&format!("{name}.to_q.weight"));
        let [query, key, value, output] = match new {
            true => ["to_q", "to_k", "to_v", "to_out.0"],
            false => ["query", "key", "value", "proj_attn"],
        };
        let norm = source.norm(&format!("{name}.group_norm"), channels)?;
        let mut linear = |part| source.linear(&format!("{name}.{part}"), [channels; 2], true);
        Ok(Self {
            norm,
            rows: encoder::Attention {
                query: linear(query)?,
                key: linear(key)?,
                value: linear(value)?,
                output: linear(output)?,
                heads: 1,
            },
        })
    }

    fn forward(&self, pool: &mut Pool, x: &Tensor) -> candle_core::Result<Tensor> {
        let inner = rows(&self.norm.forward(x)?)?;
        let seen = self.rows.seen(pool, &inner)?;
        let attended = self.rows.attend(pool, &inner, &seen, None)?;
        x.add(&pixels(&attended, x)?)
    }
}

#[derive(Debug, Deserialize)]
struct Config {
    block_out_channels: Vec<usize>,
    layers_per_block: usize,
    latent_channels: usize,
    norm_num_groups: usize,
    up_block_types: Vec<String>,
    #[serde(default = "usual")]
    scaling_factor: f64,
}

/// Where it is not said, it is that of the first models.
fn usual() -> f64 {
    0.18215
}

impl Config {
    fn load(dir: &ModelDir, channels: usize) -> Result<Self, LoadError> {
        let neutral = [
            ("act_fn", json!("silu")),
            ("latents_mean", Value::Null),
            ("latents_std", Value::Null),
            ("mid_block_add_attention", json!(true)),
            ("out_channels", json!(3)),
            ("shift_factor", Value::Null),
            ("use_post_quant_conv", json!(true)),
        ];
        check_neutral(FILE, &dir.json::<Map<_, _>>(FILE)?, &neutral)?;
        let config: Self = dir.json(FILE)?;
        check_levels(FILE, &config.block_out_channels, config.norm_num_groups)?;
        check_sizes(FILE, [("layers_per_block", config.layers_per_block, 8)])?;
        if config.latent_channels != channels {
            let found = config.latent_channels;
            return Err(unsupported(
                FILE,
                "latent_channels",
                found,
                channels.to_string(),
            ));
        }
        if !(config.scaling_factor > 0.0 && config.scaling_factor.is_finite()) {
            let found = config.scaling_factor;
            return Err(unsupported(FILE, "scaling_factor", found, "more than 0"));
        }
        let kind = "UpDecoderBlock2D";
        match config.up_block_types.iter().find(|found| *found != kind) {
            Some(found) => Err(unsupported(FILE, "up_block_types", found, kind)),
            None => Ok(config),
        }
    }
}

const FILE: &str = "vae/config.json";
