"""Benchmarks as question files: JSON lines `{question_id, image, text, answer, category, choices?}`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from remora import catalog
from remora.data.order import Permutation
from remora.errors import DataError


@dataclass(frozen=True)
class Question:
    """One question about one picture. `choices` are the answers that it offers, if it does."""

    id: int
    image: Path
    text: str
    answer: str
    category: str
    choices: tuple[str, ...] = ()


def read_questions(name: str, data: Path) -> list[Question]:
    """Every question of a catalog benchmark, in file order.

    Raises:
        DataError: the file is missing, or a line is not a question (named by number).
    """
    entry = catalog.benchmark(name)
    path, images = data / entry.questions, data / entry.images
    try:
        lines = path.read_text().removesuffix("\n").split("\n")  # splitlines would also cut at a U+2028 in a text
    except FileNotFoundError:
        raise DataError(f"missing question file: {path} (benchmark {name!r}); next: {entry.make}") from None
    questions = []
    for number, line in enumerate(lines, 1):
        try:
            q = json.loads(line)
            questions.append(
                Question(
                    q["question_id"],
                    images / q["image"],
                    q["text"],
                    q["answer"],
                    q.get("category", ""),
                    tuple(q.get("choices", ())),
                )
            )
        except (ValueError, KeyError, TypeError) as e:
            raise DataError(
                f"{path}:{number}: not a question ({e!r}); expected question_id, image, text, answer"
            ) from None
    return questions


def shuffled_pictures(questions: list[Question], seed: int) -> dict[Path, Path]:
    """Another picture of the same benchmark for each one: the blind baseline. No picture keeps its own.

    The pictures are put in a seeded order, which the result keeps, and each takes its successor: all questions about
    one picture are asked about the same other one, and a stretch of the order needs hardly more pictures than its own.
    """
    pictures = sorted({q.image for q in questions})
    if len(pictures) < 2:
        raise DataError(f"shuffling pictures needs two of them, this benchmark has {len(pictures)}")
    order = Permutation(len(pictures), f"{seed}/blind")
    ring = [pictures[order[i]] for i in range(len(pictures))]
    return dict(zip(ring, ring[1:] + ring[:1], strict=True))
