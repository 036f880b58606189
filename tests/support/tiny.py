"""Small stand-ins for the tests of several rooms."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from PIL import Image


def shrunk(config: dict[str, Any], hidden: int, intermediate: int) -> dict[str, Any]:
    """A language model's config with two layers, two heads and 320 tokens."""
    sizes = {"hidden_size": hidden, "intermediate_size": intermediate, "num_hidden_layers": 2, "vocab_size": 320}
    return config | sizes | {"num_attention_heads": 2, "num_key_value_heads": 2}


def write_records(
    root: Path, path: str = "train.json", images: str = "images", count: int = 3, pictures: bool = True
) -> Path:
    """A LLaVA JSON of `count` records, a small PNG each, below `root`; returns its path."""
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    records = []
    for i in range(count):
        tag = "<image>\n" if pictures else ""
        said = [("human", f"{tag}What is number {i}?"), ("gpt", f"thing {i}" + ", too" * (i % 3))]
        record = {"id": f"s{i}", "conversations": [{"from": who, "value": words} for who, words in said]}
        if pictures:
            (root / images).mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 6), (20 * i % 256, 100, 50)).save(root / images / f"{i}.png")
            record["image"] = f"{i}.png"
        records.append(record)
    file.write_text(json.dumps(records))
    return file
