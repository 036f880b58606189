"""A bundle with random weights: its answers are noise and therefore sensitive to every change."""

from __future__ import annotations

from pathlib import Path

import torch

from remora.catalog import llm
from remora.inference import Bundle, write_bundle
from remora.model.llm import create_from_scratch
from remora.model.parts import compose, save_part
from remora.model.refs import PartRef
from support.tiny import shrunk

WORDS = ["USER: What is this? ASSISTANT: a red circle", "USER: Which of these is it: a, b or c? ASSISTANT: blue"] * 3


def write_noise(root: Path, name: str = "noise", seed: int = 0, channels: int = 48) -> Path:
    """The folder of a bundle: EfficientNet-Lite0, a connector, a Llama of so many channels."""
    small = {"config": shrunk(llm("demo-2m").config, channels, 64)}
    create_from_scratch(llm("demo-2m").model_copy(update=small), WORDS, seed + 1, root / f"{name}-start")
    parts = {
        "vision": PartRef("efficientnet-lite0"),
        "connector": PartRef("mlp2x_gelu"),
        "llm": PartRef("demo-2m", root / f"{name}-start"),
    }
    model, tokenizer = compose(parts, seed)
    with torch.no_grad():  # larger layers than an initialisation gives: what was read, not the last word, decides
        for weight in model.llm.model.layers.parameters():
            weight.mul_(8)
    made = root / f"{name}-parts"
    for part in ("connector", "llm"):
        save_part(part, model, model.part(part).state_dict(), tokenizer, made / part)
    trained = {**parts, **{p: PartRef(parts[p].name, made / p) for p in ("connector", "llm")}}
    write_bundle(root / name, Bundle(name, trained, "brief", "pad", seed), {})
    return root / name
