//! What config.json says about a decoder. What is not implemented is refused by name.

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use super::{Family, Kind, Latent, Mixture, Router, Rule, Shape, Window};
use crate::config::{FILE, unsupported};
use crate::decoder::rope::{Rope, Scaling};
use crate::decoder::to_f32;
use crate::error::LoadError;
use crate::kernel::attention::Heads;
use crate::kernel::matrix::f8;

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
    hidden_act: Option<String>,
    /// As Gemma calls it.
    hidden_activation: Option<String>,
    tie_word_embeddings: Option<bool>,
    #[serde(default)]
    attention_bias: bool,
    #[serde(default)]
    mlp_bias: bool,
    qkv_bias: Option<bool>,
    quantization_config: Option<Value>,

    rope_theta: Option<f64>,
    rope_scaling: Option<Map<String, Value>>,
    /// Where newer files have both of the above.
    rope_parameters: Option<Map<String, Value>>,
    rope_local_base_freq: Option<f64>,
    rope_interleave: Option<bool>,
    partial_rotary_factor: Option<f64>,

    layer_types: Option<Vec<String>>,
    sliding_window: Option<usize>,
    use_sliding_window: Option<bool>,
    sliding_window_pattern: Option<usize>,
    query_pre_attn_scalar: Option<f64>,
    attn_logit_softcapping: Option<f64>,
    final_logit_softcapping: Option<f64>,
    #[serde(default)]
    use_bidirectional_attention: bool,

    #[serde(alias = "num_local_experts", alias = "n_routed_experts")]
    num_experts: Option<usize>,
    num_experts_per_tok: Option<usize>,
    moe_intermediate_size: Option<usize>,
    shared_expert_intermediate_size: Option<usize>,
    n_shared_experts: Option<usize>,
    norm_topk_prob: Option<bool>,
    mlp_only_layers: Option<Vec<usize>>,
    decoder_sparse_step: Option<usize>,
    first_k_dense_replace: Option<usize>,
    moe_layer_freq: Option<usize>,
    topk_method: Option<String>,
    scoring_func: Option<String>,
    routed_scaling_factor: Option<f32>,
    n_group: Option<usize>,
    topk_group: Option<usize>,

    q_lora_rank: Option<usize>,
    kv_lora_rank: Option<usize>,
    qk_nope_head_dim: Option<usize>,
    qk_rope_head_dim: Option<usize>,
    v_head_dim: Option<usize>,
}

impl Shape {
    /// Of a family, with the settings of config.json.
    pub(crate) fn of_config(family: &'static Family, config: Value) -> Result<Self, LoadError> {
        let config = Config::read(family, config)?;
        config.check(family)?;
        let rope = config.rope(family)?;
        let latent = match family.kind {
            Kind::Latent(_) => Some(config.latent()?),
            _ => None,
        };
        let mixture = match family.kind {
            Kind::Mixture(router) | Kind::Latent(router) => Some(config.mixture(router)?),
            _ => None,
        };
        let query = config.num_attention_heads;
        let head = config.head_dim.or(config.hidden_size.checked_div(query));
        let head = head.unwrap_or(0);
        let (heads, width) = match latent {
            Some(latent) => (
                latent.heads(query),
                latent.still.saturating_add(latent.turning),
            ),
            None => {
                let kv = config.num_key_value_heads.unwrap_or(query);
                let (width, values) = (head, head);
                (
                    Heads {
                        query,
                        kv,
                        width,
                        values,
                    },
                    head,
                )
            }
        };
        let width = u32::try_from(width).map_or(f64::INFINITY, f64::from);
        let width = match family.is_gemma() {
            true => required("query_pre_attn_scalar", config.query_pre_attn_scalar)?,
            false => width,
        };
        let shape = Self {
            family,
            context: config.max_position_embeddings,
            vocabulary: config.vocab_size,
            hidden: config.hidden_size,
            inner: config.intermediate_size,
            layers: config.num_hidden_layers,
            heads,
            scale: to_f32(rope.sharpness() / width.sqrt()),
            epsilon: config.rms_norm_eps,
            rope,
            window: config.window(family, rope)?,
            latent,
            mixture,
            tied: config.tie_word_embeddings.unwrap_or(family.is_gemma()),
            norm_offset: if family.is_gemma() { 1.0 } else { 0.0 },
            interleaved: latent.is_some() && config.rope_interleave != Some(false),
            scaled: config.scaled()?,
        };
        shape.check(FILE)
    }
}

