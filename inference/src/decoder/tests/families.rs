//! Every family on small random weights: beside another implementation, in company,
//! and with settings that nobody means.

use std::path::PathBuf;

use serde_json::json;

use super::*;
use crate::weights::Quantise;
use crate::weights::gguf::Gguf;

/// Made by reference/families.py and fp8.py.
const NAMES: [&str; 13] = [
    "llama",
    "qwen2",
    "qwen3",
    "mistral",
    "phi3",
    "gemma3",
    "mixtral",
    "qwen2_moe",
    "qwen3_moe",
    "deepseek_v2",
    "deepseek_v3",
    "qwen3_fp8",
    "deepseek_v3_fp8",
];

#[derive(Deserialize)]
struct Expected {
    ids: Vec<u32>,
    logits: Vec<f32>,
}

impl Expected {
    fn of(name: &str) -> Self {
        let expected = std::fs::read(path(name).join("expected.json")).unwrap();
        serde_json::from_slice(&expected).unwrap()
    }

    /// The largest difference of a logit.
    fn most(&self, reader: &mut Reader) -> f32 {
        let found = reader.logits(&mut Read::default(), &self.ids);
        assert_eq!(found.len(), self.logits.len());
        let pairs = found.iter().zip(&self.logits);
        pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
    }
}

/// Those without experts, and with heads of keys and values.
pub(super) const DENSE: [&str; 6] = ["llama", "qwen2", "qwen3", "mistral", "phi3", "gemma3"];

/// The largest difference of a logit, of a reader that was changed.
pub(super) fn most_difference(name: &str, change: impl Fn(Reader) -> Reader) -> f32 {
    Expected::of(name).most(&mut change(open(name, config(name)).unwrap()))
}

pub(super) fn path(name: &str) -> PathBuf {
    let families = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("reference/families");
    families.join(name)
}

fn config(name: &str) -> Value {
    ModelDir::new(&path(name)).json("config.json").unwrap()
}

fn open(name: &str, config: Value) -> Result<Reader, LoadError> {
    let weights = Weights::open(&ModelDir::new(&path(name))).unwrap();
    Reader::load(config, weights, 1, Cpu::detect())
}

/// Keys and values are halves here: three digits of logits of some units.
const TOLERANCE: f32 = 4e-3;

#[test]
fn every_family_gives_the_logits_of_transformers() {
    for name in NAMES {
        let most = Expected::of(name).most(&mut open(name, config(name)).unwrap());
        println!("{name}: {most}");
        assert!(most < TOLERANCE, "{name}: a logit differs by {most}");
    }
}

#[test]
fn no_company_no_pieces_and_no_processor_change_a_bit() {
    for name in NAMES {
        any_interleaving(name, |threads, cpu| {
            Reader::open(&path(name), threads, cpu).unwrap()
        });
    }
}

/// Reads sequences in random pieces, some of them in each step, one of them from the
/// pages of another, and compares with each alone.
pub(super) fn any_interleaving(name: &str, mut open: impl FnMut(usize, Cpu) -> Reader) {
    let ids = Expected::of(name).ids;
    let shared = 2 * crate::kernel::attention::PAGE;
    let sequences = [&ids[..], &ids[..shared + 17], &ids[5..100], &ids[9..10]];
    let mut reader = open(1, Cpu::PORTABLE);
    let alone = sequences.map(|ids| reader.logits(&mut Read::default(), ids));
    let mut state = 1_u64;
    let mut chance = |below: usize| {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
        usize::try_from(state >> 33).unwrap() % below
    };
    for cpu in Cpu::all() {
        let mut reader = open(1 + chance(4), cpu);
        let mut reads: [Read; 4] = Default::default();
        let mut found: [Vec<f32>; 4] = Default::default();
        while found.iter().any(Vec::is_empty) {
            if reads[1].count == 0 && reads[0].count >= shared {
                reads[1].pages = reads[0].pages[..2].to_vec();
                reads[1].count = shared;
            }
            let mut batch = Vec::new();
            for (index, read) in reads.iter_mut().enumerate() {
                let left = &sequences[index][read.count..];
                let waits = index == 1 && read.count == 0;
                if !waits && !left.is_empty() && chance(3) > 0 {
                    let piece = left.len().min(1 + chance(40));
                    batch.push((index, left.len() == piece, (read, &left[..piece])));
                }
            }
            let places: Vec<_> = batch
                .iter()
                .map(|(index, last, _)| (*index, *last))
                .collect();
            let mut batch: Vec<_> = batch.into_iter().map(|(.., pair)| pair).collect();
            if batch.is_empty() {
                continue;
            }
            for ((index, last), logits) in places.into_iter().zip(reader.step(&mut batch)) {
                if last {
                    found[index] = logits;
                }
            }
        }
        assert!(found == alone, "{name} {cpu:?}");
    }
}

