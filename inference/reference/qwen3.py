"""A second implementation of the Qwen3 decoder, to compare the Rust one with.

    python3 qwen3.py ../models/cocoon-tiny > qwen3.json

Plain numpy in float64, written from the description of the architecture, one
prompt at a time and without a cache. Each case gives the token ids of a prompt
and, for the next token, every 61st logit and the eight largest.
"""

import json
import struct
import sys
from pathlib import Path

import numpy as np


def main(directory):
    config = json.loads((directory / "config.json").read_text())
    weights = read_safetensors(directory / "model.safetensors")
    cases = []
    for name, ids in prompts(config["vocab_size"]):
        logits = forward(config, weights, ids)
        top = np.argsort(-logits)[:8]
        cases.append({
            "name": name,
            "ids": ids,
            "every_61st": [round(x, 6) for x in logits[::61]],
            "top": [int(i) for i in top],
            "top_logits": [round(x, 6) for x in logits[top]],
        })
    print(json.dumps(cases))


def prompts(vocabulary):
    """One token, a chat, and more tokens than the model was trained on at a time."""
    yield "one token", [42]
    # <|im_start|>user\nRecite Genesis 1:1.<|im_end|>\n<|im_start|>assistant\n
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(Path(sys.argv[1]) / "tokenizer.json"))
    chat = "<|im_start|>user\nRecite Genesis 1:1.<|im_end|>\n<|im_start|>assistant\n"
    yield "a chat", tokenizer.encode(chat).ids
    yield "three hundred tokens", [(i * i * 7919 + 13) % vocabulary for i in range(300)]


def read_safetensors(path):
    data = path.read_bytes()
    (size,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + size])
    header.pop("__metadata__", None)
    tensors = {}
    for name, entry in header.items():
        begin, end = (8 + size + offset for offset in entry["data_offsets"])
        assert entry["dtype"] == "BF16"
        # The upper half of a float32.
        halves = np.frombuffer(data[begin:end], dtype="<u2").astype("<u4") << 16
        tensors[name] = halves.view("<f4").astype(np.float64).reshape(entry["shape"])
    return tensors


def forward(config, weights, ids):
    """The logits after the last of `ids`."""
    heads, groups = config["num_attention_heads"], config["num_key_value_heads"]
    width, eps = config["head_dim"], config["rms_norm_eps"]
    rows = len(ids)
    causal = np.triu(np.full((rows, rows), -np.inf), 1)
    x = weights["model.embed_tokens.weight"][ids]
    for layer in range(config["num_hidden_layers"]):
        w = {
            name.removeprefix(f"model.layers.{layer}."): tensor
            for name, tensor in weights.items()
            if name.startswith(f"model.layers.{layer}.")
        }
        h = rms_norm(x, w["input_layernorm.weight"], eps)
        q = (h @ w["self_attn.q_proj.weight"].T).reshape(rows, heads, width)
        k = (h @ w["self_attn.k_proj.weight"].T).reshape(rows, groups, width)
        v = (h @ w["self_attn.v_proj.weight"].T).reshape(rows, groups, width)
        q = rotate(rms_norm(q, w["self_attn.q_norm.weight"], eps), config["rope_theta"])
        k = rotate(rms_norm(k, w["self_attn.k_norm.weight"], eps), config["rope_theta"])
        attended = []
        for head in range(heads):
            group = head * groups // heads
            scores = q[:, head] @ k[:, group].T / np.sqrt(width) + causal
            scores = np.exp(scores - scores.max(axis=1, keepdims=True))
            attended.append(scores / scores.sum(axis=1, keepdims=True) @ v[:, group])
        x = x + np.concatenate(attended, axis=1) @ w["self_attn.o_proj.weight"].T
        h = rms_norm(x, w["post_attention_layernorm.weight"], eps)
        gate = h @ w["mlp.gate_proj.weight"].T
        up = h @ w["mlp.up_proj.weight"].T
        x = x + (gate / (1 + np.exp(-gate)) * up) @ w["mlp.down_proj.weight"].T
    x = rms_norm(x[-1], weights["model.norm.weight"], eps)
    head = weights.get("lm_head.weight", weights["model.embed_tokens.weight"])
    return head @ x


def rms_norm(x, weight, eps):
    return x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + eps) * weight


def rotate(x, theta):
    """Rotary embedding of [row, head, width]: number i turns with i + width / 2."""
    rows, _, width = x.shape
    angles = np.outer(np.arange(rows), theta ** (-np.arange(0, width, 2) / width))
    cos, sin = np.cos(angles)[:, None], np.sin(angles)[:, None]
    a, b = x[..., : width // 2], x[..., width // 2 :]
    return np.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
