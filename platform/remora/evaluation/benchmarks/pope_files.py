"""POPE's questions and labels, from the official files or from the hub's."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePath

from remora.data.pictures import Picture
from remora.errors import DataError
from remora.evaluation.asking import Shown
from remora.evaluation.benchmarks.layout import field, first_file, hub_files, hub_rows, image_folder, lines

SPLITS = ("random", "popular", "adversarial")
FIRST = {"adversarial": 0, "random": 10_000_000, "popular": 20_000_000}
"""LLaVA's ids are these and the number in the split, from 1; its file is in this order."""


@dataclass(frozen=True)
class Labelled:
    """One question with its answer."""

    split: str
    number: int
    text: str
    label: str
    picture: Shown
    image: str
    """The picture's name without an ending, which the hub's lacks."""

    @property
    def id(self) -> int:
        return FIRST[self.split] + self.number


def stem(image: str) -> str:
    return PurePath(image).stem


def labelled(data: Path) -> dict[str, list[Labelled]]:
    """The questions of every split that is there, in the order of LLaVA's file.

    Raises:
        DataError: none is there, or a line is no question.
    """
    found = {split: _numbered(list(_of_hub(data, split)) or list(_of_file(data, split))) for split in FIRST}
    if there := {split: questions for split, questions in found.items() if questions}:
        return there
    names = ", ".join(f"coco_pope_{split}.json" for split in SPLITS)
    raise DataError(f"missing POPE's questions: no {names} and no Parquet file in {data}; see that the path is right")


def _numbered(questions: list[Labelled]) -> list[Labelled]:
    """Their own numbers if each has another one, else their places."""
    numbers = {q.number for q in questions}
    if len(numbers) == len(questions) and all(0 <= n < 10_000_000 for n in numbers):
        return questions
    return [replace(q, number=place) for place, q in enumerate(questions, 1)]


def _of_file(data: Path, split: str) -> Iterator[Labelled]:
    if data.is_file():
        path = data if split in data.stem else None
    else:
        path = first_file(data, f"coco_pope_{split}.json", f"*_pope_*{split}.json")
    if path is None:
        return
    images = image_folder(data, "val2014")
    for where, row in lines(path):
        image = field(row, "image", str, where)
        number = row.get("question_id")
        text, label = field(row, "text", str, where), field(row, "label", str, where)
        known = number if isinstance(number, int) else -1
        yield Labelled(split, known, text, "no" if label == "no" else "yes", Picture(str(images / image)), stem(image))


def _of_hub(data: Path, split: str) -> Iterator[Labelled]:
    columns = ("question", "answer", "image_source", "category", "image")
    files = hub_files(data, split) or hub_files(data, "test")
    for row in hub_rows(files, columns, "image"):
        if row["category"] != split:
            continue
        where = str(row["image"])
        label = field(row, "answer", str, where)
        number = str(row.get("question_id"))
        known = int(number) if number.isdecimal() and len(number) < 9 else -1
        text, image = field(row, "question", str, where), field(row, "image_source", str, where)
        yield Labelled(split, known, text, "no" if label == "no" else "yes", row["image"], stem(image))
