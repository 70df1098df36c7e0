"""Speed beside llama.cpp: the same weights, in turns, as ratios.

    python3 speed.py TARGET LLAMA [--threads N] [--rounds N]

TARGET has release/examples/bench (`cargo build --release -p inference --example
bench`); LLAMA has llama-bench, llama-batched-bench and llama-quantize, which CMake
builds from vendor/llama.cpp of the source package llama-cpp-python. The weights are
random, of the shape of Qwen3-0.6B, made once under TARGET/speed. Needs gguf and numpy.

Each figure is the best of its rounds. Threads beyond those asked for are taken away
with the processors, from both. Both are given large pages, as the kernel of the image
gives them to everybody.
"""

import argparse
import json
import os
import re
import subprocess
from pathlib import Path
from tempfile import TemporaryFile

VOCABULARY, HIDDEN, LAYERS, INNER, QUERY, KV, WIDTH = 151936, 1024, 28, 3072, 16, 8, 128
TYPES = ["Q8_0", "Q4_K"]
END = 255
ROWS = ["prefill_1", "decode_1", "decode_8", "decode_32"]
# Where less is better; llama.cpp's time to load is what it logs.
LESS = ["load_ms", "peak_mb"]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("target", type=Path)
    parser.add_argument("llama", type=Path)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=2)
    args = parser.parse_args()
    os.sched_setaffinity(0, list(os.sched_getaffinity(0))[: args.threads])
    os.environ["GLIBC_TUNABLES"] = "glibc.malloc.hugetlb=1"
    os.environ["LD_LIBRARY_PATH"] = str(args.llama)
    for name in TYPES:
        model = prepare(args.target / "speed", args.llama, name)
        ours, theirs = {}, {}
        for _ in range(args.rounds):
            best(ours, ask_ours(args.target, model))
            best(theirs, ask_llama(args.llama, model, args.threads))
        print(f"{name}, {args.threads} threads, load {os.getloadavg()[0]:.1f}")
        for row in ROWS + LESS:
            ratio = ours[row] / theirs[row]
            print(f"  {row:10} {ours[row]:7.1f} / {theirs[row]:7.1f} = {ratio:.2f}")


def best(kept, found):
    for key, value in found.items():
        choose = min if key in LESS else max
        kept[key] = choose(kept.get(key, value), value)


def ask_ours(target, model):
    bench = target / "release/examples/bench"
    told, _, peak = run([bench, model.parent, END])
    return json.loads(told) | {"peak_mb": peak}


def ask_llama(llama, model, threads):
    common = ["-m", model, "-t", threads]
    single = [llama / "llama-bench", *common, "-p", 512, "-n", 64, "-r", 1, "-o", "json"]
    figures = {}
    for test in json.loads(run(single)[0]):
        figures["decode_1" if test["n_gen"] else "prefill_1"] = test["avg_ts"]
    batched = [*common, "-c", 4096, "-npp", 16, "-ntg", 64, "-npl", "8,32"]
    # So loud that it says how long it loaded.
    batched += ["--output-format", "jsonl", "--perf", "-lv", 4]
    told, logged, figures["peak_mb"] = run([llama / "llama-batched-bench", *batched])
    figures["load_ms"] = float(re.search(r"load time = *([0-9.]+) ms", told + logged)[1])
    for line in told.splitlines():
        if line.startswith("{"):
            test = json.loads(line)
            figures[f"decode_{test['pl']}"] = test["speed_tg"]
    return figures


def run(command):
    """What a program said, what it logged, and its most memory in MB."""
    command = ["timeout", "600", *(str(part) for part in command)]
    with TemporaryFile("w+") as told, TemporaryFile("w+") as logged:
        process = subprocess.Popen(command, stdout=told, stderr=logged)
        _, status, used = os.wait4(process.pid, 0)
        told.seek(0)
        logged.seek(0)
        if status:
            raise SystemExit(logged.read())
        return told.read(), logged.read(), used.ru_maxrss / 1000


def prepare(directory, llama, name):
    model = directory / name / "model.gguf"
    if not model.exists():
        directory.mkdir(exist_ok=True)
        whole = directory / "f16.gguf"
        if not whole.exists():
            write(whole)
        model.parent.mkdir(exist_ok=True)
        template = "{% for message in messages %}{{ message.content }}{% endfor %}"
        (model.parent / "chat_template.jinja").write_text(template)
        run([llama / "llama-quantize", "--pure", whole, model, name])
    return model


def write(path):
    import gguf
    import numpy as np

    random = np.random.default_rng(0)
    writer = gguf.GGUFWriter(path, "qwen3")
    writer.add_context_length(8192)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(QUERY)
    writer.add_head_count_kv(KV)
    writer.add_key_length(WIDTH)
    writer.add_value_length(WIDTH)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(1e6)
    # A byte each, by the letters that byte-level BPE has for them, and then names.
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    bytes_ = [chr(b) for b in plain] + [chr(256 + i) for i in range(256 - len(plain))]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list([*bytes_, "ab", *(f"token{i}" for i in range(VOCABULARY - 257))])
    writer.add_token_types([1] * VOCABULARY)
    writer.add_token_merges(["a b"])
    writer.add_eos_token_id(END)
    matrices = {"token_embd": (VOCABULARY, HIDDEN)}
    norms = {"output_norm": HIDDEN}
    for layer in range(LAYERS):
        for part, shape in {
            "attn_q": (QUERY * WIDTH, HIDDEN),
            "attn_k": (KV * WIDTH, HIDDEN),
            "attn_v": (KV * WIDTH, HIDDEN),
            "attn_output": (HIDDEN, QUERY * WIDTH),
            "ffn_gate": (INNER, HIDDEN),
            "ffn_up": (INNER, HIDDEN),
            "ffn_down": (HIDDEN, INNER),
        }.items():
            matrices[f"blk.{layer}.{part}"] = shape
        for part, length in {
            "attn_norm": HIDDEN,
            "ffn_norm": HIDDEN,
            "attn_q_norm": WIDTH,
            "attn_k_norm": WIDTH,
        }.items():
            norms[f"blk.{layer}.{part}"] = length
    for name, shape in matrices.items():
        numbers = random.standard_normal(shape, dtype=np.float32) * 0.02
        writer.add_tensor(f"{name}.weight", numbers.astype(np.float16))
    for name, length in norms.items():
        writer.add_tensor(f"{name}.weight", np.ones(length, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    main()
