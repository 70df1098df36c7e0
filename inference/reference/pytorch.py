"""Speed beside PyTorch: the same random weights in transformers and in the engine.

    python3 pytorch.py [--size tiny|1b|3b|8b] [--device cuda|cpu]

The model is a Llama of that size in BF16, made once under the target folder of cargo,
which builds and runs the engine's bench, on a card with feature `cuda`. In transformers
the cache is static, attention SDPA, and a card's steps are compiled, as its `generate`
does. Each stream reads 512 tokens, or reads 16 and says 64, greedily; figures are tokens
a second of all streams together, and how much of the memory's speed a step is that reads
all weights once, and each stream's keys and values: what a copy by torch reaches is 1.
Needs torch and transformers 5.
"""

import argparse
import gc
import json
import os
import subprocess
import time
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, LlamaConfig, StoppingCriteria

# Hidden, inner, layers, heads of queries and of keys.
SIZES = {
    "tiny": (256, 768, 4, 4, 2),
    "1b": (2048, 8192, 16, 32, 8),
    "3b": (3072, 8192, 28, 24, 8),
    "8b": (4096, 14336, 32, 32, 8),
}
VOCABULARY, END = 128256, 255
STREAMS, LONG, SHORT, TOKENS = (1, 8, 64), 512, 16, 64
HERE = Path(__file__).resolve().parents[2]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--size", choices=SIZES, default="1b")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    args = parser.parse_args()
    target = Path(os.environ.get("CARGO_TARGET_DIR", HERE / "target"))
    directory = target.absolute() / "pytorch" / args.size
    if not directory.exists():
        part = directory.with_suffix(".part")
        write(part, *SIZES[args.size])
        part.rename(directory)
    speed = copy_speed(args.device)
    # Its memory is free again before the engine begins.
    theirs = ask_torch(directory, args.device)
    ours = ask_ours(directory, args.device)
    print(f"{args.size} on {args.device}, copies {speed / 1e9:.0f} GB/s, load {os.getloadavg()[0]:.1f}")
    print("               engine   PyTorch   ratio   share of a copy's speed")
    for row in [f"{part}_{streams}" for part in ("prefill", "decode") for streams in STREAMS]:
        line = f"{row:11} {ours[row]:9.1f} {theirs[row]:9.1f} {ours[row] / theirs[row]:7.2f}"
        part, streams = row.split("_")
        if part == "decode":
            once = step_bytes(directory, int(streams)) / int(streams) / speed
            line += f"   {ours[row] * once:.2f} {theirs[row] * once:.2f}"
        print(line)


def copy_speed(device):
    """Bytes a second, read and written."""
    bytes_ = 1 << (30 if device == "cuda" else 28)
    source = torch.ones(bytes_, dtype=torch.uint8, device=device)
    target = torch.zeros_like(source)
    best = min(timed(lambda: target.copy_(source), device) for _ in range(10))
    return 2 * bytes_ / best


def timed(work, device):
    wait(device)
    start = time.perf_counter()
    work()
    wait(device)
    return time.perf_counter() - start


def wait(device):
    if device == "cuda":
        torch.cuda.synchronize()


def step_bytes(directory, streams):
    """What a step reads, in the middle of an answer; of the embedding hardly anything."""
    config = LlamaConfig.from_pretrained(directory)
    hidden, layers = config.hidden_size, config.num_hidden_layers
    inner, width = config.intermediate_size, config.head_dim
    query, kv = config.num_attention_heads * width, config.num_key_value_heads * width
    layer = hidden * (2 * query + 2 * kv + 3 * inner)
    numbers = layers * layer + VOCABULARY * hidden
    numbers += streams * (SHORT + TOKENS // 2) * layers * 2 * kv
    return 2 * numbers


def ask_ours(directory, device):
    command = ["cargo", "run", "--quiet", "--locked", "--release", "-p", "inference"]
    command += ["--features", "cuda"] if device == "cuda" else []
    streams = ",".join(map(str, STREAMS))
    command += ["--example", "bench", "--", directory, str(END), streams, streams]
    done = subprocess.run(command, cwd=HERE, check=True, stdout=subprocess.PIPE)
    return json.loads(done.stdout)


class Clock(StoppingCriteria):
    """When each token was there."""

    def __init__(self, device):
        self.device, self.times = device, []

    def __call__(self, ids, scores, **kwargs):
        wait(self.device)
        self.times.append(time.perf_counter())
        return torch.zeros(ids.shape[0], dtype=torch.bool, device=ids.device)


def ask_torch(directory, device):
    model = AutoModelForCausalLM.from_pretrained(
        directory, dtype=torch.bfloat16, attn_implementation="sdpa"
    )
    model = model.to(device).eval()
    figures = {}
    for streams in STREAMS:
        # The first time loads and compiles.
        first, _ = [generate(model, streams, LONG, 1, device) for _ in range(2)][-1]
        figures[f"prefill_{streams}"] = streams * LONG / first
        _, rest = [generate(model, streams, SHORT, TOKENS, device) for _ in range(2)][-1]
        figures[f"decode_{streams}"] = streams * (TOKENS - 1) / rest
    del model
    gc.collect()
    if device == "cuda":
        torch.compiler.reset()
        torch.cuda.empty_cache()
    return figures


def generate(model, streams, prompt, tokens, device):
    """Seconds to the first token, and from there to the last."""
    ids = torch.randint(0, END, (streams, prompt), device=device)
    clock = Clock(device)
    wait(device)
    start = time.perf_counter()
    with torch.inference_mode():
        model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            cache_implementation="static",
            do_sample=False,
            min_new_tokens=tokens,
            max_new_tokens=tokens,
            pad_token_id=END,
            stopping_criteria=[clock],
        )
    assert len(clock.times) == tokens
    return clock.times[0] - start, clock.times[-1] - clock.times[0]


def write(directory, hidden, inner, layers, query, kv):
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=hidden,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=query,
        num_key_value_heads=kv,
        max_position_embeddings=8192,
        bos_token_id=None,
        eos_token_id=END,
        tie_word_embeddings=False,
    )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(directory)
    # A token for each byte, and names for the others.
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    names = letters + [f"token{i}" for i in range(len(letters), VOCABULARY)]
    vocabulary = {name: token for token, name in enumerate(names)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(directory / "tokenizer.json"))
    template = "{% for message in messages %}{{ message.content }}{% endfor %}"
    (directory / "chat_template.jinja").write_text(template)


if __name__ == "__main__":
    main()