impl Config {
    fn read(family: &Family, mut config: Value) -> Result<Self, LoadError> {
        if family.kind == Kind::NestedGemma {
            let mut text = gemma_defaults();
            let given = config.get_mut("text_config").map(Value::take);
            if let (Value::Object(text), Some(Value::Object(given))) = (&mut text, given) {
                text.extend(given);
            }
            config = text;
        }
        // Null says that there is none.
        let sliding = matches!(family.kind, Kind::Sliding | Kind::Mixture(Router::Mixtral));
        if sliding && config.get("sliding_window").is_none() {
            return Err(unsupported(
                FILE,
                "sliding_window",
                "absent",
                "a size or null",
            ));
        }
        parse(config, "the settings of a decoder")
    }

    /// Refuses settings that are not implemented.
    fn check(&self, family: &Family) -> Result<(), LoadError> {
        let (key, found, expected) = match family.is_gemma() {
            true => (
                "hidden_activation",
                &self.hidden_activation,
                "gelu_pytorch_tanh",
            ),
            false => ("hidden_act", &self.hidden_act, "silu"),
        };
        expect(key, found.as_deref().unwrap_or("absent"), expected)?;
        for (key, found) in [
            // A family that always has it does not say so.
            ("attention_bias", self.attention_bias && !family.bias),
            ("mlp_bias", self.mlp_bias),
            (
                "use_bidirectional_attention",
                self.use_bidirectional_attention,
            ),
        ] {
            expect(key, found, false)?;
        }
        expect(
            "qkv_bias",
            self.qkv_bias.unwrap_or(family.bias),
            family.bias,
        )?;
        expect(
            "partial_rotary_factor",
            self.partial_rotary_factor.unwrap_or(1.0),
            1.0,
        )?;
        let absent = |key, found: Option<String>| {
            found.map_or(Ok(()), |found| expect(key, found.as_str(), "null"))
        };
        absent(
            "attn_logit_softcapping",
            self.attn_logit_softcapping.map(|x| x.to_string()),
        )?;
        absent(
            "final_logit_softcapping",
            self.final_logit_softcapping.map(|x| x.to_string()),
        )
    }

    /// Whether matrices are FP8 with scales, as DeepSeek publishes them. No other
    /// quantisation is known.
    fn scaled(&self) -> Result<bool, LoadError> {
        let Some(settings) = &self.quantization_config else {
            return Ok(false);
        };
        let side = f8::BLOCK;
        for (key, expected) in [
            ("quant_method", json!("fp8")),
            ("fmt", json!("e4m3")),
            ("activation_scheme", json!("dynamic")),
            ("weight_block_size", json!([side, side])),
        ] {
            let found = settings.get(key).unwrap_or(&Value::Null);
            // The types in the file say this, too.
            let unsaid = key == "fmt" && found.is_null();
            if *found != expected && !unsaid {
                return Err(unsupported(FILE, key, found, expected.to_string()));
            }
        }
        Ok(true)
    }

    /// Of layers that see everything.
    fn rope(&self, family: &Family) -> Result<Rope, LoadError> {
        let parameters = self.rope_parameters.as_ref();
        let parameters = match (family.is_gemma(), parameters) {
            (true, Some(all)) => Some(of_layers(all, FULL)?),
            _ => parameters,
        };
        rope(
            self.rope_theta,
            self.rope_scaling.as_ref().or(parameters),
            parameters,
        )
    }

    /// Of layers that see only so far back, if there are any.
    fn window(&self, family: &Family, rope_of_all: Rope) -> Result<Option<Window>, LoadError> {
        let layers = self.windowed(family)?;
        if !layers.contains(&true) {
            return Ok(None);
        }
        if self.use_sliding_window == Some(false) {
            return Err(unsupported(
                FILE,
                "use_sliding_window",
                false,
                "true, by layer_types",
            ));
        }
        let rope = match (family.is_gemma(), &self.rope_parameters) {
            (false, _) => rope_of_all,
            (true, Some(all)) => {
                let parameters = of_layers(all, SLIDING)?;
                rope(None, Some(parameters), Some(parameters))?
            }
            (true, None) => Rope {
                theta: required("rope_local_base_freq", self.rope_local_base_freq)?,
                scaling: Scaling::None,
            },
        };
        let size = required("sliding_window", self.sliding_window)?;
        Ok(Some(Window { size, rope, layers }))
    }

