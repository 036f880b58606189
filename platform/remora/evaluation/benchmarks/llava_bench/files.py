"""LLaVA-Bench's files: questions.jsonl, context.jsonl and answers_gpt4.jsonl, or the hub's Parquet; and reviews."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from remora.data.pictures import Picture
from remora.errors import DataError
from remora.evaluation.answers import Records, Warnings, read_records
from remora.evaluation.benchmarks.files import find
from remora.evaluation.benchmarks.protocol import Truth
from remora.evaluation.hub_tables import parquet_files, parquet_rows
from remora.evaluation.question import Shown

CATEGORIES = ("conv", "detail", "complex")
UNREAD = (-1.0, -1.0)
"""The scores of a review without scores; they count in the means, as in LLaVA's scripts."""


@dataclass(frozen=True)
class Review:
    """A judge's review of one answer: GPT-4's score and the model's, from 1 to 10."""

    id: str
    category: str
    scores: tuple[float, float]


def source(data: Path, whole: bool) -> list[Truth]:
    """The questions in the file's order. `whole` adds the judge's input: GPT-4's answer as `gold`, and in `row` a
    description of the picture, the `context`.

    Raises:
        DataError: a file is missing, or lacks something for one of the questions.
    """
    path = find(data, "questions.jsonl", "train-*.parquet", what="LLaVA-Bench's questions")
    if path.suffix == ".parquet":
        return _parquet(parquet_files(path if data.is_file() else data, "train"))
    contexts, references = {}, {}
    if whole:
        told = path.parent / "context.jsonl"
        for r in _records(told, "image", "caption"):
            contexts[str(r["image"])] = _joined(told, r["caption"])
        references = {
            str(r["question_id"]): str(r["text"])
            for r in _records(path.parent / "answers_gpt4.jsonl", "question_id", "text")
        }
    found = []
    for r in _records(path, "question_id", "image", "category", "text"):
        image, identity = str(r["image"]), str(r["question_id"])
        if whole and image not in contexts:
            raise DataError(f"{path.parent / 'context.jsonl'}: nothing about {image}, which question {identity} shows")
        if whole and identity not in references:
            raise DataError(f"{path.parent / 'answers_gpt4.jsonl'}: no answer to question {identity}")
        shown = Picture(str(path.parent / "images" / image))
        known = (contexts.get(image, ""), references.get(identity, ""))
        found.append(_truth(path, identity, r["text"], r["category"], image, shown, *known))
    return found


def _parquet(files: list[Path]) -> list[Truth]:
    found = []
    for r in parquet_rows(files, ("image",), ("question_id", "question", "category", "caption", "gpt_answer")):
        identity = str(r["question_id"])
        context, reference = _joined(files[0], r["caption"]), str(r["gpt_answer"])
        image = str(r.get("image_id") or identity)
        found.append(_truth(files[0], identity, r["question"], r["category"], image, r["image"], context, reference))
    return found


def _truth(
    path: Path, identity: str, text: object, category: object, image: str, shown: Shown, context: str, reference: str
) -> Truth:
    if not isinstance(text, str) or not isinstance(category, str) or category not in CATEGORIES:
        known = ", ".join(CATEGORIES)
        raise DataError(f"{path}: question {identity} has no text or no category that is known: {known}")
    return Truth(identity, text, reference, image, (category,), shown, row={"context": context})


def number(identity: str) -> str | int:
    """A question's id as in LLaVA's files and lines; the hub has the numbers as text."""
    return int(identity) if re.fullmatch("0|[1-9][0-9]{0,9}", identity) else identity


def _records(path: Path, *keys: str) -> list[dict[str, object]]:
    """Every line of a file of the benchmark; a lost one would change the score."""
    warnings = Warnings()
    records = read_records(path, warnings)
    if warnings.lines:
        raise DataError(warnings.lines[0])
    found = records.objects if records.mapping is None else [records.mapping]  # one line without a question's keys
    for i, r in enumerate(found, 1):
        if missing := [k for k in keys if k not in r]:
            raise DataError(f"{path}: no {missing[0]} in record {i}; expected {', '.join(keys)}")
    return found


def _joined(path: Path, caption: object) -> str:
    lines = caption if isinstance(caption, list) else [caption]
    if not all(isinstance(line, str) for line in lines):
        raise DataError(f"{path}: a caption is not text: {str(caption)[:60]!r}; download it again")
    return "\n".join(map(str, lines))


def is_reviewed(records: Records) -> bool:
    """Whether these are LLaVA's reviews, not answers."""
    return any("tuple" in r or isinstance(r.get("score"), list) for r in records.objects)


def reviews(records: Records, warnings: Warnings) -> list[Review]:
    """Every review of the file; LLaVA's summary also counts those of unknown questions."""
    found: list[Review] = []
    seen: set[str] = set()
    for i, r in enumerate(records.objects):
        scores = _pair(r.get("tuple", r.get("score")))
        if scores is None or not isinstance(r.get("question_id"), (str, int)):
            warnings.add("reviews without scores", f"{records.where(i)}: no question_id and tuple: {str(r)[:60]}")
            continue
        identity, category = str(r["question_id"]), str(r.get("category", "")).removeprefix("llava_bench_")
        if identity in seen:
            warnings.add("repeated reviews", f"{records.where(i)}: another review of {identity}; all of them count")
        seen.add(identity)
        found.append(Review(identity, category, scores))
    return found


def _pair(value: object) -> tuple[float, float] | None:
    if not isinstance(value, list) or len(value) != 2:
        return None
    if not all(isinstance(v, (int, float)) and abs(v) < 1e9 for v in value):  # excludes inf and NaN
        return None
    return float(value[0]), float(value[1])


def read_review(reply: str) -> tuple[float, float] | None:
    """The two scores of a review's first line, or None; two spaces, or a comma and a space, between them fail."""
    said = reply.split("\n")[0].replace(",", " ").split(" ")
    try:
        return _pair([float(s) for s in said])
    except ValueError:
        return None
