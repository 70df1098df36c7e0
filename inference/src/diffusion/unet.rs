//! The network that finds the noise in an image, given a text.

#![expect(
    clippy::arithmetic_side_effects,
    reason = "counts of levels and blocks, which have been checked"
)]

use candle_core::{Device, Module as _, Tensor};
use candle_nn::GroupNorm;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::block::{Conv, Residual, Source};
use super::config::{check_levels, check_neutral};
use super::transformer::{Form, Transformer};
use crate::config::{check_multiple, check_sizes, unsupported};
use crate::encoder::project;
use crate::error::LoadError;
use crate::kernel::pool::Pool;
use crate::linear::Linear;
use crate::model_dir::ModelDir;
use crate::weights::Weights;

#[derive(Debug)]
pub(super) struct Unet {
    time: [Linear; 2],
    enter: Conv,
    down: Vec<Level>,
    middle: (Residual, Transformer, Residual),
    up: Vec<Level>,
    norm: GroupNorm,
    leave: Conv,
    config: Config,
}

/// Residual blocks, each with its transformer if the level has them, and what changes
/// the size after them.
#[derive(Debug)]
struct Level {
    blocks: Vec<(Residual, Option<Transformer>)>,
    resize: Option<Conv>,
}

impl Unet {
    /// For states of a text that are `text` wide; also how many numbers it has.
    pub(super) fn load(
        pool: &mut Pool,
        dir: &ModelDir,
        text: usize,
    ) -> Result<(Self, u64), LoadError> {
        let config = Config::load(dir, text)?;
        let mut weights = Weights::open_as(&dir.part("unet"), "diffusion_pytorch_model")?;
        let (first, last) = config.ends();
        let mut source = Source {
            pool,
            weights: &mut weights,
            groups: config.norm_num_groups,
            epsilon: config.norm_eps,
            time: first.saturating_mul(4),
        };
        let source = &mut source;
        let time = source.time;
        let middle = (
            Residual::load(source, "mid_block.resnets.0", [last; 2])?,
            Transformer::load(
                source,
                "mid_block.attentions.0",
                last,
                config.form(config.levels() - 1),
            )?,
            Residual::load(source, "mid_block.resnets.1", [last; 2])?,
        );
        let unet = Self {
            time: [
                source.linear("time_embedding.linear_1", [first, time], true)?,
                source.linear("time_embedding.linear_2", [time, time], true)?,
            ],
            enter: source.conv("conv_in", [config.in_channels, first], 3)?,
            down: config.down(source)?,
            middle,
            up: config.up(source)?,
            norm: source.norm("conv_norm_out", first)?,
            leave: source.conv("conv_out", [first, config.in_channels], 3)?,
            config,
        };
        Ok((unet, weights.tally().parameters))
    }

    /// Channels of what it sees.
    pub(super) fn channels(&self) -> usize {
        self.config.in_channels
    }

    /// What sides must be multiples of.
    pub(super) fn unit(&self) -> usize {
        1 << self.config.levels().saturating_sub(1)
    }

    /// What sides it was trained with.
    pub(super) fn side(&self) -> usize {
        self.config.sample_size
    }

    /// What it predicts of `x` at a time, given the states of a text.
    pub(super) fn forward(
        &self,
        pool: &mut Pool,
        x: &Tensor,
        time: f64,
        text: &Tensor,
    ) -> candle_core::Result<Tensor> {
        let [first, second] = &self.time;
        let time = project(pool, first, &waves(time, self.config.ends().0)?)?.silu()?;
        let time = Some(project(pool, second, &time)?.silu()?);
        let time = time.as_ref();
        let mut x = self.enter.forward(x)?;
        let mut seen = vec![x.clone()];
        for level in &self.down {
            for (residual, transformer) in &level.blocks {
                x = residual.forward(pool, &x, time)?;
                if let Some(transformer) = transformer {
                    x = transformer.forward(pool, &x, text)?;
                }
                seen.push(x.clone());
            }
            if let Some(resize) = &level.resize {
                x = resize.halve(&x)?;
                seen.push(x.clone());
            }
        }
        x = self.middle.0.forward(pool, &x, time)?;
        x = self.middle.1.forward(pool, &x, text)?;
        x = self.middle.2.forward(pool, &x, time)?;
        for level in &self.up {
            for (residual, transformer) in &level.blocks {
                if let Some(seen) = seen.pop() {
                    x = Tensor::cat(&[&x, &seen], 1)?;
                }
                x = residual.forward(pool, &x, time)?;
                if let Some(transformer) = transformer {
                    x = transformer.forward(pool, &x, text)?;
                }
            }
            if let Some(resize) = &level.resize {
                x = resize.double(&x)?;
            }
        }
        self.leave.forward(&self.norm.forward(&x)?.silu()?)
    }
}

