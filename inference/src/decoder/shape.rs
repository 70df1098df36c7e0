//! Sizes and settings of a decoder, and the families that differ in them.

use serde::Deserialize;
use serde_json::Value;

use super::rope::Scaling;
use crate::config::{FILE, check_multiple, check_sizes, unsupported};
use crate::error::LoadError;
use crate::kernel::attention::Heads;
use crate::kernel::level::LANES;
use crate::weights::gguf::Gguf;

/// Models that differ in a few settings only.
#[derive(Debug)]
pub(crate) struct Family {
    /// As `architectures` in config.json has it.
    pub(crate) architecture: &'static str,
    /// As `general.architecture` in GGUF has it.
    pub(crate) gguf: &'static str,
    /// Whether queries, keys and values have a bias.
    bias: bool,
    /// Whether each head of queries and keys is normalised.
    head_norm: bool,
    /// Whether GGUF has the two halves of a head, which turn together, interleaved.
    interleaved: bool,
}

/// Every family that there is.
pub(crate) static FAMILIES: [Family; 3] = [
    Family {
        architecture: "LlamaForCausalLM",
        gguf: "llama",
        bias: false,
        head_norm: false,
        interleaved: true,
    },
    Family {
        architecture: "Qwen2ForCausalLM",
        gguf: "qwen2",
        bias: true,
        head_norm: false,
        interleaved: false,
    },
    Family {
        architecture: "Qwen3ForCausalLM",
        gguf: "qwen3",
        bias: false,
        head_norm: true,
        interleaved: false,
    },
];

impl Family {
    pub(crate) fn find(architecture: &str) -> Option<&'static Self> {
        FAMILIES
            .iter()
            .find(|family| family.architecture == architecture)
    }
}

/// What a model definition needs to know.
#[derive(Clone, Debug)]
pub(crate) struct Shape {
    pub(crate) family: &'static Family,
    /// Tokens that a sequence can have.
    pub(crate) context: usize,
    /// Numbers that the model gives for the next token.
    pub(crate) vocabulary: usize,
    pub(crate) hidden: usize,
    pub(crate) inner: usize,
    pub(crate) layers: usize,
    pub(crate) heads: Heads,
    pub(crate) epsilon: f32,
    pub(crate) theta: f64,
    pub(crate) scaling: Option<Scaling>,
    /// Whether the embeddings of tokens are also the last layer.
    pub(crate) tied: bool,
    pub(crate) bias: bool,
    pub(crate) head_norm: bool,
    pub(crate) interleaved: bool,
}

impl Shape {
    /// Of a family, with the settings of config.json.
    pub(crate) fn of_config(family: &'static Family, config: Config) -> Result<Self, LoadError> {
        config.check(family)?;
        let heads = config.num_attention_heads;
        let width = config
            .head_dim
            .or(config.hidden_size.checked_div(heads))
            .unwrap_or(0);
        let rope = config.rope_parameters.unwrap_or_default();
        let theta = config.rope_theta.or(rope.rope_theta);
        let shape = Self {
            family,
            context: config.max_position_embeddings,
            vocabulary: config.vocab_size,
            hidden: config.hidden_size,
            inner: config.intermediate_size,
            layers: config.num_hidden_layers,
            heads: Heads {
                query: heads,
                kv: config.num_key_value_heads.unwrap_or(heads),
                width,
            },
            epsilon: config.rms_norm_eps,
            theta: theta.ok_or_else(|| unsupported(FILE, "rope_theta", "absent", "a number"))?,
            scaling: config.rope_scaling.unwrap_or(rope).scaling()?,
            tied: config.tie_word_embeddings,
            bias: family.bias,
            head_norm: family.head_norm,
            interleaved: false,
        };
        shape.check(FILE)?;
        Ok(shape)
    }

