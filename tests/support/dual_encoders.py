"""Small dual encoders in transformers' layout, with random weights, and pictures for them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tokenizers.processors import TemplateProcessing
from transformers import CLIPConfig, CLIPModel, PreTrainedModel, SiglipConfig, SiglipModel

from remora.model.llm import train_tokenizer

SIDE = 32
WORDS = ["a red circle on a white ground", "two blue squares beside a green line", "nothing but noise in grey"]
VISION = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
VISION |= {"image_size": SIDE, "patch_size": 8}
TEXT = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
TEXT |= {"vocab_size": 320, "max_position_embeddings": 12}


def write_encoder(folder: Path, kind: str = "clip") -> PreTrainedModel:
    """Save a `clip` or `siglip` with tokenizer and preprocessor_config.json; returns the model.

    Weights are wider than an initialisation's: another picture, another direction.
    """
    tokenizer = train_tokenizer(WORDS * 3, TEXT["vocab_size"])
    end = (tokenizer.eos_token, tokenizer.eos_token_id)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single=f"$A {end[0]}", special_tokens=[end])
    tokenizer.save_pretrained(folder)
    ids = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id, "bos_token_id": None}
    torch.manual_seed(0)
    if kind == "clip":
        model: PreTrainedModel = CLIPModel(CLIPConfig(text_config=TEXT | ids, vision_config=VISION, projection_dim=24))
    else:
        model = SiglipModel(SiglipConfig(text_config=TEXT | ids, vision_config=VISION))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * parameter[0].numel() ** -0.5)
    model.eval().save_pretrained(folder)
    pixels = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    if kind == "clip":
        pixels |= {
            "size": {"shortest_edge": SIDE},
            "do_center_crop": True,
            "crop_size": {"height": SIDE, "width": SIDE},
        }
    else:
        pixels |= {"size": {"height": SIDE, "width": SIDE}}
    (folder / "preprocessor_config.json").write_text(json.dumps(pixels))
    return model


def write_pictures(folder: Path, count: int, copies: dict[int, int], seed: int = 0) -> Path:
    """`count` pictures of coarse squares and a LLaVA JSON of them; `copies[i] = j` makes i a near-copy of j."""
    g = np.random.default_rng(seed)
    (folder / "images").mkdir(parents=True)
    pixels = [np.repeat(np.repeat(g.integers(0, 256, (4, 4, 3)), 10, 0), 12, 1) for _ in range(count)]
    records = []
    for i in range(count):
        shown = pixels[copies.get(i, i)]
        if i in copies:
            shown = (shown + g.integers(-3, 4, shown.shape)).clip(0, 255)
        Image.fromarray(shown.astype(np.uint8)).save(folder / "images" / f"{i}.png")
        said = [("human", "<image>\nWhat is it?"), ("gpt", f"number {i}, {WORDS[i % 3]}")]
        turns = [{"from": who, "value": words} for who, words in said]
        records.append({"id": f"r{i}", "image": f"{i}.png", "conversations": turns, "note": "kept as it is"})
    (folder / "train.json").write_text(json.dumps(records))
    return folder / "train.json"
