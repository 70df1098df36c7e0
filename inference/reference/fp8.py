"""Small models in FP8 with random weights, and what transformers makes of their numbers.

    python3 fp8.py DIRECTORY

As families.py: DIRECTORY/NAME/config.json, model.safetensors and expected.json. Matrices
of layers are E4M3 with a scale for each square of 128 by 128, as DeepSeek and Qwen publish
them; no side is a multiple of 128. Numbers are multiplied with their scales by torch, in
float32, and transformers computes with these. The ones in the tests were made with torch
2.15 and transformers 5.23.
"""

import json
import sys
from pathlib import Path

import torch
from families import IDS, LATENT, SHAPE, YARN, fused, write_expected
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, DeepseekV3Config, Qwen3Config

SIDES = {"hidden_size": 160, "intermediate_size": 288}

# And what scales are held as.
MODELS = {
    "qwen3_fp8": (
        Qwen3Config(**SHAPE | SIDES, head_dim=48, tie_word_embeddings=False),
        torch.bfloat16,
    ),
    "deepseek_v3_fp8": (
        DeepseekV3Config(
            **LATENT | SIDES | {"qk_nope_head_dim": 48, "kv_lora_rank": 144},
            q_lora_rank=48,
            rope_parameters=YARN,
            num_mtp_layers=0,
        ),
        torch.float32,
    ),
}

SIDE = 128


def main(directory):
    torch.manual_seed(2)
    for name, (config, scales) in MODELS.items():
        config.initializer_range = 0.08
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
        to = directory / name
        model.to(torch.bfloat16).save_pretrained(to)
        stored, meant = {}, {}
        for key, tensor in load_file(to / "model.safetensors").items():
            if tensor.dim() == 1 or ".layers." not in key or "mlp.gate.weight" in key:
                stored[key], meant[key] = tensor, tensor.float()
                continue
            number, scale, meant[key] = quantise(tensor.float(), scales)
            stored[key], stored[f"{key}_scale_inv"] = number, scale
        save_file(stored, to / "model.safetensors")
        model = AutoModelForCausalLM.from_pretrained(to, config=config, dtype=torch.float32)
        model.load_state_dict(fused(model, meant), strict=False)
        write_expected(to, model)
        settings = json.loads((to / "config.json").read_text())
        settings["quantization_config"] = {
            "activation_scheme": "dynamic",
            "fmt": "e4m3",
            "quant_method": "fp8",
            "weight_block_size": [SIDE, SIDE],
        }
        (to / "config.json").write_text(json.dumps(settings, indent=2) + "\n")


def quantise(tensor, kind):
    """Numbers, scales, and what they stand for."""
    rows, columns = (-(-side // SIDE) for side in tensor.shape)
    scales = torch.empty(rows, columns)
    for row in range(rows):
        for column in range(columns):
            square = tensor[row * SIDE : (row + 1) * SIDE, column * SIDE : (column + 1) * SIDE]
            scales[row, column] = square.abs().max() / 448
    scales = scales.to(kind)
    wide = scales.float().repeat_interleave(SIDE, 0).repeat_interleave(SIDE, 1)
    wide = wide[: tensor.shape[0], : tensor.shape[1]]
    numbers = (tensor / wide).clamp(-448, 448).to(torch.float8_e4m3fn)
    return numbers, scales, numbers.float() * wide


if __name__ == "__main__":
    main(Path(sys.argv[1]))
