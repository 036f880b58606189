"""Entries of encoders of any size: one that the catalog takes gives the tokens that it says, any other is refused."""

from __future__ import annotations

import random

import torch
from cases import cases
from pydantic import ValidationError

from remora.catalog.resolution import FAMILIES
from remora.model.vision import build_tower
from support.encoders import vision

KINDS = [*FAMILIES, "aimv2_vision_model", "beit", "pixtral"]


def drawn(draw: random.Random) -> dict:
    """An entry's facts: mostly what fits, each with a chance to be something else."""
    kind = draw.choice(KINDS)
    patch, trained = draw.choice([4, 7, 8]), draw.choice([16, 28, 32])
    config = {"model_type": kind, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    config |= {"intermediate_size": 24, "patch_size": patch, "image_size": trained}
    if draw.random() < 0.2 and kind in ("dinov2_with_registers", "dinov3_vit"):
        config["num_register_tokens"] = draw.choice([0, 2, 3])
    size = draw.choice([trained, trained, 24, 33, 48, 3])
    lead = FAMILIES[kind].leading(config) if kind in FAMILIES else 1
    prefix = lead if draw.random() < 0.8 else draw.randrange(4)
    tokens = max(1, (size // patch) ** 2 + lead - prefix) if draw.random() < 0.8 else draw.randrange(1, 70)
    return {"config": config, "image_size": size, "prefix": prefix, "tokens": tokens, "blocks": 2}


def test_an_entry_that_is_taken_gives_its_tokens():
    taken = 0
    for number in range(cases(150)):
        facts = drawn(random.Random(number))
        try:
            entry = vision(**facts)
        except ValidationError as e:
            assert "\n" not in e.errors()[0]["msg"]
            continue
        if entry.config["model_type"] not in FAMILIES:  # of others nothing is known but the size
            assert entry.image_size == entry.config["image_size"]
            continue
        with torch.device("meta"):
            tokens = build_tower(entry, pretrained=False)(torch.zeros(1, 3, entry.image_size, entry.image_size))
        assert tokens.shape == (1, entry.tokens, entry.width), facts
        taken += 1
    assert taken > 20
