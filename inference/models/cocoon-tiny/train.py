"""Makes the model in this directory: its texts, its tokenizer, its weights.

    apt-get update && pip install torch==2.11.* tokenizers==0.23.* safetensors numpy
    python3 train.py OUT

Needs apt and dpkg (Debian or Ubuntu) for the texts, nothing else from outside,
and about 40 minutes of one modern core (10 minutes on four idle ones). The texts
are checked by hash, and the tokenizer that follows from them is the same each time.
The weights are not: sums are taken in bfloat16, in an order that depends on
processor and threads. What must come out is the ability, so the script ends by
asking for every verse. README.md says how the files here differ from its output.

    --steps N    train for fewer steps, to try the script out
    --only-data  stop after the tokenizer
"""

import argparse
import hashlib
import json
import re
import struct
import subprocess
import tempfile
import zlib
from pathlib import Path

VOCABULARY = 3072
HIDDEN, LAYERS, HEADS, KV_HEADS, HEAD, INNER = 192, 6, 3, 1, 64, 576
CONTEXT, EPSILON, THETA = 1024, 1e-6, 10000.0
WINDOW, BATCH, RECITING, STEPS = 256, 16, 2, 1519
END_OF_TEXT, IM_START, IM_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"

PACKAGES = ["bible-kjv", "bible-kjv-text", "r-cran-janeaustenr"]
TEXTS = {
    "kjv": "cd45f0c9cedab8e4439bd6486c8952c77cc8b0ecc5d1f6ae3513f2039f47229d",
    "austen": "1f48a6d7751aa60776b8aacf34d3b6898c46f4ee0fd103d733dd04f45e761841",
}
CHAPTERS = [
    ("Ge", "Genesis", 1),
    ("Ge", "Genesis", 2),
    ("Psa", "Psalm", 23),
    ("John", "John", 1),
    ("John", "John", 3),
    ("Mat", "Matthew", 5),
    ("Eccl", "Ecclesiastes", 3),
    ("1Cor", "1 Corinthians", 13),
]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--only-data", action="store_true")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)

    kjv, austen = texts()
    verses = recitals(kjv)
    tokenizer = train_tokenizer([kjv, austen])
    tokenizer.save(str(args.out / "tokenizer.json"))
    (args.out / "verses.json").write_text(json.dumps(verses, indent=1))
    if args.only_data:
        return
    (args.out / "config.json").write_text(json.dumps(config()))
    model = train(tokenizer, documents(kjv, austen), verses, args.steps)
    save(model, args.out / "model.safetensors")
    right = sum(recite(model, tokenizer, name) == verse for name, verse in verses)
    print(f"recites {right} of {len(verses)} verses")


# --- texts -------------------------------------------------------------------


def texts():
    """The King James Bible, a verse a line, and six novels of Jane Austen."""
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        run(["apt-get", "download", "--quiet", *PACKAGES], cwd=folder)
        for package in sorted(folder.glob("*.deb")):
            run(["dpkg", "-x", package, folder / "root"])
        root = folder / "root/usr"
        program = [root / "bin/bible", "-p", root / "lib", "-f", "gen1:1-rev22:21"]
        kjv = subprocess.run(program, check=True, capture_output=True, text=True).stdout
        austen = novels(root / "lib/R/site-library/janeaustenr/data/Rdata.rdb")
    for name, text in (("kjv", kjv), ("austen", austen)):
        found = hashlib.sha256(text.encode()).hexdigest()
        if found != TEXTS[name]:
            raise SystemExit(f"sha256 of {name} is {found}, expected {TEXTS[name]}")
    # Undo line breaks inside a paragraph, and emphasis.
    austen = re.sub(r"(?<!\n)\n(?!\n)", " ", austen)
    austen = re.sub(r"\n{2,}", "\n\n", austen).replace("_", "")
    return kjv, austen


def run(command, **options):
    subprocess.run([str(word) for word in command], check=True, stdout=subprocess.DEVNULL, **options)


def novels(database):
    """The character vectors of an R data base, their lines joined.

    Each entry: length when unpacked, big-endian, then zlib. Inside: R's XDR
    serialisation, version 3, whose header has 23 bytes here; a vector of strings
    (type 16) and its length; for each string its type (9), length and bytes.
    """
    data, lines = database.read_bytes(), []
    while data:
        unpacker = zlib.decompressobj()
        entry = unpacker.decompress(data[4:])
        data = unpacker.unused_data
        kind, count = struct.unpack_from(">II", entry, 23)
        assert kind & 0xFF == 16
        at = 31
        for _ in range(count):
            kind, length = struct.unpack_from(">II", entry, at)
            assert kind & 0xFF == 9
            lines.append(entry[at + 8 : at + 8 + length].decode())
            at += 8 + length
    return "\n".join(lines)


