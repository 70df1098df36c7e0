//! Sizes and settings of a decoder, and the families that differ in them.

mod config;
mod gguf;

use super::rope::{Rope, Scaling};
use crate::config::{check_multiple, check_sizes, unsupported};
use crate::error::LoadError;
use crate::kernel::attention::Heads;
use crate::kernel::level::LANES;
use crate::weights::gguf::MAX_EXPERTS;

/// Models that differ in a few settings only.
#[derive(Debug)]
pub(crate) struct Family {
    /// As `architectures` in config.json has it.
    pub(crate) architecture: &'static str,
    /// As `general.architecture` in GGUF has it.
    pub(crate) gguf: Option<&'static str>,
    /// Whether queries, keys and values have a bias.
    pub(crate) bias: bool,
    /// Whether each head of queries and keys is normalised.
    pub(crate) head_norm: bool,
    /// Whether GGUF has the two halves of a head, which turn together, interleaved.
    interleaved: bool,
    pub(crate) kind: Kind,
}

/// What else sets families apart.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Kind {
    Plain,
    /// `sliding_window` holds for every layer.
    Sliding,
    /// Embeddings are scaled, weights of norms lie around zero, every part of a layer
    /// is normalised before and after, and gates are GELU.
    Gemma,
    /// As [`Self::Gemma`], of a model that also sees: its text is `text_config`.
    NestedGemma,
    /// A mixture of experts.
    Mixture(Router),
    /// DeepSeek: keys and values are made from one small row, and there are experts.
    Latent(Router),
}

/// How config.json says what the router of a mixture does.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Router {
    Mixtral,
    /// With an expert for all tokens, behind a gate.
    Qwen2,
    Qwen3,
    DeepSeek2,
    DeepSeek3,
}

/// Every family that there is.
pub(crate) static FAMILIES: [Family; 12] = [
    Family::of("LlamaForCausalLM", Some("llama"), Kind::Plain).interleaved(),
    Family::of("Qwen2ForCausalLM", Some("qwen2"), Kind::Plain).bias(),
    Family::of("Qwen3ForCausalLM", Some("qwen3"), Kind::Plain).head_norm(),
    Family::of("MistralForCausalLM", None, Kind::Sliding),
    Family::of("Phi3ForCausalLM", None, Kind::Sliding),
    Family::of("Gemma3ForCausalLM", Some("gemma3"), Kind::Gemma).head_norm(),
    Family::of("Gemma3ForConditionalGeneration", None, Kind::NestedGemma).head_norm(),
    Family::of("MixtralForCausalLM", None, Kind::Mixture(Router::Mixtral)),
    Family::of(
        "Qwen2MoeForCausalLM",
        Some("qwen2moe"),
        Kind::Mixture(Router::Qwen2),
    )
    .bias(),
    Family::of(
        "Qwen3MoeForCausalLM",
        Some("qwen3moe"),
        Kind::Mixture(Router::Qwen3),
    )
    .head_norm(),
    Family::of(
        "DeepseekV2ForCausalLM",
        None,
        Kind::Latent(Router::DeepSeek2),
    ),
    Family::of(
        "DeepseekV3ForCausalLM",
        None,
        Kind::Latent(Router::DeepSeek3),
    ),
];

impl Family {
    pub(crate) fn find(architecture: &str) -> Option<&'static Self> {
        FAMILIES
            .iter()
            .find(|family| family.architecture == architecture)
    }

    const fn of(architecture: &'static str, gguf: Option<&'static str>, kind: Kind) -> Self {
        Self {
            architecture,
            gguf,
            bias: false,
            head_norm: false,
            interleaved: false,
            kind,
        }
    }

    const fn bias(self) -> Self {
        Self { bias: true, ..self }
    }

    const fn head_norm(self) -> Self {
        Self {
            head_norm: true,
            ..self
        }
    }

    const fn interleaved(self) -> Self {
        Self {
            interleaved: true,
            ..self
        }
    }

    pub(crate) fn is_gemma(&self) -> bool {
        matches!(self.kind, Kind::Gemma | Kind::NestedGemma)
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
    /// Of feed-forward networks without experts.
    pub(crate) inner: usize,
    pub(crate) layers: usize,
    /// Of what memory holds.
    pub(crate) heads: Heads,
    /// What scores of attention are multiplied with.
    pub(crate) scale: f32,
    pub(crate) epsilon: f32,
    pub(crate) rope: Rope,
    pub(crate) window: Option<Window>,
    pub(crate) latent: Option<Latent>,
    pub(crate) mixture: Option<Mixture>,
    /// Whether the embeddings of tokens are also the last layer.
    pub(crate) tied: bool,
    /// What the file leaves out of the weights of norms.
    pub(crate) norm_offset: f32,
    pub(crate) interleaved: bool,
    /// Whether matrices may be FP8, with a scale for each square of them.
    pub(crate) scaled: bool,
}

/// Of layers that see only so far back.
#[derive(Clone, Debug)]
pub(crate) struct Window {
    /// Positions that they see, their own included.
    pub(crate) size: usize,
    pub(crate) rope: Rope,
    /// Whether a layer is one of them.
    pub(crate) layers: Vec<bool>,
}

