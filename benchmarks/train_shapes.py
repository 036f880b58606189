"""The models and samples of benchmarks/train.py: random weights in published shapes, random words and pixels.

Lengths are those of LLaVA's mix-665k as simulated by benchmarks/packing.py, scaled down by the ratio of a picture's
tokens to CLIP's 576.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packing import IMAGE as CLIP_TOKENS
from packing import MAX_LENGTH, SOURCES, SYSTEM

BATCH, MICRO_BATCH = 16, 8
"""Samples of a step, and `cluster.micro_batch`: samples of a padded pass, rows of max_length of a packed one."""


@dataclass(frozen=True)
class Shape:
    """A composition with published shapes and random weights."""

    llm: dict[str, Any]
    """A transformers config."""
    vision: dict[str, Any]
    """A CLIP tower's config, read as LLaVA reads it: the last block but one, without the class token."""
    about: str

    @property
    def image_tokens(self) -> int:
        return (self.vision["image_size"] // self.vision["patch_size"]) ** 2

    @property
    def max_length(self) -> int:
        return MAX_LENGTH * self.image_tokens // CLIP_TOKENS


def _tower(width: int, blocks: int, image: int, patch: int) -> dict[str, Any]:
    sizes = {"hidden_size": width, "intermediate_size": 4 * width, "num_attention_heads": width // 64}
    picture = {"image_size": image, "patch_size": patch}
    return {"model_type": "clip_vision_model", "num_hidden_layers": blocks, "hidden_act": "gelu"} | sizes | picture


def shapes() -> dict[str, Shape]:
    from remora import catalog

    pythia = catalog.llm("pythia-1.4b").config | {
        "hidden_size": 512,
        "intermediate_size": 2048,
        "num_hidden_layers": 6,
        "num_attention_heads": 8,
    }
    tiny_clip = _tower(256, 10, 224, 16)
    return {
        "demo-2m": Shape(
            catalog.llm("demo-2m").config, _tower(128, 4, 96, 8), "the demo's 2 M language model, a CLIP of 4 blocks"
        ),
        "pythia-70m": Shape(
            pythia, tiny_clip, "Pythia-70M (arXiv 2304.01373, Table 1) and TinyCLIP-ViT-8M/16 (arXiv 2309.12314)"
        ),
    }


TUNINGS = {"fine-tuning": ("frozen", "full", "full"), "alignment": ("frozen", "full", "frozen")}
"""What vision, connector and language model do: LLaVA's two stages."""
RATES = {"fine-tuning": 2e-5, "alignment": 1e-3}
"""Peak rates of LLaVA-1.5's two stages."""


# The model and the samples, the same in every process.


def composed(shape: Shape) -> tuple[Any, Any]:
    """The catalog entry of the tower, and the model."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from remora import catalog
    from remora.catalog import Vision
    from remora.model.connectors import build_connector
    from remora.model.vision import build_tower
    from remora.model.vlm import VisionLanguageModel

    encoder = Vision(
        short="it",
        loader="transformers",
        hub="random",
        config=shape.vision,
        image_size=shape.vision["image_size"],
        tokens=shape.image_tokens,
        width=shape.vision["hidden_size"],
        blocks=shape.vision["num_hidden_layers"],
        layer=-2,
        prefix=1,
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        parameters=0,
        licence="",
        source="",
    )
    torch.manual_seed(0)
    ids = {"bos_token_id": None, "eos_token_id": 0, "pad_token_id": 1}
    llm = AutoModelForCausalLM.from_config(AutoConfig.for_model(**shape.llm | ids), attn_implementation="sdpa")
    tower = build_tower(encoder, pretrained=False)
    connector = build_connector(catalog.connector("mlp2x_gelu"), encoder.width, llm.config.hidden_size)
    return encoder, VisionLanguageModel(llm, tower, connector, encoder.input_size, shape.image_tokens)


WORDS = 400
"""Of the exported tokenizer. Its picture's token is the first behind them, which random words leave out."""


def export(shape: Shape, folder: Path) -> None:
    from remora import catalog
    from remora.exchange.stock_llava import write_llava
    from remora.exchange.tower import module_of
    from remora.inference.exporting import stock_chat
    from remora.model.llm import train_tokenizer
    from remora.reading.prompt import Prompter

    encoder, model = composed(shape)
    tower = module_of(model.vision)
    tokenizer = train_tokenizer(["What is in the picture? A red circle beside two blue squares."] * 4, WORDS)
    prompter = Prompter(catalog.template("brief"), tokenizer, shape.image_tokens)
    write_llava(
        folder,
        encoder=encoder,
        vision_config=tower.config,
        vision_state=tower.state_dict(),
        connector_state=model.connector.state_dict(),
        llm=model.llm,
        tokenizer=tokenizer,
        chat=stock_chat(prompter)[0] or "",
        stop=prompter.stop,
    )


def samples(shape: Shape, step: int) -> list[Any]:
    """(tokens, pictures) of a step. The second half of each text is supervised."""
    import torch

    from remora.reading.prompt import Tokens
    from remora.token_ids import IGNORE, IMAGE

    draw, noise = random.Random(step), torch.Generator().manual_seed(step)
    side = shape.vision["image_size"]
    read = []
    for name in draw.choices(list(SOURCES), [records for records, *_ in SOURCES.values()], k=BATCH):
        _, shown, text, _ = SOURCES[name]
        whole = min(MAX_LENGTH, SYSTEM + shown + text(draw)) * shape.image_tokens // CLIP_TOKENS
        image = shape.image_tokens * bool(shown)
        system = SYSTEM * shape.image_tokens // CLIP_TOKENS
        words = [draw.randrange(2 * WORDS, shape.llm["vocab_size"]) for _ in range(whole - image)]
        ids = words[:system] + [IMAGE] * image + words[system:]
        asked = len(ids) - (len(words) - system) // 2
        pictures = [torch.randn(3, side, side, generator=noise)] * bool(shown)
        read.append((Tokens(ids, [IGNORE] * asked + ids[asked:], bool(shown)), pictures))
    return read