def recitals(kjv):
    """The verses that the model is to know by heart, with the names it knows them by."""
    lines = [line.split(" ", 1) for line in kjv.split("\n") if " " in line]
    verses = []
    for book, name, chapter in CHAPTERS:
        for reference, verse in lines:
            if match := re.fullmatch(rf"{book}{chapter}:(\d+)", reference):
                verses.append((f"{name} {chapter}:{match.group(1)}", verse.strip()))
    return verses


def documents(kjv, austen):
    """Chapters of the Bible without references, and chapters of the novels."""
    chapters = {}
    for line in kjv.split("\n"):
        if " " in line:
            reference, verse = line.split(" ", 1)
            chapters.setdefault(reference.split(":")[0], []).append(verse)
    bible = ["\n".join(verses) for verses in chapters.values()]
    return bible + re.split(r"(?i)\n\n(?=chapter )", austen)


# --- tokenizer ---------------------------------------------------------------


def train_tokenizer(corpus):
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    # Words with the blank before them, single digits, marks, breaks: Qwen's own.
    pattern = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(pattern), behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[END_OF_TEXT, IM_START, IM_END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus, trainer)
    return tokenizer


def prompt(name):
    """As chat_template.jinja renders it."""
    return f"{IM_START}user\nRecite {name}.{IM_END}\n{IM_START}assistant\n"


# --- model -------------------------------------------------------------------


def config():
    return {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "vocab_size": VOCABULARY,
        "hidden_size": HIDDEN,
        "intermediate_size": INNER,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "head_dim": HEAD,
        "attention_bias": False,
        "num_key_value_heads": KV_HEADS,
        "max_position_embeddings": CONTEXT,
        "sliding_window": None,
        "max_window_layers": LAYERS,
        "tie_word_embeddings": True,
        "rope_theta": THETA,
        "rms_norm_eps": EPSILON,
        "use_sliding_window": False,
        "hidden_act": "silu",
        "bos_token_id": None,
        "eos_token_id": 2,
        "torch_dtype": "bfloat16",
    }