    /// Whether a layer sees only so far back.
    fn windowed(&self, family: &Family) -> Result<Vec<bool>, LoadError> {
        if let Some(types) = &self.layer_types {
            if types.len() != self.num_hidden_layers {
                let expected = format!("{} of them", self.num_hidden_layers);
                return Err(unsupported(FILE, "layer_types", types.len(), expected));
            }
            let windowed = |kind: &String| match kind.as_str() {
                FULL => Ok(false),
                SLIDING => Ok(true),
                found => Err(unsupported(
                    FILE,
                    "layer_types",
                    found,
                    "full_attention or sliding_attention",
                )),
            };
            return types.iter().map(windowed).collect();
        }
        if family.kind == Kind::Plain || matches!(family.kind, Kind::Mixture(_)) {
            expect(
                "use_sliding_window",
                self.use_sliding_window.unwrap_or(false),
                false,
            )?;
        }
        let pattern = match family.kind {
            Kind::Sliding => self.sliding_window.map(|_| usize::MAX),
            Kind::Mixture(Router::Mixtral) => self.sliding_window.map(|_| usize::MAX),
            _ if family.is_gemma() => Some(required(
                "sliding_window_pattern",
                self.sliding_window_pattern,
            )?),
            _ => None,
        };
        let windowed =
            |layer: usize| pattern.is_some_and(|pattern| layer.checked_rem(pattern) != Some(0));
        Ok((1..=self.num_hidden_layers.min(MAX_LAYERS))
            .map(windowed)
            .collect())
    }

    fn latent(&self) -> Result<Latent, LoadError> {
        Ok(Latent {
            query: self.q_lora_rank,
            row: required("kv_lora_rank", self.kv_lora_rank)?,
            still: required("qk_nope_head_dim", self.qk_nope_head_dim)?,
            turning: required("qk_rope_head_dim", self.qk_rope_head_dim)?,
            value: required("v_head_dim", self.v_head_dim)?,
        })
    }

    fn mixture(&self, router: Router) -> Result<Mixture, LoadError> {
        let layers = 0..self.num_hidden_layers.min(MAX_LAYERS);
        let inner = match router {
            Router::Mixtral => self.intermediate_size,
            _ => required("moe_intermediate_size", self.moe_intermediate_size)?,
        };
        let (shared, layers) = match router {
            Router::Mixtral => (None, layers.map(|_| true).collect()),
            Router::Qwen2 | Router::Qwen3 => {
                let step = required("decoder_sparse_step", self.decoder_sparse_step)?;
                let dense = self.mlp_only_layers.as_deref().unwrap_or_default();
                let sparse = |layer: usize| {
                    let next = layer.saturating_add(1);
                    next.checked_rem(step) == Some(0) && !dense.contains(&layer)
                };
                let shared = match router {
                    Router::Qwen2 => Some(required(
                        "shared_expert_intermediate_size",
                        self.shared_expert_intermediate_size,
                    )?),
                    _ => None,
                };
                (shared, layers.map(sparse).collect())
            }
            Router::DeepSeek2 | Router::DeepSeek3 => {
                expect("moe_layer_freq", self.moe_layer_freq.unwrap_or(1), 1)?;
                let dense = required("first_k_dense_replace", self.first_k_dense_replace)?;
                let shared = required("n_shared_experts", self.n_shared_experts)?;
                (
                    Some(shared.saturating_mul(inner)),
                    layers.map(|layer| layer >= dense).collect(),
                )
            }
        };
        Ok(Mixture {
            count: required("num_experts", self.num_experts)?,
            used: required("num_experts_per_tok", self.num_experts_per_tok)?,
            inner,
            shared,
            layers,
            rule: self.rule(router)?,
        })
    }

    fn rule(&self, router: Router) -> Result<Rule, LoadError> {
        let sigmoid = router == Router::DeepSeek3;
        let scoring = if sigmoid { "sigmoid" } else { "softmax" };
        expect(
            "scoring_func",
            self.scoring_func.as_deref().unwrap_or(scoring),
            scoring,
        )?;
        let grouped = || {
            Ok((
                required("n_group", self.n_group)?,
                required("topk_group", self.topk_group)?,
            ))
        };
        let method = self.topk_method.as_deref();
        let groups = match (router, method) {
            (Router::DeepSeek2, Some("greedy")) => (1, 1),
            (Router::DeepSeek2, Some("group_limited_greedy")) => grouped()?,
            (Router::DeepSeek2, found) => {
                let expected = "greedy or group_limited_greedy";
                return Err(unsupported(
                    FILE,
                    "topk_method",
                    found.unwrap_or("absent"),
                    expected,
                ));
            }
            (Router::DeepSeek3, found) => {
                expect("topk_method", found.unwrap_or("noaux_tc"), "noaux_tc")?;
                grouped()?
            }
            _ => (1, 1),
        };
        let normalise = match router {
            Router::Mixtral => true,
            _ => required("norm_topk_prob", self.norm_topk_prob)?,
        };
        if router == Router::DeepSeek2 {
            expect("norm_topk_prob", normalise, false)?;
        }
        let scale = match router {
            Router::DeepSeek2 | Router::DeepSeek3 => {
                required("routed_scaling_factor", self.routed_scaling_factor)?
            }
            _ => 1.0,
        };
        Ok(Rule {
            sigmoid,
            normalise,
            scale,
            groups,
        })
    }
}

