"""Small models of each family with random weights, and what transformers makes of them.

    python3 families.py DIRECTORY

For each family: DIRECTORY/NAME/config.json and model.safetensors, as transformers
writes them, and expected.json: token ids of a prompt, and the logits after it in
float32. Needs torch, transformers 5 and numpy. The ones in the tests were made with
torch 2.15 and transformers 5.23.
"""

import json
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config, Qwen3Config

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

FAMILIES = {
    "llama": LlamaConfig(**SHAPE, rope_parameters=LLAMA3, tie_word_embeddings=False),
    "qwen2": Qwen2Config(**SHAPE, tie_word_embeddings=True),
    "qwen3": Qwen3Config(**SHAPE, head_dim=32, tie_word_embeddings=False),
}


def main(directory):
    torch.manual_seed(1)
    for name, config in FAMILIES.items():
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
        with torch.no_grad():
            # Norms and biases begin as ones and zeros, which would hide mistakes.
            for key, tensor in model.named_parameters():
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