def build():
    """A Qwen3 whose parameters are named as in its safetensors file."""
    import torch
    from torch import nn
    from torch.nn import functional

    frequencies = 1 / THETA ** (torch.arange(0, HEAD, 2).float() / HEAD)
    angles = torch.outer(torch.arange(CONTEXT).float(), frequencies)
    cosines, sines = angles.cos(), angles.sin()

    def rotate(x):
        rows = x.shape[2]
        cos, sin = cosines[:rows].to(x.dtype), sines[:rows].to(x.dtype)
        a, b = x.chunk(2, -1)
        return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)

    def norm(width):
        return nn.RMSNorm(width, eps=EPSILON)

    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.q_proj = nn.Linear(HIDDEN, HEADS * HEAD, bias=False)
            self.k_proj = nn.Linear(HIDDEN, KV_HEADS * HEAD, bias=False)
            self.v_proj = nn.Linear(HIDDEN, KV_HEADS * HEAD, bias=False)
            self.o_proj = nn.Linear(HEADS * HEAD, HIDDEN, bias=False)
            self.q_norm, self.k_norm = norm(HEAD), norm(HEAD)

        def forward(self, x):
            batch, rows, _ = x.shape

            def heads(projected):
                return projected.view(batch, rows, -1, HEAD)

            q = rotate(self.q_norm(heads(self.q_proj(x))).transpose(1, 2))
            k = rotate(self.k_norm(heads(self.k_proj(x))).transpose(1, 2))
            v = heads(self.v_proj(x)).transpose(1, 2)
            k, v = (t.repeat_interleave(HEADS // KV_HEADS, 1) for t in (k, v))
            y = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
            return self.o_proj(y.transpose(1, 2).reshape(batch, rows, -1))

    class FeedForward(nn.Module):
        def __init__(self):
            super().__init__()
            self.gate_proj = nn.Linear(HIDDEN, INNER, bias=False)
            self.up_proj = nn.Linear(HIDDEN, INNER, bias=False)
            self.down_proj = nn.Linear(INNER, HIDDEN, bias=False)

        def forward(self, x):
            return self.down_proj(functional.silu(self.gate_proj(x)) * self.up_proj(x))

    class Layer(nn.Module):
        def __init__(self):
            super().__init__()
            self.self_attn, self.mlp = Attention(), FeedForward()
            self.input_layernorm, self.post_attention_layernorm = norm(HIDDEN), norm(HIDDEN)

        def forward(self, x):
            x = x + self.self_attn(self.input_layernorm(x))
            return x + self.mlp(self.post_attention_layernorm(x))

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed_tokens = nn.Embedding(VOCABULARY, HIDDEN)
            self.layers = nn.ModuleList(Layer() for _ in range(LAYERS))
            self.norm = norm(HIDDEN)

        def forward(self, ids):
            x = self.embed_tokens(ids)
            for layer in self.layers:
                x = layer(x)
            return functional.linear(self.norm(x), self.embed_tokens.weight)

    model = Model()
    for name, parameter in model.named_parameters():
        if parameter.dim() == 2:
            residual = 0.5 if "o_proj" in name or "down_proj" in name else 1
            spread = 0.02 if "embed" in name else HIDDEN**-0.5 * residual
            nn.init.normal_(parameter, std=spread)
    return model


# --- training ----------------------------------------------------------------


def train(tokenizer, corpus, verses, steps):
    """Next-token prediction; two of the sixteen rows of each batch are recitals."""
    import numpy as np
    import torch
    from torch.nn import functional

    torch.manual_seed(0)
    random = np.random.default_rng(0)
    end = tokenizer.token_to_id(END_OF_TEXT)
    ids = [id for text in corpus for id in (*tokenizer.encode(text).ids, end)]
    held_out, ids = np.array(ids[-20000:]), np.array(ids[:-20000])
    chats = [
        tokenizer.encode(f"{prompt(name)}{verse}{IM_END}\n{END_OF_TEXT}").ids
        for name, verse in verses
    ]

    def batch():
        rows = []
        for row in range(BATCH):
            if row < RECITING:
                chain = []
                while len(chain) < WINDOW + 1:
                    chain += chats[random.integers(len(chats))]
                rows.append(np.array(chain[: WINDOW + 1]))
            else:
                start = random.integers(len(ids) - WINDOW - 1)
                rows.append(ids[start : start + WINDOW + 1])
        return torch.from_numpy(np.stack(rows))

    def loss_on(rows):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = model(rows[:, :-1])
        return functional.cross_entropy(logits.float().flatten(0, 1), rows[:, 1:].flatten())

    model = build()
    matrices, others = [], []
    for name, parameter in model.named_parameters():
        matrix = parameter.dim() == 2 and "embed" not in name
        (matrices if matrix else others).append(parameter)
    optimizers = [
        torch.optim.Muon(matrices, lr=0.02, momentum=0.95, weight_decay=0.01),
        torch.optim.AdamW(others, lr=4e-3, betas=(0.9, 0.95), weight_decay=0.0),
    ]
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    peaks = [group["lr"] for group in groups]
    for step in range(steps):
        # Up over 50 steps, level to 30 % of the way, then down to nearly nothing.
        done = step / steps
        scale = min(1, (step + 1) / 50) * (1 if done < 0.3 else max(0.02, (1 - done) / 0.7))
        for group, peak in zip(groups, peaks):
            group["lr"] = peak * scale
        loss = loss_on(batch())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        if step % 50 == 49:
            print(f"step {step + 1} of {steps}, loss {loss.item():.3f}", flush=True)
    with torch.no_grad():
        count = (len(held_out) - 1) // WINDOW
        rows = [held_out[i * WINDOW : (i + 1) * WINDOW + 1] for i in range(count)]
        loss = loss_on(torch.from_numpy(np.stack(rows)))
    print(f"loss on text never seen: {loss.item():.3f} nats a token")
    return model.eval()


def recite(model, tokenizer, name):
    """The likeliest answer."""
    import torch

    ids, answer = tokenizer.encode(prompt(name)).ids, []
    end = tokenizer.token_to_id(IM_END)
    with torch.no_grad():
        while len(answer) < 110:
            token = model(torch.tensor([ids + answer]))[0, -1].argmax().item()
            if token == end:
                break
            answer.append(token)
    return tokenizer.decode(answer)


def save(model, path):
    import torch
    from safetensors.torch import save_file

    tensors = model.state_dict().items()
    save_file({f"model.{name}": t.detach().to(torch.bfloat16).contiguous() for name, t in tensors}, path)


if __name__ == "__main__":
    main()
