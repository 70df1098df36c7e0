"""Blocks of quantised numbers, and what the `gguf` package of ggml's authors makes of them.

    python3 quants.py > quants.json

Needs gguf and numpy.
"""

import json

import gguf
import numpy as np

# Bytes of a block, and where its halves are.
BLOCKS = {"Q8_0": (34, [0]), "Q4_K": (144, [0, 2]), "Q6_K": (210, [208])}


def main():
    random = np.random.default_rng(1)
    cases = {}
    for name, (size, halves) in BLOCKS.items():
        block = random.integers(0, 256, size, dtype=np.uint8)
        for at in halves:
            block[at : at + 2] = np.frombuffer(np.float16(0.0123).tobytes(), dtype=np.uint8)
        numbers = gguf.dequantize(block, gguf.GGMLQuantizationType[name])
        cases[name] = {
            "block": block.tobytes().hex(),
            "numbers": [round(float(x), 6) for x in numbers],
        }
    print(json.dumps(cases))


if __name__ == "__main__":
    main()
