//! What the pairs of a GGUF file say about a decoder.
//!
//! Some settings are not in the file, but in the program that reads it: llama.cpp.

use super::{FAMILIES, Family, Kind, Mixture, Router, Rule, Shape, Window};
use crate::config::unsupported;
use crate::decoder::rope::{Rope, Scaling};
use crate::decoder::to_f32;
use crate::error::LoadError;
use crate::kernel::attention::Heads;
use crate::weights::gguf::Gguf;

impl Shape {
    /// Of the pairs of a GGUF file.
    pub(crate) fn of_gguf(gguf: &Gguf) -> Result<Self, LoadError> {
        let name = gguf.text("general.architecture").unwrap_or_default();
        let Some(family) = FAMILIES.iter().find(|family| family.gguf == Some(name)) else {
            return Err(LoadError::Architecture {
                found: vec![name.into()],
                expected: FAMILIES.iter().filter_map(|family| family.gguf).collect(),
            });
        };
        let pairs = Pairs { gguf, name };
        let hidden = pairs.required("embedding_length")?;
        let query = pairs.required("attention.head_count")?;
        let layers = pairs.required("block_count")?;
        let width = pairs
            .size("attention.key_length")
            .or(hidden.checked_div(query));
        let width = width.unwrap_or(0);
        // The largest Gemma 3 is known by its layers.
        let scaled_by = match family.kind {
            Kind::Gemma if layers == 62 => hidden.checked_div(query).unwrap_or(0),
            _ => width,
        };
        let scaled_by = u32::try_from(scaled_by).map_or(f64::INFINITY, f64::from);
        let table = gguf.weights.shape("model.embed_tokens.weight");
        let mixture = match pairs.size("expert_count") {
            None | Some(0) => None,
            Some(count) => Some(pairs.mixture(family, count, layers)?),
        };
        let inner = pairs.size("feed_forward_length");
        let shape = Self {
            family,
            context: pairs.required("context_length")?,
            vocabulary: table.and_then(|shape| shape.first()).copied().unwrap_or(0),
            hidden,
            inner: match &mixture {
                Some(mixture) => inner.unwrap_or(mixture.inner),
                None => pairs.required("feed_forward_length")?,
            },
            layers,
            heads: Heads {
                query,
                kv: pairs.size("attention.head_count_kv").unwrap_or(query),
                width,
                values: width,
            },
            scale: to_f32(1.0 / scaled_by.sqrt()),
            epsilon: to_f32(pairs.float("attention.layer_norm_rms_epsilon")?),
            rope: pairs.rope()?,
            window: pairs.window(family, layers)?,
            latent: None,
            mixture,
            tied: !gguf.weights.contains("lm_head.weight"),
            norm_offset: 0.0,
            interleaved: family.interleaved,
            scaled: false,
        };
        shape.check(FILE)
    }
}

/// Those of one architecture.
struct Pairs<'a> {
    gguf: &'a Gguf,
    name: &'a str,
}

impl Pairs<'_> {
    fn key(&self, key: &str) -> String {
        format!("{}.{key}", self.name)
    }

    fn size(&self, key: &str) -> Option<usize> {
        let value = self.gguf.integer(&self.key(key))?;
        usize::try_from(value).ok()
    }

    fn required(&self, key: &'static str) -> Result<usize, LoadError> {
        self.size(key)
            .ok_or_else(|| unsupported(FILE, key, "absent", "a size"))
    }

    fn float(&self, key: &'static str) -> Result<f64, LoadError> {
        let found = self.gguf.float(&self.key(key));
        found.ok_or_else(|| unsupported(FILE, key, "absent", "a number"))
    }

    fn rope(&self) -> Result<Rope, LoadError> {
        let kind = self.gguf.text(&self.key("rope.scaling.type"));
        Ok(Rope {
            theta: self
                .gguf
                .float(&self.key("rope.freq_base"))
                .unwrap_or(10_000.0),
            scaling: match kind.unwrap_or("none") {
                "none" => Scaling::None,
                "linear" => Scaling::Linear(self.float("rope.scaling.factor")?),
                found => {
                    return Err(unsupported(
                        FILE,
                        "rope.scaling.type",
                        found,
                        "none or linear",
                    ));
                }
            },
        })
    }

    fn window(&self, family: &Family, layers: usize) -> Result<Option<Window>, LoadError> {
        let key = "attention.sliding_window";
        let size = self.size(key).filter(|size| *size > 0);
        match (family.kind, size) {
            (Kind::Gemma, _) => {
                let pattern = self.size("attention.sliding_window_pattern").unwrap_or(6);
                let windowed = |layer: usize| layer.checked_rem(pattern) != Some(0);
                Ok(Some(Window {
                    size: self.required(key)?,
                    rope: Rope {
                        theta: 10_000.0,
                        scaling: Scaling::None,
                    },
                    layers: (1..=layers.min(MAX_LAYERS)).map(windowed).collect(),
                }))
            }
            (_, None) => Ok(None),
            (_, Some(size)) => Err(unsupported(FILE, key, size, "none")),
        }
    }

    fn mixture(&self, family: &Family, count: usize, layers: usize) -> Result<Mixture, LoadError> {
        let inner = self.size("expert_feed_forward_length");
        let (inner, shared, normalise) = match family.kind {
            Kind::Plain if family.interleaved => {
                (self.required("feed_forward_length")?, None, true)
            }
            Kind::Mixture(Router::Qwen2) => {
                let shared = self.required("expert_shared_feed_forward_length")?;
                (required_inner(inner)?, Some(shared), false)
            }
            Kind::Mixture(Router::Qwen3) => (required_inner(inner)?, None, true),
            _ => return Err(unsupported(FILE, "expert_count", count, "none")),
        };
        let router = |layer: usize| {
            let router = format!("model.layers.{layer}.mlp.gate.weight");
            self.gguf.weights.contains(&router)
        };
        Ok(Mixture {
            count,
            used: self.required("expert_used_count")?,
            inner,
            shared,
            layers: (0..layers.min(MAX_LAYERS)).map(router).collect(),
            rule: Rule {
                sigmoid: false,
                normalise,
                scale: 1.0,
                groups: (1, 1),
            },
        })
    }
}

fn required_inner(inner: Option<usize>) -> Result<usize, LoadError> {
    inner.ok_or_else(|| unsupported(FILE, "expert_feed_forward_length", "absent", "a size"))
}

const FILE: &str = "gguf";

/// More are refused later.
const MAX_LAYERS: usize = 1 << 11;
