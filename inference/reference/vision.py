"""Small models that see, with random weights, and what transformers makes of them.

    python3 vision.py DIRECTORY

DIRECTORY/image.png: what is seen. DIRECTORY/resample.json: its levels after Pillow
and after torchvision resized it. DIRECTORY/vit: a classifier, with the logits that it
gives for the image. DIRECTORY/llava-NAME: a decoder with a tower, with the token ids
of a prompt, in which the image stands twice, and the logits after it. llava-llama has
a tokenizer and a template too, and what it answers to a question about the image.
Needs torch, torchvision, transformers 5, pillow, numpy. The ones in the tests were
made with torch 2.15, torchvision 0.29, transformers 5.23 and Pillow 13.0.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as tv
from transformers import (
    AutoImageProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    Qwen2Config,
    SiglipVisionConfig,
    ViTConfig,
    ViTForImageClassification,
)

TOWER = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "image_size": 24,
    "patch_size": 6,
    "initializer_range": 0.15,
}

TEXT = {
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
    "initializer_range": 0.15,
}

IMAGE_TOKEN = 95

CHARACTERS = " abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,:;?!\n'()-+*/=_#@&$<>|[]{}"

CLASSES = ["tench", "goldfish", "great white shark", "tiger shark", "hammerhead"]

# As the models of the hub have them.
VIT_PROCESSOR = {
    "image_processor_type": "ViTImageProcessor",
    "do_resize": True,
    "size": {"height": 24, "width": 24},
    "resample": 2,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
}
CLIP_PROCESSOR = {
    "image_processor_type": "CLIPImageProcessor",
    "do_resize": True,
    "size": {"shortest_edge": 24},
    "resample": 3,
    "do_center_crop": True,
    "crop_size": {"height": 24, "width": 24},
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "do_convert_rgb": True,
}
SIGLIP_PROCESSOR = VIT_PROCESSOR | {"image_processor_type": "SiglipImageProcessor", "resample": 3}


def picture():
    y, x = np.mgrid[0:45, 0:61]
    red = (x * x + y * 5) % 256
    green = (x * y) % 256
    blue = 255 * ((x // 7 + y // 9) % 2)
    return Image.fromarray(np.stack([red, green, blue], -1).astype(np.uint8))


def resampled(image):
    cases = []
    for resample, mode in [(2, InterpolationMode.BILINEAR), (3, InterpolationMode.BICUBIC)]:
        for width, height in [(24, 24), (20, 30), (50, 47)]:
            pillow = np.asarray(image.resize((width, height), resample=resample))
            tensor = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)
            tensor = tv.resize(tensor, [height, width], interpolation=mode, antialias=True)
            torchvision = tensor.permute(1, 2, 0).numpy()
            cases.append({
                "resample": resample, "width": width, "height": height,
                "pillow": pillow.flatten().tolist(),
                "torchvision": torchvision.flatten().tolist(),
            })
    return cases


def varied(model):
    # Norms and biases begin as ones and zeros, which would hide mistakes.
    for key, tensor in model.named_parameters():
        if any(part in key for part in ["norm", "bias", "cls_token", "class_embedding", "position"]):
            tensor.add_(0.3 * torch.randn_like(tensor))
    return model.to(torch.bfloat16)


def pixels(directory, processor, image):
    (directory / "preprocessor_config.json").write_text(json.dumps(processor, indent=2) + "\n")
    processor = AutoImageProcessor.from_pretrained(directory, backend="pil")
    return torch.as_tensor(np.asarray(processor(image)["pixel_values"]))


def digits(tensor):
    return [round(x, 5) for x in tensor.tolist()]


def vit(directory, image):
    config = ViTConfig(**TOWER, id2label=dict(enumerate(CLASSES)))
    varied(ViTForImageClassification(config)).save_pretrained(directory)
    model = ViTForImageClassification.from_pretrained(directory, dtype=torch.float32).eval()
    values = pixels(directory, VIT_PROCESSOR, image)
    expected = {"pixels": digits(values.flatten()), "logits": digits(model(values).logits[0])}
    (directory / "expected.json").write_text(json.dumps(expected))


def llava(directory, image, tower, text, processor, strategy, layer):
    config = LlavaConfig(
        vision_config=tower, text_config=text, image_token_index=IMAGE_TOKEN,
        vision_feature_select_strategy=strategy, vision_feature_layer=layer,
    )
    varied(LlavaForConditionalGeneration(config)).save_pretrained(directory)
    model = LlavaForConditionalGeneration.from_pretrained(directory, dtype=torch.float32).eval()
    values = pixels(directory, processor, image)
    other = pixels(directory, processor, image.transpose(Image.Transpose.ROTATE_90))
    word = lambda i: (i * i * 79 + 13) % IMAGE_TOKEN
    seen = [IMAGE_TOKEN] * 16
    ids = [word(i) for i in range(21)] + seen + [word(i) for i in range(30)] + seen + [7, 8, 9]
    images = torch.cat([values, other])
    logits = model(torch.tensor([ids]), pixel_values=images).logits[0, -1]
    features = model.get_image_features(values).pooler_output[0][3]
    expected = {
        "ids": ids, "pixels": digits(values.flatten()),
        "row": digits(features), "logits": digits(logits),
    }
    (directory / "expected.json").write_text(json.dumps(expected))


def tokenizer():
    """A token for each character, and three that no text stands for."""
    special = {0: "<unk>", 1: "</s>", IMAGE_TOKEN: "<image>"}
    added = [
        {
            "id": id, "content": content, "special": True, "single_word": False,
            "lstrip": False, "rstrip": False, "normalized": False,
        }
        for id, content in special.items()
    ]
    words = {word: id for id, word in special.items()}
    words |= {word: id for id, word in enumerate(CHARACTERS, 2)}
    return {
        "version": "1.0", "added_tokens": added, "normalizer": None,
        "pre_tokenizer": {
            "type": "Split", "pattern": {"Regex": "[\\s\\S]"}, "behavior": "Isolated", "invert": False,
        },
        "decoder": {"type": "Fuse"},
        "model": {"type": "WordLevel", "vocab": words, "unk_token": "<unk>"},
    }


TEMPLATE = (
    "{% for message in messages %}{{ message.role }}: {% for part in message.content %}"
    "{% if part.type == 'image' %}{{ '<image>' }}{% else %}{{ part.text }}{% endif %}"
    "{% endfor %}{{ '\\n' }}{% endfor %}assistant:"
)


def conversation(directory, image):
    """The first question that the model answers at some length and to an end."""
    words = tokenizer()
    (directory / "tokenizer.json").write_text(json.dumps(words, separators=(",", ":")))
    (directory / "chat_template.jinja").write_text(TEMPLATE)
    image.save(directory / "selftest.png", optimize=True)
    model = LlavaForConditionalGeneration.from_pretrained(directory, dtype=torch.float32).eval()
    values = pixels(directory, CLIP_PROCESSOR, image)
    encode = lambda text: [CHARACTERS.index(character) + 2 for character in text]
    for number in range(10000):
        question = f"What is {number}?"
        ids = encode("user: ") + [IMAGE_TOKEN] * 16 + encode(question + "\nassistant:")
        ids = torch.tensor([ids])
        answer = model.generate(ids, pixel_values=values, max_new_tokens=24, do_sample=False)
        answer = answer[0, ids.shape[1]:].tolist()
        text = answer[:-1]
        if answer[-1] == 1 and len(text) > 7 and 0 not in text and IMAGE_TOKEN not in text:
            break
    expected = "".join(CHARACTERS[id - 2] for id in text)
    test = {"prompt": question, "image": "selftest.png", "expected": expected}
    (directory / "selftest.json").write_text(json.dumps(test) + "\n")


def main(directory):
    torch.manual_seed(1)
    directory.mkdir(exist_ok=True)
    image = picture()
    image.save(directory / "image.png", optimize=True)
    (directory / "resample.json").write_text(json.dumps(resampled(image), separators=(",", ":")))
    with torch.no_grad():
        for name in ["vit", "llava-llama", "llava-qwen2"]:
            (directory / name).mkdir(exist_ok=True)
        vit(directory / "vit", image)
        llava(
            directory / "llava-llama", image, CLIPVisionConfig(**TOWER), LlamaConfig(**TEXT),
            CLIP_PROCESSOR, "default", -2,
        )
        conversation(directory / "llava-llama", image)
        siglip = {key: value for key, value in TOWER.items() if key != "initializer_range"}
        llava(
            directory / "llava-qwen2", image, SiglipVisionConfig(**siglip),
            Qwen2Config(**TEXT, tie_word_embeddings=True), SIGLIP_PROCESSOR, "full", -1,
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