/// Those that reference/families.py also writes as GGUF.
const IN_GGUF: [&str; 4] = [
    "qwen2_moe.gguf",
    "qwen3_moe.gguf",
    "mixtral.gguf",
    "gemma3.gguf",
];

fn open_gguf(name: &str, threads: usize, cpu: Cpu) -> Reader {
    let gguf = Gguf::open(path(name).join("model.gguf")).unwrap();
    let shape = Shape::of_gguf(&gguf).unwrap();
    Reader::with(shape, gguf.weights, threads, cpu).unwrap()
}

#[test]
fn quantised_experts_and_norms_of_gguf_give_the_logits_of_transformers() {
    for name in IN_GGUF {
        let expected = Expected::of(name);
        let most = expected.most(&mut open_gguf(name, 1, Cpu::detect()));
        println!("{name}: {most}");
        // Rows are quantised here, too.
        assert!(most < 0.1, "{name}: a logit differs by {most}");
        any_interleaving(name, |threads, cpu| open_gguf(name, threads, cpu));
    }
}

fn open_quantised(name: &str, threads: usize, cpu: Cpu) -> Reader {
    let mut weights = Weights::open(&ModelDir::new(&path(name))).unwrap();
    weights.quantise = Some(Quantise::Q8_0);
    assert_eq!(weights.tally().format.as_deref(), Some("Q8_0"));
    Reader::load(config(name), weights, threads, cpu).unwrap()
}

#[test]
fn what_is_quantised_here_is_what_ggml_makes_of_it() {
    for name in ["qwen2_moe", "qwen3_moe"] {
        let ids = Expected::of(name).ids;
        let mut here = open_quantised(name, 1, Cpu::detect());
        let mut there = open_gguf(&format!("{name}.gguf"), 1, Cpu::detect());
        let [here, there] =
            [&mut here, &mut there].map(|reader| reader.logits(&mut Read::default(), &ids));
        assert!(here == there, "{name}");
    }
}

#[test]
fn what_is_quantised_gives_nearly_the_logits_of_transformers_in_any_company() {
    for name in ["qwen3", "deepseek_v3", "deepseek_v3_fp8"] {
        let most = Expected::of(name).most(&mut open_quantised(name, 1, Cpu::detect()));
        println!("{name}: {most}");
        // An expert's score may be rounded below another's.
        assert!(most < 0.2, "{name}: a logit differs by {most}");
        any_interleaving(name, |threads, cpu| open_quantised(name, threads, cpu));
    }
}

#[test]
fn a_router_may_be_in_blocks_where_nothing_else_asks_for_them() {
    let mut bytes = std::fs::read(path("qwen3_moe.gguf").join("model.gguf")).unwrap();
    let name = b"blk.1.ffn_gate_inp.weight";
    let found = bytes.windows(name.len()).position(|part| part == name);
    // After its name come how many sizes it has, these, and the type.
    let kind = found.unwrap() + name.len() + 4 + 2 * 8;
    assert_eq!(bytes[kind], 0);
    bytes[kind] = 8;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("model.gguf");
    std::fs::write(&file, bytes).unwrap();
    let gguf = Gguf::open(file).unwrap();
    let shape = Shape::of_gguf(&gguf).unwrap();
    let mut reader = Reader::with(shape, gguf.weights, 1, Cpu::detect()).unwrap();
    let logits = reader.logits(&mut Read::default(), &[3, 1, 4]);
    assert_eq!(logits.len(), 96);
}

