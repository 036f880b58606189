"""easy-VQA: 5,000 pictures of one coloured shape each, with published questions, answers and split.

HELD_OUT of the training pictures are for validation and are in no training file. The published test split is kept
complete, in its order and wording, so that scores are comparable with others'.
"""

import random
import re
import shutil
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from remora.demo.sources import need

HELD_OUT = 200
SHAPES = ("circle", "rectangle", "triangle")
COLORS = ("black", "blue", "brown", "gray", "green", "red", "teal", "yellow")


@dataclass
class ShapePicture:
    """One picture: number, file in the package, and (question, answer) pairs in published order."""

    number: int
    file: Path
    turns: list[tuple[str, str]] = field(default_factory=list)

    @property
    def caption(self) -> str | None:
        """ "a blue rectangle", if the answers give both; the package has no captions."""
        facts: dict[str, set[str]] = defaultdict(set)
        for question, answer in self.turns:
            words = re.findall(r"\w+", question)
            holds = answer not in ("yes", "no") or (answer == "yes") != bool({"not", "no"} & set(words))
            # An open question presupposes what it mentions: "what is the blue shape?" says blue.
            for word in [*words, answer] if holds else []:
                facts["shape" if word in SHAPES else "color" if word in COLORS else ""].add(word)
        if len(facts["shape"]) != 1 or len(facts["color"]) != 1:
            return None
        return f"a {min(facts['color'])} {min(facts['shape'])}"


def category(answer: str) -> str:
    """The kind of a question, from its answer: yes/no, shape or color."""
    return "yes/no" if answer in ("yes", "no") else "shape" if answer in SHAPES else "color"


def published(part: str) -> list[ShapePicture]:
    """The pictures of `train` or `test`, in order of their first questions."""
    package = need("easy_vqa")
    files = getattr(package, f"get_{part}_image_paths")()
    pictures: dict[int, ShapePicture] = {}
    for question, answer, number in zip(*getattr(package, f"get_{part}_questions")(), strict=True):
        pictures.setdefault(number, ShapePicture(number, Path(files[number]))).turns.append((question, answer))
    return list(pictures.values())


def parted(seed: int, *, limit: int | None = None) -> tuple[list[ShapePicture], list[ShapePicture]]:
    """Split the training pictures into (training, validation); `limit` keeps that many, and half as many to
    validate."""
    pictures = published("train")
    held = HELD_OUT if limit is None else max(1, limit // 2)
    numbers = random.Random(f"{seed}/held-out").sample(range(len(pictures)), held)
    validation = [pictures[number] for number in sorted(numbers)]
    training = [picture for at, picture in enumerate(pictures) if at not in set(numbers)]
    return training[:limit], validation


def write(picture: ShapePicture, file: Path) -> None:
    """Copy a picture unchanged; convert it if it is not RGB (none in version 1.0)."""
    with Image.open(picture.file) as opened:
        if opened.mode != "RGB":
            opened.convert("RGB").save(file)
            return
    shutil.copyfile(picture.file, file)