    /// Of the pairs of a GGUF file.
    pub(crate) fn of_gguf(gguf: &Gguf) -> Result<Self, LoadError> {
        let name = gguf.text("general.architecture").unwrap_or_default();
        let Some(family) = FAMILIES.iter().find(|family| family.gguf == name) else {
            return Err(LoadError::Architecture {
                found: vec![name.into()],
                expected: FAMILIES.iter().map(|family| family.gguf).collect(),
            });
        };
        let optional = |key: &str| gguf.integer(&format!("{name}.{key}"));
        let size = |value: Option<i64>| value.and_then(|value| usize::try_from(value).ok());
        let required = |key: &'static str| {
            size(optional(key)).ok_or_else(|| unsupported(GGUF, key, "absent", "a size"))
        };
        let float = |key: &str| gguf.float(&format!("{name}.{key}"));
        for key in [
            "rope.scaling.type",
            "expert_count",
            "attention.sliding_window",
        ] {
            let key_of = format!("{name}.{key}");
            let none = gguf.integer(&key_of).is_none_or(|count| count == 0);
            let found = gguf.text(&key_of);
            if !none || found.is_some_and(|found| found != "none") {
                let found = found.unwrap_or("set");
                return Err(unsupported(GGUF, key, found, "none"));
            }
        }
        let hidden = required("embedding_length")?;
        let query = required("attention.head_count")?;
        let table = gguf.weights.shape("model.embed_tokens.weight");
        let epsilon = float("attention.layer_norm_rms_epsilon");
        let epsilon = epsilon.ok_or_else(|| {
            unsupported(
                GGUF,
                "attention.layer_norm_rms_epsilon",
                "absent",
                "a number",
            )
        })?;
        let width = size(optional("attention.key_length")).or(hidden.checked_div(query));
        let shape = Self {
            family,
            context: required("context_length")?,
            vocabulary: table.and_then(|shape| shape.first()).copied().unwrap_or(0),
            hidden,
            inner: required("feed_forward_length")?,
            layers: required("block_count")?,
            heads: Heads {
                query,
                kv: size(optional("attention.head_count_kv")).unwrap_or(query),
                width: width.unwrap_or(0),
            },
            epsilon: super::to_f32(epsilon),
            theta: float("rope.freq_base").unwrap_or(10_000.0),
            scaling: None,
            tied: !gguf.weights.contains("lm_head.weight"),
            bias: family.bias,
            head_norm: family.head_norm,
            interleaved: family.interleaved,
        };
        shape.check(GGUF)?;
        Ok(shape)
    }

    /// Refuses sizes that no real model has and those that kernels cannot divide.
    fn check(&self, file: &'static str) -> Result<(), LoadError> {
        let Heads { query, kv, width } = self.heads;
        check_sizes(
            file,
            [
                ("vocab_size", self.vocabulary, 1 << 20),
                ("hidden_size", self.hidden, 1 << 16),
                ("intermediate_size", self.inner, 1 << 18),
                ("num_hidden_layers", self.layers, 1 << 10),
                ("num_attention_heads", query, 1 << 10),
                ("num_key_value_heads", kv, 1 << 10),
                ("head_dim", width, 1 << 10),
                ("max_position_embeddings", self.context, 1 << 22),
            ],
        )?;
        if query.checked_rem(kv) != Some(0) {
            let expected = format!("a divisor of num_attention_heads, {query}");
            return Err(unsupported(file, "num_key_value_heads", kv, expected));
        }
        check_multiple(file, "head_dim", width, LANES)?;
        check_multiple(file, "intermediate_size", self.inner, LANES)
    }
}

/// config.json, as far as it matters.
#[derive(Debug, Deserialize)]
pub(crate) struct Config {
    vocab_size: usize,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    max_position_embeddings: usize,
    rms_norm_eps: f32,
    rope_theta: Option<f64>,
    hidden_act: String,
    #[serde(default)]
    tie_word_embeddings: bool,
    #[serde(default)]
    attention_bias: bool,
    #[serde(default)]
    mlp_bias: bool,
    #[serde(default)]
    use_sliding_window: bool,
    layer_types: Option<Vec<String>>,
    rope_scaling: Option<Rope>,
    /// Where newer files have both of the above.
    rope_parameters: Option<Rope>,
    quantization_config: Option<Value>,
}

/// How angles are made, and changed for longer contexts.
#[derive(Debug, Default, Deserialize)]
struct Rope {
    rope_theta: Option<f64>,
    #[serde(alias = "type")]
    rope_type: Option<String>,
    #[serde(flatten)]
    scaling: Value,
}

impl Rope {
    fn scaling(self) -> Result<Option<Scaling>, LoadError> {
        match self.rope_type.as_deref() {
            None | Some("default") => Ok(None),
            Some("llama3") => match serde_json::from_value(self.scaling) {
                Ok(scaling) => Ok(Some(scaling)),
                Err(error) => Err(unsupported(FILE, "rope_scaling", error, "that of llama3")),
            },
            Some(found) => Err(unsupported(FILE, "rope_type", found, "default or llama3")),
        }
    }
}

impl Config {
    /// Refuses settings that are not implemented.
    fn check(&self, family: &Family) -> Result<(), LoadError> {
        if self.hidden_act != "silu" {
            return Err(unsupported(FILE, "hidden_act", &self.hidden_act, "silu"));
        }
        for (key, found) in [
            // A family that always has it does not say so.
            ("attention_bias", self.attention_bias && !family.bias),
            ("mlp_bias", self.mlp_bias),
            ("use_sliding_window", self.use_sliding_window),
        ] {
            if found {
                return Err(unsupported(FILE, key, found, "false"));
            }
        }
        let mut layers = self.layer_types.iter().flatten();
        if let Some(found) = layers.find(|kind| *kind != "full_attention") {
            return Err(unsupported(FILE, "layer_types", found, "full_attention"));
        }
        match &self.quantization_config {
            Some(found) => Err(unsupported(FILE, "quantization_config", found, "null")),
            None => Ok(()),
        }
    }
}

const GGUF: &str = "gguf";