#[test]
fn fp8_without_its_settings_its_scales_or_with_what_is_no_number_is_refused() {
    let name = "model.layers.0.self_attn.q_proj.weight";
    let mut plain = config("qwen3_fp8");
    plain.as_object_mut().unwrap().remove("quantization_config");
    let error = open("qwen3_fp8", plain).err().unwrap();
    assert_eq!(
        error.to_string(),
        format!("weights: {name} has dtype F8_E4M3, expected F32, F16, BF16, Q8_0, Q4_K or Q6_K"),
    );
    let whole = std::fs::read(path("qwen3_fp8").join("model.safetensors")).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let reason = |bytes: &[u8]| {
        std::fs::write(dir.path().join("model.safetensors"), bytes).unwrap();
        let weights = Weights::open(&ModelDir::new(dir.path())).unwrap();
        let error = Reader::load(config("qwen3_fp8"), weights, 1, Cpu::detect()).err();
        let error = error.unwrap();
        match std::error::Error::source(&error) {
            Some(source) => source.to_string(),
            None => error.to_string(),
        }
    };
    let (length, rest) = whole.split_first_chunk().unwrap();
    let (header, _) = rest.split_at(usize::try_from(u64::from_le_bytes(*length)).unwrap());
    let parsed: Value = serde_json::from_slice(header).unwrap();
    let start = parsed[name]["data_offsets"][0].as_u64().unwrap();
    let mut none = whole.clone();
    none[8 + header.len() + usize::try_from(start).unwrap() + 7] = 0xff;
    assert_eq!(reason(&none), "a weight is not a number");
    let header = String::from_utf8(header.to_vec()).unwrap();
    let scales = format!("{name}_scale_inv");
    let renamed = header.replace(&scales, &scales.replace("inv", "xxx"));
    let mut without = whole.clone();
    without[8..8 + header.len()].copy_from_slice(renamed.as_bytes());
    assert_eq!(
        reason(&without),
        format!("weights: {scales} has no entry, expected shape [2, 2]"),
    );
}

#[test]
fn every_setting_is_felt() {
    let yarn = |key: &str, value: Value| {
        let mut yarn = config("deepseek_v3")["rope_parameters"].clone();
        yarn[key] = value;
        yarn
    };
    for (name, key, value) in [
        ("mistral", "sliding_window", json!(51)),
        ("phi3", "sliding_window", json!(null)),
        ("gemma3", "sliding_window", json!(46)),
        ("gemma3", "query_pre_attn_scalar", json!(32)),
        (
            "gemma3",
            "layer_types",
            json!(["full_attention", "sliding_attention"]),
        ),
        ("mixtral", "num_experts_per_tok", json!(3)),
        ("qwen2_moe", "norm_topk_prob", json!(true)),
        ("qwen3_moe", "norm_topk_prob", json!(false)),
        ("deepseek_v2", "topk_method", json!("greedy")),
        ("deepseek_v2", "routed_scaling_factor", json!(1.6)),
        ("deepseek_v3", "topk_group", json!(4)),
        ("deepseek_v3", "norm_topk_prob", json!(false)),
        ("deepseek_v3", "rope_interleave", json!(false)),
        ("deepseek_v3", "rope_parameters", yarn("mscale", json!(1.2))),
        (
            "deepseek_v3",
            "rope_parameters",
            yarn("mscale_all_dim", json!(0.7)),
        ),
        (
            "deepseek_v3",
            "rope_parameters",
            yarn("attention_factor", json!(1)),
        ),
        (
            "deepseek_v3",
            "rope_parameters",
            yarn("beta_fast", json!(1)),
        ),
        (
            "deepseek_v3",
            "rope_parameters",
            yarn("beta_slow", json!(8)),
        ),
        ("deepseek_v3", "rope_parameters", yarn("factor", json!(4))),
    ] {
        let mut config = config(name);
        config[key] = value;
        let most = Expected::of(name).most(&mut open(name, config).unwrap());
        assert!(most > TOLERANCE, "{name} {key}: {most}");
    }
}

#[test]
fn gemma_is_the_same_in_every_layout_of_its_settings() {
    let expected = Expected::of("gemma3");
    let mut plain = config("gemma3");
    let settings = plain.as_object_mut().unwrap();
    settings.remove("rope_parameters");
    settings.remove("layer_types");
    let older = json!({
        "sliding_window_pattern": 2,
        "rope_theta": 1e6,
        "rope_local_base_freq": 1e4,
        "rope_scaling": {"rope_type": "linear", "factor": 8.0},
    });
    settings.extend(older.as_object().unwrap().clone());
    assert!(expected.most(&mut open("gemma3", plain.clone()).unwrap()) < TOLERANCE);

    // What `text_config` leaves out is as in the published models.
    for (key, value) in [
        ("hidden_activation", json!("gelu_pytorch_tanh")),
        ("rope_theta", json!(1e6)),
    ] {
        assert_eq!(plain.as_object_mut().unwrap().remove(key), Some(value));
    }
    let bytes = std::fs::read(path("gemma3").join("model.safetensors")).unwrap();
    for (from, to) in [
        ("model.", "language_model.model."),
        ("model.", "model.language_model."),
    ] {
        let (length, rest) = bytes.split_first_chunk().unwrap();
        let (header, data) = rest.split_at(usize::try_from(u64::from_le_bytes(*length)).unwrap());
        let header = String::from_utf8(header.to_vec()).unwrap();
        let header = header.replace(&format!("\"{from}"), &format!("\"{to}"));
        let length = u64::try_from(header.len()).unwrap().to_le_bytes();
        let dir = tempfile::tempdir().unwrap();
        let whole = [&length, header.as_bytes(), data].concat();
        std::fs::write(dir.path().join("model.safetensors"), whole).unwrap();
        let nested =
            json!({"architectures": ["Gemma3ForConditionalGeneration"], "text_config": plain});
        let weights = Weights::open(&ModelDir::new(dir.path())).unwrap();
        let mut reader = Reader::load(nested, weights, 1, Cpu::detect()).unwrap();
        assert!(expected.most(&mut reader) < TOLERANCE);
    }
}

