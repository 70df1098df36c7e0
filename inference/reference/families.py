"""Small models of each family with random weights, and what transformers makes of them.

    python3 families.py DIRECTORY

For each family: DIRECTORY/NAME/config.json and model.safetensors, as transformers
writes them, and expected.json: token ids of a prompt, and the logits after it in
float32. For those that GGUF has under other names or in another order, also
DIRECTORY/NAME.gguf with the same weights; names and keys are those of the `gguf`
package. Needs torch, transformers 5, gguf and numpy. The ones in the tests were made
with torch 2.15, transformers 5.23 and gguf 0.19.
"""

import json
import sys
from pathlib import Path

import gguf
import torch
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
    "mscale": 0.7,
    "mscale_all_dim": 1.2,
}

LATENT = SHAPE | {
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
        **SHAPE, **EXPERTS, head_dim=32, norm_topk_prob=True, mlp_only_layers=[0]
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

# As GGUF calls them.
GGUF = {
    "qwen2_moe": "qwen2moe",
    "qwen3_moe": "qwen3moe",
    "mixtral": "llama",
    "gemma3": "gemma3",
    "phi3": "phi3",
}


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
            ids = [(i * i * 79 + 13) % SHAPE["vocab_size"] for i in range(200)]
            logits = model(torch.tensor([ids])).logits[0, -1]
        expected = {"ids": ids, "logits": [round(x, 5) for x in logits.tolist()]}
        (directory / name / "expected.json").write_text(json.dumps(expected))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
