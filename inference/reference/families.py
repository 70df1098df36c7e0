"""Small models of each family with random weights, and what transformers makes of them.

    python3 families.py DIRECTORY

For each family: DIRECTORY/NAME/config.json and model.safetensors, as transformers
writes them, and expected.json: token ids of a prompt, and the logits after it in
float32. For some also DIRECTORY/NAME.gguf/model.gguf, whose matrices are Q8_0 or
BF16, with the logits of the numbers that are in it; names are those of the `gguf`
package, and what llama.cpp's converter does to numbers is done here. Needs torch,
transformers 5, gguf and numpy. The ones in the tests were made with torch 2.15,
transformers 5.23 and gguf 0.19.
"""

import json
import re
import sys
from pathlib import Path

import gguf
import torch
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    DeepseekV2Config,
    DeepseekV3Config,
    Gemma3TextConfig,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    Phi3Config,
    Qwen2Config,
    Qwen2MoeConfig,
    Qwen3Config,
    Qwen3MoeConfig,
)

SHAPE = {
    "vocab_size": 96,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
    "eos_token_id": 1,
    "bos_token_id": None,
    "pad_token_id": None,
    # Large enough that attention is far from even.
    "initializer_range": 0.15,
}

LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}

GEMMA = {
    "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
    "full_attention": {"rope_type": "linear", "rope_theta": 1000000.0, "factor": 8.0},
}

YARN = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "original_max_position_embeddings": 64,
    "beta_fast": 16,
    "beta_slow": 1,
    "mscale": 0.5,
    "mscale_all_dim": 0.9,
}

# Enough layers that the experts of all tokens are felt by the last one.
LATENT = SHAPE | {
    "num_hidden_layers": 3,
    "num_key_value_heads": 4,
    "kv_lora_rank": 32,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 16,
    "v_head_dim": 32,
    "n_routed_experts": 8,
    "n_shared_experts": 2,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 32,
    "first_k_dense_replace": 1,
    "n_group": 4,
    "topk_group": 2,
    "routed_scaling_factor": 1.7,
}

EXPERTS = {"num_experts_per_tok": 3, "moe_intermediate_size": 32, "num_experts": 8}

FAMILIES = {
    "llama": LlamaConfig(**SHAPE, rope_parameters=LLAMA3, tie_word_embeddings=False),
    "qwen2": Qwen2Config(**SHAPE, tie_word_embeddings=True),
    "qwen3": Qwen3Config(**SHAPE, head_dim=32, tie_word_embeddings=False),
    "qwen2_moe": Qwen2MoeConfig(**SHAPE, **EXPERTS, shared_expert_intermediate_size=48),
    "qwen3_moe": Qwen3MoeConfig(
        **SHAPE | {"num_hidden_layers": 3},
        **EXPERTS,
        head_dim=32,
        norm_topk_prob=True,
        mlp_only_layers=[0],
    ),
    "mixtral": MixtralConfig(
        **SHAPE | {"intermediate_size": 32}, num_local_experts=8, num_experts_per_tok=2
    ),
    "mistral": MistralConfig(**SHAPE, sliding_window=50, tie_word_embeddings=False),
    "phi3": Phi3Config(**SHAPE, sliding_window=150, tie_word_embeddings=False),
    "gemma3": Gemma3TextConfig(
        **SHAPE,
        head_dim=32,
        query_pre_attn_scalar=24,
        sliding_window=45,
        layer_types=["sliding_attention", "full_attention"],
        rope_parameters=GEMMA,
    ),
    "deepseek_v2": DeepseekV2Config(
        **LATENT, q_lora_rank=None, topk_method="group_limited_greedy"
    ),
    "deepseek_v3": DeepseekV3Config(
        **LATENT, q_lora_rank=48, rope_parameters=YARN, num_mtp_layers=0
    ),
}

GGUF = {
    "qwen2_moe": gguf.MODEL_ARCH.QWEN2MOE,
    "qwen3_moe": gguf.MODEL_ARCH.QWEN3MOE,
    "mixtral": gguf.MODEL_ARCH.LLAMA,
    "gemma3": gguf.MODEL_ARCH.GEMMA3,
}

# Whose matrices are in blocks; of the others each number is as it was.
QUANTISED = ["qwen2_moe", "qwen3_moe"]

IDS = [(i * i * 79 + 13) % SHAPE["vocab_size"] for i in range(200)]


def main(directory):
    torch.manual_seed(1)
    for name, config in FAMILIES.items():
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
        with torch.no_grad():
            # Norms and biases begin as ones and zeros, which would hide mistakes.
            for key, tensor in [*model.named_parameters(), *model.named_buffers()]:
                if "norm" in key or "bias" in key:
                    tensor.add_(0.3 * torch.randn_like(tensor))
            model.to(torch.bfloat16).save_pretrained(directory / name)
            # Read again: the rotary frequencies are no weights, but were rounded too.
            model = AutoModelForCausalLM.from_pretrained(directory / name, dtype=torch.float32)
        write_expected(directory / name, model)
    for name, architecture in GGUF.items():
        write_gguf(directory, name, architecture)