/// Widths of attention over one small row for all heads.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Latent {
    /// Of the row that queries are made from, if they are not made at once.
    pub(crate) query: Option<usize>,
    /// Of the row that keys and values are made from.
    pub(crate) row: usize,
    /// Of the part of a query and a key that does not turn, and of the one that does.
    pub(crate) still: usize,
    pub(crate) turning: usize,
    pub(crate) value: usize,
}

/// A mixture of experts.
#[derive(Clone, Debug)]
pub(crate) struct Mixture {
    pub(crate) count: usize,
    /// Experts for each token.
    pub(crate) used: usize,
    pub(crate) inner: usize,
    /// Of the network for all tokens, if there is one.
    pub(crate) shared: Option<usize>,
    /// Whether a layer has experts.
    pub(crate) layers: Vec<bool>,
    pub(crate) rule: Rule,
}

/// How a router's scores become weights of experts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rule {
    /// Sigmoid, and a correction for the choice alone; or softmax.
    pub(crate) sigmoid: bool,
    /// Whether the weights of a token are divided by their sum.
    pub(crate) normalise: bool,
    /// What weights are then multiplied with.
    pub(crate) scale: f32,
    /// Groups of experts, and how many of them a token uses.
    pub(crate) groups: (usize, usize),
}

impl Shape {
    /// Refuses sizes that no real model has and those that kernels cannot divide.
    fn check(self, file: &'static str) -> Result<Self, LoadError> {
        let Heads {
            query,
            kv,
            width,
            values,
        } = self.heads;
        check_sizes(
            file,
            [
                ("vocab_size", self.vocabulary, 1 << 20),
                ("hidden_size", self.hidden, 1 << 16),
                ("intermediate_size", self.inner, 1 << 18),
                ("num_hidden_layers", self.layers, 1 << 10),
                ("num_attention_heads", query, 1 << 10),
                ("num_key_value_heads", kv, 1 << 10),
                ("head_dim", width, 1 << 12),
                ("v_head_dim", values, 1 << 12),
                ("max_position_embeddings", self.context, 1 << 22),
            ],
        )?;
        if query.checked_rem(kv) != Some(0) {
            let expected = format!("a divisor of num_attention_heads, {query}");
            return Err(unsupported(file, "num_key_value_heads", kv, expected));
        }
        check_multiple(file, "head_dim", width, LANES)?;
        check_multiple(file, "intermediate_size", self.inner, LANES)?;
        check_rope(file, self.rope)?;
        if let Some(window) = &self.window {
            check_sizes(file, [("sliding_window", window.size, 1 << 22)])?;
            check_rope(file, window.rope)?;
        }
        if let Some(latent) = self.latent {
            latent.check(file)?;
        }
        if let Some(mixture) = &self.mixture {
            mixture.check(file)?;
        }
        Ok(self)
    }
}

fn check_rope(file: &'static str, rope: Rope) -> Result<(), LoadError> {
    let above = |key, found: f64, least: f64| match found.is_finite() && found > least {
        true => Ok(()),
        false => Err(unsupported(file, key, found, format!("above {least}"))),
    };
    above("rope_theta", rope.theta, 1.0)?;
    match rope.scaling {
        Scaling::Linear(factor) => above("factor", factor, 0.0),
        Scaling::Yarn(yarn) => {
            above("factor", yarn.factor, 0.0)?;
            let original = yarn.original_max_position_embeddings;
            above("original_max_position_embeddings", original, 0.0)
        }
        Scaling::None | Scaling::Llama3(_) => Ok(()),
    }
}

impl Latent {
    fn check(self, file: &'static str) -> Result<(), LoadError> {
        let query = self.query.unwrap_or(LANES);
        for (key, found) in [
            ("q_lora_rank", query),
            ("kv_lora_rank", self.row),
            ("qk_nope_head_dim", self.still),
            ("qk_rope_head_dim", self.turning),
            ("v_head_dim", self.value),
        ] {
            check_sizes(file, [(key, found, 1 << 13)])?;
            check_multiple(file, key, found, LANES)?;
        }
        Ok(())
    }
}

impl Mixture {
    fn check(&self, file: &'static str) -> Result<(), LoadError> {
        check_sizes(
            file,
            [
                ("num_experts", self.count, MAX_EXPERTS),
                ("num_experts_per_tok", self.used, self.count),
                ("moe_intermediate_size", self.inner, 1 << 18),
                (
                    "shared_expert_intermediate_size",
                    self.shared.unwrap_or(1),
                    1 << 18,
                ),
                ("n_group", self.rule.groups.0, self.count),
                ("topk_group", self.rule.groups.1, self.rule.groups.0),
            ],
        )?;
        check_multiple(file, "moe_intermediate_size", self.inner, LANES)?;
        let shared = self.shared.unwrap_or(LANES);
        check_multiple(file, "shared_expert_intermediate_size", shared, LANES)?;
        let (groups, used) = self.rule.groups;
        let Some(group) = self
            .count
            .checked_div(groups)
            .filter(|_| self.count.is_multiple_of(groups))
        else {
            let expected = format!("a divisor of the number of experts, {}", self.count);
            return Err(unsupported(file, "n_group", groups, expected));
        };
        let most = group.saturating_mul(used);
        check_sizes(file, [("num_experts_per_tok", self.used, most)])
    }
}
