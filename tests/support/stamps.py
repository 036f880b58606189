"""Made stamps in Tux Paint's layout."""

from __future__ import annotations

import random
from pathlib import Path

from PIL import Image

NAMES = {
    "animals/birds": ["duck", "crow", "rook", "owl"],
    "food/fruit": ["apple", "pear", "fig", "plum"],
    "vehicles": ["boat", "bus", "car", "train"],
}

KINDS = {"bird": "a bird", "fruit": "a fruit", "vehicle": "a vehicle"}
KIND_OF = dict(zip(NAMES, KINDS, strict=True))


def photograph(name: str) -> Image.Image:
    """Grain, round, on nothing: every pixel has a colour of its own."""
    grain = Image.frombytes("RGB", (40, 40), random.Random(name).randbytes(3 * 40 * 40)).convert("RGBA")
    grain.putalpha(Image.new("L", (40, 40), 0))
    grain.paste(grain.convert("RGB"), (5, 5), Image.new("L", (40, 40), 255))
    return grain


def write_stamps(folder: Path) -> Path:
    """Stamps of twelve things: a drawing, one without a caption, and one whose caption is a sentence are no things."""
    for kind, names in NAMES.items():
        (folder / kind / "all").mkdir(parents=True)
        for name in names:
            photograph(name).save(folder / kind / "all" / f"{name}.png")
            (folder / kind / "all" / f"{name}.txt").write_text(f"A {name}.\nde.utf8=Ein Ding.\n", encoding="utf-8")
    animals = folder / "animals/birds" / "all"
    Image.new("RGBA", (40, 40), "red").save(animals / "blob.png")
    (animals / "blob.txt").write_text("A blob.\n")
    photograph("bare").save(animals / "bare.png")
    photograph("talk").save(animals / "talk.png")
    (animals / "talk.txt").write_text("A bird that has come home, for once.\n")
    return folder