#[test]
fn a_setting_that_is_left_out_is_refused_or_changes_nothing() {
    for name in NAMES {
        let expected = Expected::of(name);
        let whole = config(name);
        for key in whole
            .as_object()
            .unwrap()
            .keys()
            .filter(|key| *key != "architectures")
        {
            let mut config = whole.clone();
            config.as_object_mut().unwrap().remove(key);
            if let Ok(mut reader) = open(name, config) {
                let most = expected.most(&mut reader);
                assert!(most < TOLERANCE, "{name} without {key}: {most}");
            }
        }
    }
}

#[test]
fn no_number_in_the_settings_makes_it_panic_or_take_much() {
    let numbers = [
        json!(0),
        json!(1),
        json!(7),
        json!(24),
        json!(1_u64 << 40),
        json!(u64::MAX),
        json!(-1),
        json!(0.5),
    ];
    for name in NAMES {
        let whole = config(name);
        for (key, value) in whole.as_object().unwrap() {
            if !value.is_number() && !value.is_null() {
                continue;
            }
            for number in &numbers {
                let mut config = whole.clone();
                config[key] = number.clone();
                if let Ok(mut reader) = open(name, config) {
                    reader.logits(&mut Read::default(), &[3, 1, 4]);
                }
            }
        }
    }
}

