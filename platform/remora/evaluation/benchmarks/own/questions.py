"""Question files of your own benchmarks: JSON lines `{question_id, image, text, answer, category, choices?}`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from remora.data.order import Permutation
from remora.data.pictures import Picture
from remora.errors import DataError
from remora.evaluation.answers import Warnings, read_records
from remora.evaluation.question import Question


@dataclass(frozen=True)
class OwnQuestion:
    """A question about one picture with its reference answer. `choices` are the answers that it offers, if any;
    `answers` are those of several people, of which `answer` is the first."""

    id: int | str
    image: Path
    text: str
    answer: str
    category: str
    choices: tuple[str, ...] = ()
    answers: tuple[str, ...] = ()

    def asked(self, max_new_tokens: int, image: Path | None = None) -> Question:
        """The question for a model, about its own picture or another."""
        shown = Picture(str(image or self.image))
        return Question(self.id, self.text, (shown,), max_new_tokens, self.image.name)


def read_questions(path: Path, images: Path, make: str = "") -> list[OwnQuestion]:
    """Every question of a file, in its order.

    Raises:
        DataError: the file is missing, a line is not a question (named by number), or an id is repeated.
    """
    if not path.exists():
        raise DataError(
            f"missing question file: {path}" + (f"; next: {make}" if make else "; see that the path is right")
        )
    warnings = Warnings()
    records = read_records(path, warnings)
    if warnings.lines:
        raise DataError(f"{path}: {warnings.lines[0]}")
    found: dict[str, OwnQuestion] = {}
    for i, record in enumerate(records.objects):
        question = _question(record, images)
        if question is None:
            raise DataError(
                f"{path}:{records.numbers[i]}: not a question: {str(record)[:80]}; "
                "expected question_id, image, text, and answer or answers, as text"
            )
        if str(question.id) in found:
            raise DataError(f"{path}:{records.numbers[i]}: question_id {question.id} is there twice; give it another")
        found[str(question.id)] = question
    return list(found.values())


def _question(q: dict[str, Any], images: Path) -> OwnQuestion | None:
    """The question of a record, or None if the record is not one."""
    answers = q.get("answers", [q.get("answer")])
    choices = q.get("choices", [])
    said = [q.get("image"), q.get("text"), q.get("category", ""), *(answers if isinstance(answers, list) else [None])]
    said += choices if isinstance(choices, list) else [None]
    said.append(q.get("answer", ""))
    if not answers or not all(isinstance(s, str) for s in said) or not isinstance(q.get("question_id"), (int, str)):
        return None
    named = q.get("answer", answers[0])
    return OwnQuestion(
        q["question_id"], images / q["image"], q["text"], named, q.get("category", ""), tuple(choices), tuple(answers)
    )


def shuffled_pictures(questions: list[OwnQuestion], seed: int) -> dict[Path, Path]:
    """Another picture of the same benchmark for each one: the blind baseline. No picture is its own.

    The pictures are put in a seeded order, which the result keeps, and each takes its successor: all questions about
    one picture are asked about the same other one, and a slice of the order needs few additional pictures.
    """
    pictures = sorted({q.image for q in questions})
    if len(pictures) < 2:
        raise DataError(f"shuffling pictures needs two of them, this benchmark has {len(pictures)}")
    order = Permutation(len(pictures), f"{seed}/blind")
    ring = [pictures[order[i]] for i in range(len(pictures))]
    return dict(zip(ring, ring[1:] + ring[:1], strict=True))
