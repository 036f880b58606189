"""What every benchmark can do: say its questions, grade an answer file, sum its figures, write what a server takes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from remora.errors import DataError, nearest
from remora.evaluation.asking import Question
from remora.evaluation.figures import Figure, interval, mean, value
from remora.evaluation.judge import Judge
from remora.evaluation.report import Graded, Item, Report


class Benchmark(ABC):
    """One benchmark by its published protocol. `data` is its distributed file, or a folder that holds its files."""

    name: str
    title: str
    headline: str
    """The metric that the papers print."""
    protocols: tuple[str, ...] = ("official",)
    """Ways of scoring, the default first."""
    judged: bool = False
    """Whether a judge gives the scores."""
    judge_model: str = ""
    """The judge that the paper had."""

    @property
    def own(self) -> dict[str, Any] | None:
        """What a report needs to be summed up again without this benchmark's YAML; None for a published one."""
        return None

    @abstractmethod
    def questions(self, data: Path) -> list[Question]:
        """Every question with the published prompt, in the files' order, from LLaVA's layout, the distributed files or
        the hub's Parquet.

        Raises:
            DataError: the files are not there or cannot be read.
        """

    @abstractmethod
    def grade(self, data: Path, answers: Path, protocol: str, questions: Path | None, judge: Judge | None) -> Graded:
        """Every question's outcome, in the order of the data. `questions` is LLaVA's question file, for answers that
        carry only an index.

        Raises:
            DataError: the files are not there, or are of another version than each other.
        """

    @abstractmethod
    def figures(self, items: Sequence[Item]) -> dict[str, Figure]:
        """The published figures and breakdowns, from nothing but items."""

    def submission(self, data: Path, answers: Path, folder: Path) -> list[Path]:
        """Write what the benchmark's server takes into `folder`; the files, or none where no server scores."""
        return []


def score(
    benchmark: Benchmark,
    data: Path,
    answers: Path,
    protocol: str | None = None,
    questions: Path | None = None,
    judge: Judge | None = None,
    only: Collection[str] | None = None,
) -> Report:
    """Grade an answer file and sum it up; `only` the questions of these ids, which the report says.

    Raises:
        DataError: no such protocol, or files that are not there or do not belong together.
    """
    chosen = protocol or benchmark.protocols[0]
    if chosen not in benchmark.protocols:
        known = ", ".join(benchmark.protocols)
        raise DataError(
            f"no protocol {chosen!r} for {benchmark.name}{nearest(chosen, benchmark.protocols)}; there are: {known}"
        )
    graded = benchmark.grade(data, answers, chosen, questions, judge)
    if only is not None:
        items = [i for i in graded.items if i.answer or str(i.id) in only]
        # That the others have no answer is no news.
        graded = replace(graded, items=items, warnings=[f"{len(items)} of {len(graded.items)} questions were asked"])
    figures = benchmark.figures(graded.items)
    groups = [i.group or str(i.id) for i in graded.items]
    return Report(
        benchmark.name,
        graded.protocol,
        {k: value(f) for k, f in figures.items()},
        {k: interval(f, groups) for k, f in figures.items()},
        graded.items,
        graded.warnings,
        graded.judge,
        benchmark.own,
    )


def breakdowns(items: Sequence[Item], shown: Callable[[str], bool] = bool, scale: float = 100.0) -> dict[str, Figure]:
    """The accuracy, and that of every label that is shown, in percent unless `scale` is another."""
    scores = np.array([i.score for i in items])
    inside: dict[str, list[int]] = {}
    for n, item in enumerate(items):
        for label in item.labels:
            inside.setdefault(label, []).append(n)
    found = {"accuracy": mean(scores, scale=scale)}
    for label in sorted(filter(shown, inside)):
        where = np.zeros(len(items))
        where[inside[label]] = 1
        found[f"accuracy.{label}"] = mean(scores, where, scale)
    return found