/// Cosines and then sines of a time, at falling frequencies, as a row.
#[expect(
    clippy::as_conversions,
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    reason = "a width is exact in f64, and the row is of f32"
)]
fn waves(time: f64, width: usize) -> candle_core::Result<Tensor> {
    let half = width / 2;
    let angle = |i: usize| time * libm::exp(-libm::log(10_000.0) * i as f64 / half as f64);
    let cosines = (0..half).map(|i| libm::cos(angle(i)) as f32);
    let sines = (0..half).map(|i| libm::sin(angle(i)) as f32);
    Tensor::from_iter(cosines.chain(sines), &Device::Cpu)?.reshape((1, half.saturating_mul(2)))
}

#[derive(Debug, Deserialize)]
struct Config {
    sample_size: usize,
    in_channels: usize,
    out_channels: usize,
    block_out_channels: Vec<usize>,
    layers_per_block: usize,
    down_block_types: Vec<String>,
    up_block_types: Vec<String>,
    cross_attention_dim: usize,
    /// Heads, in spite of its name.
    attention_head_dim: Heads,
    norm_num_groups: usize,
    norm_eps: f64,
    #[serde(default)]
    use_linear_projection: bool,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Heads {
    All(usize),
    ByLevel(Vec<usize>),
}

impl Config {
    fn load(dir: &ModelDir, text: usize) -> Result<Self, LoadError> {
        check_neutral(FILE, &dir.json::<Map<_, _>>(FILE)?, &neutral())?;
        let config: Self = dir.json(FILE)?;
        check_levels(FILE, &config.block_out_channels, config.norm_num_groups)?;
        check_sizes(
            FILE,
            [
                ("sample_size", config.sample_size, 256),
                ("in_channels", config.in_channels, 16),
                ("layers_per_block", config.layers_per_block, 8),
            ],
        )?;
        for (key, found, expected) in [
            ("cross_attention_dim", config.cross_attention_dim, text),
            ("out_channels", config.out_channels, config.in_channels),
            (
                "down_block_types",
                config.down_block_types.len(),
                config.levels(),
            ),
            (
                "up_block_types",
                config.up_block_types.len(),
                config.levels(),
            ),
        ] {
            if found != expected {
                return Err(unsupported(FILE, key, found, expected.to_string()));
            }
        }
        for (index, channels) in config.block_out_channels.iter().enumerate() {
            let heads = config.form(index).heads;
            check_sizes(FILE, [("attention_head_dim", heads, 1 << 8)])?;
            check_multiple(FILE, "block_out_channels", *channels, heads)?;
        }
        check_multiple(
            FILE,
            "sample_size",
            config.sample_size,
            1 << (config.levels() - 1),
        )?;
        Ok(config)
    }

    fn levels(&self) -> usize {
        self.block_out_channels.len()
    }

    /// Channels of the first and the last level.
    fn ends(&self) -> (usize, usize) {
        let ends = self
            .block_out_channels
            .first()
            .zip(self.block_out_channels.last());
        ends.map_or((0, 0), |(first, last)| (*first, *last))
    }

    fn form(&self, level: usize) -> Form {
        Form {
            heads: match &self.attention_head_dim {
                Heads::All(heads) => *heads,
                Heads::ByLevel(heads) => heads.get(level).copied().unwrap_or(0),
            },
            text: self.cross_attention_dim,
            linear: self.use_linear_projection,
        }
    }