impl Latent {
    /// All heads of queries look at one row, and so does memory.
    pub(super) fn heads(self, query: usize) -> Heads {
        Heads {
            query,
            kv: 1,
            width: self.row.saturating_add(self.turning),
            values: self.row,
        }
    }
}

/// Parameters of one kind of layer, where kinds differ in them.
fn of_layers<'a>(
    parameters: &'a Map<String, Value>,
    kind: &'static str,
) -> Result<&'a Map<String, Value>, LoadError> {
    let of_kind = parameters.get(kind).and_then(Value::as_object);
    of_kind.ok_or_else(|| {
        unsupported(
            FILE,
            "rope_parameters",
            "absent",
            format!("those of {kind}"),
        )
    })
}

/// Of a base, and of parameters that may have another.
fn rope(
    theta: Option<f64>,
    scaling: Option<&Map<String, Value>>,
    parameters: Option<&Map<String, Value>>,
) -> Result<Rope, LoadError> {
    let number = |key| {
        parameters
            .and_then(|all| all.get(key))
            .and_then(Value::as_f64)
    };
    expect(
        "partial_rotary_factor",
        number("partial_rotary_factor").unwrap_or(1.0),
        1.0,
    )?;
    let theta = required("rope_theta", number("rope_theta").or(theta))?;
    let scaling = scaling.map_or(Ok(Scaling::None), self::scaling)?;
    Ok(Rope { theta, scaling })
}

fn scaling(all: &Map<String, Value>) -> Result<Scaling, LoadError> {
    let kind = all.get("rope_type").or_else(|| all.get("type"));
    let kind = kind.and_then(Value::as_str).unwrap_or("default");
    let value = || Value::Object(all.clone());
    Ok(match kind {
        "default" => Scaling::None,
        "linear" => {
            let factor = all.get("factor").and_then(Value::as_f64);
            Scaling::Linear(required("factor", factor)?)
        }
        "llama3" => Scaling::Llama3(parse(value(), "that of llama3")?),
        "yarn" => {
            let truncate = all.get("truncate").is_none_or(|truncate| *truncate == true);
            expect("truncate", truncate, true)?;
            Scaling::Yarn(parse(value(), "that of yarn")?)
        }
        found => {
            let expected = "default, linear, llama3 or yarn";
            return Err(unsupported(FILE, "rope_type", found, expected));
        }
    })
}

fn parse<T: DeserializeOwned>(value: Value, expected: &str) -> Result<T, LoadError> {
    serde_json::from_value(value).map_err(|error| unsupported(FILE, "a setting", error, expected))
}

fn required<T>(key: &'static str, found: Option<T>) -> Result<T, LoadError> {
    found.ok_or_else(|| unsupported(FILE, key, "absent", "a value"))
}

fn expect<T: PartialEq + ToString>(
    key: &'static str,
    found: T,
    expected: T,
) -> Result<(), LoadError> {
    match found == expected {
        true => Ok(()),
        false => Err(unsupported(FILE, key, found, expected.to_string())),
    }
}

/// What `text_config` of Gemma 3 leaves out: the defaults of `Gemma3TextConfig` of
/// Hugging Face transformers.
fn gemma_defaults() -> Value {
    json!({
        "vocab_size": 262_208,
        "hidden_size": 2304,
        "intermediate_size": 9216,
        "num_hidden_layers": 26,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "hidden_activation": "gelu_pytorch_tanh",
        "max_position_embeddings": 131_072,
        "rms_norm_eps": 1e-6,
        "query_pre_attn_scalar": 256,
        "sliding_window": 4096,
        "sliding_window_pattern": 6,
        "rope_theta": 1e6,
        "rope_local_base_freq": 1e4,
    })
}

const FULL: &str = "full_attention";
const SLIDING: &str = "sliding_attention";

/// More are refused later.
const MAX_LAYERS: usize = 1 << 11;
