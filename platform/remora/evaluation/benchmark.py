"""Measuring one variant on one benchmark: answers, shuffled pictures, question only, and their scores."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from remora import catalog
from remora.data.mixture import read_mixture
from remora.data.pictures import open_image
from remora.evaluation.baselines import QuestionOnly
from remora.evaluation.questions import Question, read_questions, shuffled_pictures
from remora.evaluation.statistics import accuracy_interval
from remora.inference import Answerer, Turn
from remora.spec import MixtureEntry

BLIND_SEED = 0
"""The blind baseline's pictures are shuffled the same way for every variant."""


@dataclass(frozen=True)
class Item:
    """One question's outcome: what was said, what was read from it, and its score."""

    id: int
    image: str
    category: str
    answer: str
    parsed: str
    score: float


@dataclass(frozen=True)
class Score:
    """A benchmark's figures for one variant; accuracies in [0, 1]."""

    benchmark: str
    n: int
    accuracy: float
    ci: tuple[float, float]
    """95% interval of accuracy."""
    blind: float
    """The same model asked about shuffled pictures."""
    blind_ci: tuple[float, float]
    question_only: float
    """The best answer from the question's words alone; see baselines.py."""
    by_category: dict[str, float]


def parse(answer: str) -> str:
    """The words of an answer in lower case, without punctuation at its ends."""
    return re.sub(r"^\W+|\W+$", "", answer.lower()).strip()


def score(question: Question, answer: str) -> float:
    """Exact match: 1 if the answer's words are the reference's, else 0."""
    return float(parse(answer) == parse(question.answer))


def examine(
    answerer: Answerer, benchmark: str, data: Path, shard: int = 0, shards: int = 1
) -> tuple[list[Item], list[Item]]:
    """Ask one of `shards` parts of a benchmark: (items with their own pictures, items with shuffled ones).

    Both are asked in one go, so that a picture is read and encoded once. Questions about one picture stay together.
    """
    questions = read_questions(benchmark, data)
    others = shuffled_pictures(questions, BLIND_SEED)
    order = list(others)
    mine = set(order[len(order) * shard // shards : len(order) * (shard + 1) // shards])
    asked = [q for q in questions if q.image in mine]
    opened: dict[Path, Image.Image] = {path: open_image(path) for path in mine | {others[path] for path in mine}}
    shown = [opened[q.image] for q in asked] + [opened[others[q.image]] for q in asked]
    answers = answerer.answer(
        [[Turn("user", q.text, (picture,))] for q, picture in zip(asked + asked, shown, strict=True)],
        max_new_tokens=catalog.benchmark(benchmark).max_new_tokens,
    )
    items = [
        Item(q.id, q.image.name, q.category, a.text, parse(a.text), score(q, a.text))
        for q, a in zip(asked + asked, answers, strict=True)
    ]
    return items[: len(asked)], items[len(asked) :]


def question_only(benchmark: str, data: Path) -> float:
    """Accuracy of the question-only baseline."""
    questions = read_questions(benchmark, data)
    prior = QuestionOnly(read_mixture([MixtureEntry(dataset=catalog.benchmark(benchmark).prior)], data)[0])
    return sum(score(q, prior.answer(q)) for q in questions) / len(questions)


def summarise(benchmark: str, data: Path, seen: Sequence[Item], blind: Sequence[Item]) -> Score:
    """Figures from the items of both conditions.

    Raises:
        AssertionError: an item is missing; every question is asked in both conditions.
    """
    n = len(read_questions(benchmark, data))
    assert len(seen) == len(blind) == n, f"{benchmark}: {len(seen)} and {len(blind)} answers to {n} questions"
    mean, low, high = accuracy_interval([i.score for i in seen], [i.image for i in seen])
    blind_mean, blind_low, blind_high = accuracy_interval([i.score for i in blind], [i.image for i in blind])
    categories: dict[str, list[float]] = {}
    for item in seen:
        categories.setdefault(item.category, []).append(item.score)
    return Score(
        benchmark,
        n,
        mean,
        (low, high),
        blind_mean,
        (blind_low, blind_high),
        question_only(benchmark, data),
        {c: sum(s) / len(s) for c, s in sorted(categories.items())},
    )


def as_json(value: Score) -> dict[str, Any]:
    return {**value.__dict__, "ci": list(value.ci), "blind_ci": list(value.blind_ci)}