    fn down(&self, source: &mut Source<'_>) -> Result<Vec<Level>, LoadError> {
        let mut from = self.ends().0;
        let levels = self
            .block_out_channels
            .iter()
            .zip(&self.down_block_types)
            .enumerate();
        let levels = levels.map(|(index, (to, kind))| {
            let name = format!("down_blocks.{index}");
            let attends = attends(
                "down_block_types",
                kind,
                ["CrossAttnDownBlock2D", "DownBlock2D"],
            )?;
            let blocks = (0..self.layers_per_block).map(|block| {
                let channels = [std::mem::replace(&mut from, *to), *to];
                self.block(source, &name, block, channels, attends.then_some(index))
            });
            let blocks = blocks.collect::<Result<_, LoadError>>()?;
            let resize = match index + 1 < self.levels() {
                true => Some(source.conv(&format!("{name}.downsamplers.0.conv"), [*to; 2], 3)?),
                false => None,
            };
            Ok(Level { blocks, resize })
        });
        levels.collect()
    }

    fn up(&self, source: &mut Source<'_>) -> Result<Vec<Level>, LoadError> {
        let mut from = self.ends().1;
        let count = self.levels();
        let levels = self
            .block_out_channels
            .iter()
            .rev()
            .zip(&self.up_block_types)
            .enumerate();
        let levels = levels.map(|(index, (to, kind))| {
            let name = format!("up_blocks.{index}");
            let attends = attends("up_block_types", kind, ["CrossAttnUpBlock2D", "UpBlock2D"])?;
            let level = count - 1 - index;
            let below = self
                .block_out_channels
                .get(level.saturating_sub(1))
                .copied();
            let blocks = (0..=self.layers_per_block).map(|block| {
                let seen = match block == self.layers_per_block {
                    true => below.unwrap_or(0),
                    false => *to,
                };
                let from = std::mem::replace(&mut from, *to);
                let channels = [from.saturating_add(seen), *to];
                self.block(source, &name, block, channels, attends.then_some(level))
            });
            let blocks = blocks.collect::<Result<_, LoadError>>()?;
            let resize = match index + 1 < count {
                true => Some(source.conv(&format!("{name}.upsamplers.0.conv"), [*to; 2], 3)?),
                false => None,
            };
            Ok(Level { blocks, resize })
        });
        levels.collect()
    }

    fn block(
        &self,
        source: &mut Source<'_>,
        name: &str,
        block: usize,
        channels: [usize; 2],
        attends: Option<usize>,
    ) -> Result<(Residual, Option<Transformer>), LoadError> {
        let residual = Residual::load(source, &format!("{name}.resnets.{block}"), channels)?;
        let transformer = attends.map(|level| {
            let name = format!("{name}.attentions.{block}");
            Transformer::load(source, &name, channels[1], self.form(level))
        });
        Ok((residual, transformer.transpose()?))
    }
}

/// Whether blocks of a kind attend to the text.
fn attends(key: &'static str, kind: &str, [yes, no]: [&str; 2]) -> Result<bool, LoadError> {
    match kind {
        kind if kind == yes => Ok(true),
        kind if kind == no => Ok(false),
        _ => Err(unsupported(FILE, key, kind, format!("{yes} or {no}"))),
    }
}

/// What is done anyway.
fn neutral() -> Vec<(&'static str, Value)> {
    vec![
        ("act_fn", json!("silu")),
        ("addition_embed_type", Value::Null),
        ("center_input_sample", json!(false)),
        ("class_embed_type", Value::Null),
        ("conv_in_kernel", json!(3)),
        ("conv_out_kernel", json!(3)),
        ("downsample_padding", json!(1)),
        ("dual_cross_attention", json!(false)),
        ("encoder_hid_dim", Value::Null),
        ("encoder_hid_dim_type", Value::Null),
        ("flip_sin_to_cos", json!(true)),
        ("freq_shift", json!(0)),
        ("mid_block_scale_factor", json!(1)),
        ("mid_block_type", json!("UNetMidBlock2DCrossAttn")),
        ("num_attention_heads", Value::Null),
        ("num_class_embeds", Value::Null),
        ("only_cross_attention", json!(false)),
        ("resnet_out_scale_factor", json!(1.0)),
        ("resnet_skip_time_act", json!(false)),
        ("resnet_time_scale_shift", json!("default")),
        ("time_cond_proj_dim", Value::Null),
        ("time_embedding_dim", Value::Null),
        ("time_embedding_type", json!("positional")),
        ("timestep_post_act", Value::Null),
        ("transformer_layers_per_block", json!(1)),
    ]
}

const FILE: &str = "unet/config.json";
