"""A small Stable-Diffusion pipeline with random weights, and what diffusers makes of it.

    python3 diffusion.py DIRECTORY

DIRECTORY gets the layout of diffusers, as it writes it, and expected.json: token ids,
states of the text encoder, one call of the UNet, an image of the VAE, and the steps of
both schedulers. Needs torch, transformers 5 and diffusers. The one in the tests was
made with torch 2.15, transformers 5.23 and diffusers 0.42.
"""

import json
import sys
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    EulerDiscreteScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

PROMPT = "The  old Sea: 2!"


def tokenizer(directory):
    """Of the bytes, and of what a few merges make of them."""
    from tokenizers.pre_tokenizers import ByteLevel

    letters = sorted(ByteLevel.alphabet())
    vocabulary = letters + [letter + "</w>" for letter in letters]
    merges = [("t", "h"), ("th", "e</w>"), ("o", "l"), ("ol", "d</w>"), ("s", "e"), ("se", "a</w>")]
    vocabulary += [a + b for a, b in merges] + ["<|startoftext|>", "<|endoftext|>"]
    directory.mkdir(parents=True, exist_ok=True)
    ids = {token: id for id, token in enumerate(vocabulary)}
    (directory / "vocab.json").write_text(json.dumps(ids))
    lines = ["#version: 0.2"] + [f"{a} {b}" for a, b in merges]
    (directory / "merges.txt").write_text("\n".join(lines) + "\n")
    special = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>"}
    special |= {"unk_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}
    config = special | {"model_max_length": 16, "tokenizer_class": "CLIPTokenizer"}
    (directory / "tokenizer_config.json").write_text(json.dumps(config))
    return CLIPTokenizer.from_pretrained(directory), len(ids)


def disturb(model):
    # Norms and biases begin as ones and zeros, which would hide mistakes.
    for key, tensor in model.named_parameters():
        if "norm" in key or "bias" in key:
            tensor.add_(0.2 * torch.randn_like(tensor))
    return model.eval()


def sample(tensor, step):
    return [round(x, 5) for x in tensor.flatten().tolist()[::step]]


def noise(count, seed):
    """Numbers that the test computes too."""
    x = (torch.arange(count, dtype=torch.int64) * 7919 + seed * 104729) % 2003
    return (x - 1001).to(torch.float32) / 512


def main(directory):
    torch.manual_seed(5)
    torch.set_grad_enabled(False)
    clip_tokenizer, size = tokenizer(directory / "tokenizer")
    clip = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=size,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=16,
            eos_token_id=size - 1,
            bos_token_id=size - 2,
            pad_token_id=size - 1,
            initializer_factor=6.0,
        )
    )
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(16, 32),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=32,
        attention_head_dim=4,
        norm_num_groups=8,
    )
    vae = AutoencoderKL(
        block_out_channels=(16, 32),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=16,
    )
    betas = {
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "steps_offset": 1,
    }
    ddim = DDIMScheduler(**betas, clip_sample=False, set_alpha_to_one=False)
    parts = [disturb(part).to(torch.bfloat16).to(torch.float32) for part in (clip, unet, vae)]
    pipeline = StableDiffusionPipeline(
        text_encoder=parts[0],
        unet=parts[1],
        vae=parts[2],
        tokenizer=clip_tokenizer,
        scheduler=ddim,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    vocabulary = [(directory / "tokenizer" / name).read_bytes() for name in ("vocab.json", "merges.txt")]
    pipeline.to(torch.bfloat16).save_pretrained(directory)
    pipeline.to(torch.float32)
    for name, bytes in zip(("vocab.json", "merges.txt"), vocabulary):
        (directory / "tokenizer" / name).write_bytes(bytes)

    ids = clip_tokenizer(PROMPT, padding="max_length", max_length=16).input_ids
    states = pipeline.text_encoder(torch.tensor([ids])).last_hidden_state
    latents = noise(4 * 64, 1).reshape(1, 4, 8, 8)
    predicted = pipeline.unet(latents, 481, encoder_hidden_states=states).sample
    image = pipeline.vae.decode(latents, return_dict=False)[0]

    def steps(scheduler, count):
        scheduler.set_timesteps(count)
        x, seen = latents * scheduler.init_noise_sigma, []
        for index, t in enumerate(scheduler.timesteps):
            scaled = scheduler.scale_model_input(x, t)
            seen.append([round(float(t), 4)] + sample(scaled, 37))
            x = scheduler.step(noise(4 * 64, index + 2).reshape(1, 4, 8, 8), t, x).prev_sample
        return {"count": count, "seen": seen, "last": sample(x, 1)}

    euler = EulerDiscreteScheduler(**betas)
    velocity = DDIMScheduler.from_config(ddim.config, prediction_type="v_prediction")
    whole = pipeline(
        PROMPT,
        negative_prompt="sea",
        num_inference_steps=3,
        guidance_scale=5.0,
        latents=latents,
        height=16,
        width=16,
        output_type="np",
    ).images
    expected = {
        "prompt": PROMPT,
        "ids": ids,
        "states": sample(states, 1),
        "predicted": sample(predicted, 1),
        "image": sample(image, 3),
        "ddim": steps(ddim, 7),
        "velocity": steps(velocity, 4),
        "euler": steps(euler, 7),
        "whole": [round(float(x) * 255) for x in whole.flatten()],
    }
    (directory / "expected.json").write_text(json.dumps(expected))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
