"""A small Whisper with random weights, and what transformers makes of it.

    python3 whisper.py DIRECTORY

DIRECTORY gets the files of the hub, as transformers writes them, and expected.json:
log-mel features, encoder states, logits, and what is transcribed greedily of sounds
that both sides compute. Windows have two seconds, so that tests are quick. Needs
torch, transformers 5 and tokenizers. The one in the tests was made with torch 2.15
and transformers 5.23.
"""

import json
import sys
from pathlib import Path

import numpy
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    GenerationConfig,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
)

BYTES = sorted(pre_tokenizers.ByteLevel.alphabet())
SPECIAL = ["<|endoftext|>", "<|startoftranscript|>", "<|en|>", "<|de|>", "<|fr|>"]
SPECIAL += ["<|translate|>", "<|transcribe|>", "<|startoflm|>", "<|startofprev|>"]
SPECIAL += ["<|nospeech|>", "<|notimestamps|>"]
TIMES = [f"<|{i * 0.02:.2f}|>" for i in range(101)]
ID = {token: id for id, token in enumerate(BYTES + SPECIAL + TIMES)}

SUPPRESSED = [1, 2, 7, 40, ID["<|startoftranscript|>"], ID["<|startofprev|>"]]

RATE = 16000


def sound(count):
    """Sweeping saws with gaps, in numbers that are exact in f32."""
    i = numpy.arange(count, dtype=numpy.int64)
    saw = (7 * i * i + 13 * i) // 64 % 4096 - 2048
    return (saw * (i // 2000 % 3) / 8192).astype(numpy.float32)


def tokenizer():
    tokenizer = Tokenizer(models.BPE({token: ID[token] for token in BYTES}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL])
    tokenizer.add_tokens([AddedToken(token) for token in TIMES])
    return tokenizer


def model():
    config = WhisperConfig(
        vocab_size=len(ID),
        num_mel_bins=80,
        d_model=32,
        encoder_layers=2,
        encoder_attention_heads=2,
        encoder_ffn_dim=64,
        decoder_layers=2,
        decoder_attention_heads=2,
        decoder_ffn_dim=64,
        max_source_positions=100,
        max_target_positions=64,
        init_std=0.25,
        pad_token_id=ID["<|endoftext|>"],
        bos_token_id=ID["<|endoftext|>"],
        eos_token_id=ID["<|endoftext|>"],
        decoder_start_token_id=ID["<|startoftranscript|>"],
    )
    model = WhisperForConditionalGeneration(config).eval()
    for key, tensor in model.named_parameters():
        # Norms and biases begin as ones and zeros, which would hide mistakes.
        if "norm" in key or "bias" in key:
            tensor.add_(0.3 * torch.randn_like(tensor))
    model.generation_config = GenerationConfig(
        decoder_start_token_id=ID["<|startoftranscript|>"],
        eos_token_id=ID["<|endoftext|>"],
        pad_token_id=ID["<|endoftext|>"],
        bos_token_id=ID["<|endoftext|>"],
        is_multilingual=True,
        lang_to_id={token: ID[token] for token in ["<|en|>", "<|de|>", "<|fr|>"]},
        task_to_id={task: ID[f"<|{task}|>"] for task in ["transcribe", "translate"]},
        no_timestamps_token_id=ID["<|notimestamps|>"],
        prev_sot_token_id=ID["<|startofprev|>"],
        max_initial_timestamp_index=50,
        suppress_tokens=SUPPRESSED,
        begin_suppress_tokens=[3, ID["<|endoftext|>"]],
        max_length=64,
        return_timestamps=False,
    )
    return model


def sample(tensor, step):
    return [round(x, 6) for x in tensor.flatten().tolist()[::step]]


def transcribe(model, extractor, count, **options):
    long = count > 2 * RATE
    options = {"task": "transcribe"} | options
    given = {"count": count} | {k: v for k, v in options.items() if k != "prompt_ids"}
    inputs = extractor(
        sound(count),
        sampling_rate=RATE,
        return_tensors="pt",
        truncation=not long,
        padding="longest" if long else "max_length",
        return_attention_mask=True,
    )
    if not long:
        del inputs["attention_mask"]
    if "return_timestamps" not in options:
        # No trained model says a time when it is told not to.
        options["suppress_tokens"] = SUPPRESSED + [ID[t] for t in ["<|notimestamps|>"] + TIMES]
    if "prompt_ids" in options:
        given["prompt"] = "of old"
        options["prompt_ids"] = torch.tensor(options["prompt_ids"])
    output = model.generate(**inputs, **options, return_segments=True)
    segments = [
        {"start": float(s["start"]), "end": float(s["end"]), "tokens": s["tokens"].tolist()}
        for s in output["segments"][0]
    ]
    return given | {"segments": segments}


def main(directory):
    torch.manual_seed(11)
    torch.set_grad_enabled(False)
    model().to(torch.bfloat16).save_pretrained(directory)
    tokenizer().save(str(directory / "tokenizer.json"))
    extractor = WhisperFeatureExtractor(feature_size=80, chunk_length=2)
    extractor.save_pretrained(directory)
    whisper = WhisperForConditionalGeneration.from_pretrained(directory, dtype=torch.float32)
    whisper.eval()

    wide = WhisperFeatureExtractor(feature_size=128, chunk_length=2)
    features = extractor(sound(21000), sampling_rate=RATE, return_tensors="pt").input_features
    features128 = wide(sound(21000), sampling_rate=RATE, return_tensors="pt").input_features
    ids = [ID[token] for token in ["<|startoftranscript|>", "<|en|>", "<|transcribe|>"]]
    ids += [(i * i * 79 + 13) % 256 for i in range(20)]
    states = whisper.model.encoder(features).last_hidden_state
    logits = whisper(features, decoder_input_ids=torch.tensor([ids])).logits[0, -1]
    prompt = [ID["<|startofprev|>"]] + tokenizer().encode(" of old").ids
    expected = {
        "features": sample(features[0], 13),
        "features128": sample(features128[0], 13),
        "states": sample(states[0], 7),
        "ids": ids,
        "logits": sample(logits, 1),
        "transcripts": [
            transcribe(whisper, extractor, 21000, language="en"),
            transcribe(whisper, extractor, 21000, language="de", task="translate"),
            transcribe(whisper, extractor, 21000),
            transcribe(whisper, extractor, 32000, language="fr", return_timestamps=True),
            transcribe(whisper, extractor, 21000, language="en", prompt_ids=prompt),
            transcribe(whisper, extractor, 80000, language="en", return_timestamps=True),
        ],
    }
    (directory / "expected.json").write_text(json.dumps(expected))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