#[test]
fn what_a_family_cannot_do_is_refused_by_name() {
    let fp8 = |key: &str, value: Value| {
        let mut settings = config("qwen3_fp8")["quantization_config"].clone();
        settings[key] = value;
        settings
    };
    for (name, key, value, message) in [
        (
            "mixtral",
            "num_local_experts",
            json!(0),
            "num_experts is 0, expected 1 to 4096",
        ),
        (
            "mixtral",
            "num_local_experts",
            json!(5000),
            "num_experts is 5000, expected 1 to 4096",
        ),
        (
            "mixtral",
            "num_experts_per_tok",
            json!(9),
            "num_experts_per_tok is 9, expected 1 to 8",
        ),
        (
            "mixtral",
            "num_experts_per_tok",
            json!(null),
            "num_experts_per_tok is absent, expected a value",
        ),
        (
            "mixtral",
            "intermediate_size",
            json!(24),
            "intermediate_size is 24, expected a multiple of 16",
        ),
        (
            "qwen3_moe",
            "num_experts_per_tok",
            json!(0),
            "num_experts_per_tok is 0, expected 1 to 8",
        ),
        (
            "qwen3_moe",
            "moe_intermediate_size",
            json!(40),
            "moe_intermediate_size is 40, expected a multiple of 16",
        ),
        (
            "qwen3_moe",
            "moe_intermediate_size",
            json!(1_u64 << 40),
            "moe_intermediate_size is 1099511627776, expected 1 to 262144",
        ),
        (
            "qwen3_moe",
            "norm_topk_prob",
            json!(null),
            "norm_topk_prob is absent, expected a value",
        ),
        (
            "qwen3_moe",
            "use_sliding_window",
            json!(true),
            "use_sliding_window is true, expected false",
        ),
        (
            "qwen2_moe",
            "qkv_bias",
            json!(false),
            "qkv_bias is false, expected true",
        ),
        (
            "qwen2_moe",
            "shared_expert_intermediate_size",
            json!(9),
            "shared_expert_intermediate_size is 9, expected a multiple of 16",
        ),
        (
            "mistral",
            "sliding_window",
            json!(0),
            "sliding_window is 0, expected 1 to 4194304",
        ),
        (
            "phi3",
            "partial_rotary_factor",
            json!(0.75),
            "partial_rotary_factor is 0.75, expected 1",
        ),
        (
            "gemma3",
            "hidden_activation",
            json!("gelu"),
            "hidden_activation is gelu, expected gelu_pytorch_tanh",
        ),
        (
            "gemma3",
            "attn_logit_softcapping",
            json!(50.0),
            "attn_logit_softcapping is 50, expected null",
        ),
        (
            "gemma3",
            "final_logit_softcapping",
            json!(30.0),
            "final_logit_softcapping is 30, expected null",
        ),
        (
            "gemma3",
            "use_bidirectional_attention",
            json!(true),
            "use_bidirectional_attention is true, expected false",
        ),
        (
            "gemma3",
            "query_pre_attn_scalar",
            json!(null),
            "query_pre_attn_scalar is absent, expected a value",
        ),
        (
            "gemma3",
            "layer_types",
            json!(["full_attention"]),
            "layer_types is 1, expected 2 of them",
        ),
        (
            "gemma3",
            "layer_types",
            json!(["full_attention", "chunked_attention"]),
            "layer_types is chunked_attention, expected full_attention or sliding_attention",
        ),
        (
            "deepseek_v2",
            "topk_method",
            json!("noaux_tc"),
            "topk_method is noaux_tc, expected greedy or group_limited_greedy",
        ),
        (
            "deepseek_v2",
            "scoring_func",
            json!("sigmoid"),
            "scoring_func is sigmoid, expected softmax",
        ),
        (
            "deepseek_v2",
            "norm_topk_prob",
            json!(true),
            "norm_topk_prob is true, expected false",
        ),
        (
            "deepseek_v3",
            "scoring_func",
            json!("softmax"),
            "scoring_func is softmax, expected sigmoid",
        ),
        (
            "deepseek_v3",
            "topk_method",
            json!("greedy"),
            "topk_method is greedy, expected noaux_tc",
        ),
        (
            "deepseek_v3",
            "moe_layer_freq",
            json!(2),
            "moe_layer_freq is 2, expected 1",
        ),
        (
            "deepseek_v3",
            "attention_bias",
            json!(true),
            "attention_bias is true, expected false",
        ),
        (
            "deepseek_v3",
            "n_group",
            json!(3),
            "n_group is 3, expected a divisor of the number of experts, 8",
        ),
        (
            "deepseek_v3",
            "topk_group",
            json!(5),
            "topk_group is 5, expected 1 to 4",
        ),
        (
            "deepseek_v3",
            "topk_group",
            json!(1),
            "num_experts_per_tok is 3, expected 1 to 2",
        ),
        (
            "deepseek_v3",
            "kv_lora_rank",
            json!(24),
            "head_dim is 40, expected a multiple of 16",
        ),
        (
            "deepseek_v3",
            "qk_nope_head_dim",
            json!(17),
            "qk_nope_head_dim is 17, expected a multiple of 16",
        ),
        (
            "deepseek_v3",
            "quantization_config",
            json!("fp8"),
            "quant_method is null, expected \"fp8\"",
        ),
        (
            "deepseek_v3",
            "quantization_config",
            fp8("quant_method", json!("gptq")),
            "quant_method is \"gptq\", expected \"fp8\"",
        ),
        (
            "deepseek_v3",
            "quantization_config",
            fp8("fmt", json!("e5m2")),
            "fmt is \"e5m2\", expected \"e4m3\"",
        ),
        (
            "deepseek_v3",
            "quantization_config",
            fp8("activation_scheme", json!("static")),
            "activation_scheme is \"static\", expected \"dynamic\"",
        ),
        (
            "deepseek_v3",
            "quantization_config",
            fp8("weight_block_size", json!([64, 128])),
            "weight_block_size is [64,128], expected [128,128]",
        ),
        (
            "deepseek_v3",
            "quantization_config",
            fp8("weight_block_size", json!(null)),
            "weight_block_size is null, expected [128,128]",
        ),
        (
            "deepseek_v3",
            "rope_parameters",
            json!({"rope_type": "yarn", "rope_theta": 1e4}),
            "a setting is missing field `factor`, expected that of yarn",
        ),
        (
            "deepseek_v3",
            "rope_parameters",
            json!({"rope_type": "linear", "rope_theta": 1e4, "factor": 0}),
            "factor is 0, expected above 0",
        ),
        (
            "deepseek_v3",
            "rope_parameters",
            json!({"rope_theta": 1}),
            "rope_theta is 1, expected above 1",
        ),
    ] {
        let mut config = config(name);
        config[key] = value;
        let error = open(name, config).err().map(|error| error.to_string());
        assert_eq!(
            error,
            Some(format!("config.json: {message}")),
            "{name} {key}"
        );
    }
}
