"""Make training pictures of OpenMoji drawings: each is rendered once, then placed on different backgrounds.

Rendering an SVG costs about ten times as much as placing the result, so a concept's seven pictures share one rendering.
"""

import io
import random
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from remora.demo.concepts import Concept
from remora.demo.sources import need

SIDE = 96
RENDITIONS = 5
"""Training pictures of a seen concept, numbered from 0; number 6 is for its test questions."""

UPRIGHT_KINDS = frozenset({"flag", "sign"})
"""Kinds that are never mirrored: a mirrored arrow or flag is a different one."""


def drawn(concept: Concept) -> Image.Image:
    """The concept's drawing, RGBA, SIDE x SIDE."""
    png = bytes(need("resvg_py").svg_to_bytes(svg_path=str(concept.file), width=SIDE))
    with Image.open(io.BytesIO(png)) as opened:
        return opened.convert("RGBA")


def distinct(concepts: Sequence[Concept]) -> dict[Concept, Image.Image]:
    """Concept -> drawing, without those whose drawing equals an earlier one.

    Some names share a drawing (the flag of Clipperton Island is France's). With one in training and the other held out,
    the drawing would not be held out, and "which of these is it" could have two right answers.
    """
    drawings: dict[bytes, tuple[Concept, Image.Image]] = {}
    for concept in concepts:
        drawing = drawn(concept)
        drawings.setdefault(drawing.tobytes(), (concept, drawing))
    return dict(drawings.values())


def rendition(drawing: Image.Image, concept: Concept, number: int, seed: int) -> Image.Image:
    """One RGB picture: a pale plain background, with the drawing rotated, scaled, moved and perhaps mirrored."""
    rng = random.Random(f"{seed}/rendition/{concept.code}/{number}")
    ground = Image.new("RGB", (SIDE, SIDE), tuple(rng.randint(200, 255) for _ in range(3)))
    mirrored = rng.random() < 0.5 and concept.kind not in UPRIGHT_KINDS
    if mirrored:
        drawing = drawing.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    drawing = drawing.rotate(rng.uniform(-15, 15), Image.Resampling.BICUBIC)
    side = round(SIDE * rng.uniform(0.7, 1.0))
    drawing = drawing.resize((side, side), Image.Resampling.BILINEAR)
    # Drawings have a margin, so shifting them slightly beyond the free space cuts nothing off.
    free = SIDE - side
    corner = (rng.randint(-3, free + 3), rng.randint(-3, free + 3))
    ground.paste(drawing, corner, drawing)
    return ground


def write(picture: Image.Image, file: Path) -> None:
    """Save as PNG; level 3 halves the time of the default and costs a tenth more bytes."""
    picture.save(file, compress_level=3)