def write_expected(directory, model):
    with torch.no_grad():
        logits = model(torch.tensor([IDS])).logits[0, -1]
    expected = {"ids": IDS, "logits": [round(x, 5) for x in logits.tolist()]}
    (directory / "expected.json").write_text(json.dumps(expected))


def write_gguf(directory, name, architecture):
    config = FAMILIES[name]
    if name == "gemma3":
        # Not in the file: llama.cpp takes the width of a head.
        config.query_pre_attn_scalar = config.head_dim
    model = AutoModelForCausalLM.from_pretrained(
        directory / name, config=config, dtype=torch.float32
    )
    weights = load_file(directory / name / "model.safetensors")
    weights = {key: tensor.float() for key, tensor in weights.items()}
    rounded = {}
    writer = gguf.GGUFWriter(None, gguf.MODEL_ARCH_NAMES[architecture])
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    if getattr(config, "head_dim", None):
        writer.add_key_length(config.head_dim)
        writer.add_value_length(config.head_dim)
    if name == "gemma3":
        writer.add_rope_freq_base(GEMMA["full_attention"]["rope_theta"])
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(GEMMA["full_attention"]["factor"])
        writer.add_sliding_window(config.sliding_window)
        writer.add_uint32("gemma3.attention.sliding_window_pattern", 2)
    else:
        writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
        writer.add_expert_count(EXPERTS["num_experts"])
        writer.add_expert_used_count(config.num_experts_per_tok)
    if hasattr(config, "moe_intermediate_size"):
        writer.add_expert_feed_forward_length(config.moe_intermediate_size)
    if hasattr(config, "shared_expert_intermediate_size"):
        writer.add_expert_shared_feed_forward_length(config.shared_expert_intermediate_size)

    names = gguf.get_tensor_name_map(architecture, config.num_hidden_layers)
    stacks = {}
    for key, tensor in weights.items():
        kind = kind_of(key, tensor, name in QUANTISED)
        data = gguf.quantize(tensor.numpy(), kind)
        tensor = torch.from_numpy(gguf.dequantize(data, kind))
        rounded[key] = tensor
        expert = re.fullmatch(r"(.*\.experts)\.(\d+)\.(.*)", key)
        if expert:
            stacks.setdefault(f"{expert[1]}.{expert[3]}", []).append(tensor)
            continue
        if architecture == gguf.MODEL_ARCH.LLAMA and ("q_proj" in key or "k_proj" in key):
            heads = config.num_key_value_heads if "k_proj" in key else config.num_attention_heads
            halves = tensor.reshape(heads, 2, -1, tensor.shape[1])
            tensor = halves.swapaxes(1, 2).reshape(tensor.shape)
        if name == "gemma3" and "norm" in key:
            tensor = tensor + 1
        if "shared_expert_gate" in key:
            tensor = tensor[0]
        add(writer, names, key, tensor, name in QUANTISED)
    for key, tensors in stacks.items():
        add(writer, names, key, torch.stack(tensors), name in QUANTISED)
    model.load_state_dict(fused(model, rounded), strict=False)
    to = directory / f"{name}.gguf"
    to.mkdir(exist_ok=True)
    write_expected(to, model)
    writer.write_header_to_file(to / "model.gguf")
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def add(writer, names, key, tensor, quantised):
    # The map of Llama has a layer without experts, which some have beside others.
    plain = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 3)
    suffixes = (".weight", ".bias")
    name = names.get_name(key, suffixes) or plain.get_name(key, suffixes)
    assert name, key
    kind = kind_of(key, tensor, quantised)
    data = gguf.quantize(tensor.contiguous().numpy(), kind)
    writer.add_tensor(name, data, raw_dtype=kind)


def kind_of(key, tensor, quantised):
    """Of routers and vectors F32; blocks, where they are wanted and fit; or BF16."""
    if tensor.dim() == 1 or "gate.weight" in key:
        return gguf.GGMLQuantizationType.F32
    if tensor.shape[-1] % 32 or not quantised:
        return gguf.GGMLQuantizationType.BF16
    return gguf.GGMLQuantizationType.Q8_0


def fused(model, weights):
    """As transformers has them in memory: experts in one tensor, gates before products."""
    state = {}
    for key in model.state_dict():
        layer = key.rpartition(".mlp.experts.")[0]
        files = [f"{layer}.mlp.experts", ["gate_proj", "up_proj", "down_proj"]]
        if f"{layer}.block_sparse_moe.gate.weight" in weights:
            files = [f"{layer}.block_sparse_moe.experts", ["w1", "w3", "w2"]]
            weights[f"{layer}.mlp.gate.weight"] = weights[f"{layer}.block_sparse_moe.gate.weight"]
        if "mlp.experts." not in key:
            continue
        experts = []
        while f"{files[0]}.{len(experts)}.{files[1][0]}.weight" in weights:
            of = [weights[f"{files[0]}.{len(experts)}.{part}.weight"] for part in files[1]]
            experts.append(torch.cat(of[:2]) if "gate_up" in key else of[2])
        state[key] = torch.stack(experts)
    own = model.state_dict()
    state |= {key: tensor for key, tensor in weights.items() if key in own}
    missing = set(own) - set(state) - {"lm_head.weight"}
    assert not missing, missing
    return state


if __name__ == "__main__":
    main(Path(sys.argv[1]))
