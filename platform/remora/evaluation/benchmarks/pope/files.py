"""POPE's questions and labels, from the official files or from the hub's. A Truth's label is its split."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path, PurePath

from remora.data.pictures import Picture
from remora.errors import DataError
from remora.evaluation.benchmarks.files import field, first_file, image_folder, lines
from remora.evaluation.benchmarks.protocol import Truth
from remora.evaluation.hub_tables import parquet_files, parquet_rows
from remora.evaluation.question import Shown

SPLITS = ("random", "popular", "adversarial")
STEP = 10_000_000
FIRST = {"adversarial": 0, "random": STEP, "popular": 2 * STEP}
"""LLaVA's ids are one of these plus the number in the split, from 1; its file is in this order."""
COLUMNS = ("question", "answer", "image_source", "category")


def stem(image: str) -> str:
    return PurePath(image).stem


def labelled(data: Path) -> dict[str, list[Truth]]:
    """The questions of every existing split, in the order of LLaVA's file.

    Raises:
        DataError: there is none, or a line is not a question.
    """
    found = {split: _numbered(list(_of_hub(data, split)) or list(_of_file(data, split)), split) for split in FIRST}
    if there := {split: questions for split, questions in found.items() if questions}:
        return there
    names = ", ".join(f"coco_pope_{split}.json" for split in SPLITS)
    raise DataError(f"missing POPE's questions: no {names} and no Parquet file in {data}; see that the path is right")


def _numbered(questions: list[Truth], split: str) -> list[Truth]:
    """LLaVA's ids, by the questions' own numbers if these are unique, else by their positions."""
    numbers = [int(q.id) for q in questions]
    if len(set(numbers)) < len(questions) or not all(0 <= n < STEP for n in numbers):
        numbers = list(range(1, len(questions) + 1))
    return [replace(q, id=FIRST[split] + n) for q, n in zip(questions, numbers, strict=True)]


def _of_file(data: Path, split: str) -> Iterator[Truth]:
    if data.is_file():
        path = data if split in data.stem else None
    else:
        path = first_file(data, f"coco_pope_{split}.json", f"*_pope_*{split}.json")
    if path is None:
        return
    images = image_folder(data, "val2014")
    for where, row in lines(path):
        image, number = field(row, "image", str, where), row.get("question_id")
        known = number if isinstance(number, int) else -1
        yield _truth(row, "text", "label", split, known, image, Picture(str(images / image)), where)


def _of_hub(data: Path, split: str) -> Iterator[Truth]:
    for row in parquet_rows(parquet_files(data, split) or parquet_files(data, "test"), ("image",), COLUMNS):
        if row["category"] == split:
            where, number = str(row["image"]), str(row.get("question_id"))
            known = int(number) if number.isdecimal() and len(number) < 9 else -1
            image = field(row, "image_source", str, where)
            yield _truth(row, "question", "answer", split, known, image, row["image"], where)


def _truth(
    row: dict[str, object], text: str, label: str, split: str, number: int, image: str, picture: Shown, where: str
) -> Truth:
    """Pictures are identified by name without extension, which the hub's lack."""
    gold = "no" if field(row, label, str, where) == "no" else "yes"
    return Truth(number, field(row, text, str, where), gold, stem(image), (split,), picture)
