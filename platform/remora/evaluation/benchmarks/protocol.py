"""The base classes of benchmarks: a source of questions and truths, an answer parser with a metric, breakdowns, a
submission.

A benchmark is a package beside this file and a record in catalog/papers.py, which names its class. Most are a
`RowBenchmark`: one that says how its source becomes `Truth`s and what is read from one answer. The rest shares the
helpers: files.py and hub_tables.py find and read sources, answers.py reads answer files and matches them with
questions.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from remora.errors import DataError, nearest
from remora.evaluation.answers import AnswerLine, Warnings, answer_lines, match
from remora.evaluation.benchmarks.files import image_folder
from remora.evaluation.benchmarks.prompts import SHORT, llava_list, llava_questions
from remora.evaluation.figures import Figure, interval, mean, value
from remora.evaluation.judge import Judge
from remora.evaluation.question import Question, Shown
from remora.evaluation.report import Graded, Report, ScoredAnswer


@dataclass(frozen=True)
class Truth:
    """One question of a benchmark's source, with everything needed to score an answer."""

    id: str | int
    """As written in reports and submissions."""
    text: str
    """The question, without the prompt's additions."""
    gold: str = ""
    group: str = ""
    """Equal for questions about one picture."""
    labels: tuple[str, ...] = ()
    """The breakdowns that it counts in."""
    picture: Shown | None = None
    named: str = ""
    """The id that answers use, if it is not `id`."""
    row: Mapping[str, Any] = field(default_factory=dict)
    """Other fields of the source that the benchmark's rules need."""

    @property
    def key(self) -> str:
        return self.named or str(self.id)

    def outcome(self, answer: str = "", parsed: str = "", score: float = 0.0) -> ScoredAnswer:
        return ScoredAnswer(self.id, answer, parsed, score, self.group, self.gold, self.labels)


class Benchmark(ABC):
    """One benchmark by its published protocol. `data` is its distributed file, or a folder that holds its files."""

    headline: str = "accuracy"
    """The metric that the papers print."""
    protocols: tuple[str, ...] = ("official",)
    """Ways of scoring, the default first."""
    judged: bool = False
    """Whether a judge gives the scores."""
    judge_model: str = ""
    """The paper's judge."""
    lists: ClassVar[tuple[str, ...]] = ()
    """LLaVA's question file; if it exists, it is asked unchanged."""
    pictures: ClassVar[tuple[str, ...]] = ("images",)
    """The folder of that file's pictures."""
    suffix: ClassVar[str] = SHORT
    """The prompt's suffix after the question."""
    max_new_tokens: int = 128

    def __init__(self, name: str, title: str) -> None:
        self.name, self.title = name, title

    @property
    def own(self) -> dict[str, object] | None:
        """The YAML's content, for reports to be summed up without the file; None for a published benchmark."""
        return None

    @abstractmethod
    def truths(self, data: Path) -> list[Truth]:
        """The source: every question, in the files' order, from the distributed files or the hub's Parquet.

        Raises:
            DataError: the files are missing, or lack something for a question.
        """

    def asked(self, truth: Truth) -> Question:
        """The question as the published script asks it, used without LLaVA's question file."""
        pictures = (truth.picture,) if truth.picture else ()
        return Question(truth.id, truth.text + self.suffix, pictures, self.max_new_tokens, truth.group)

    def questions(self, data: Path) -> list[Question]:
        """Every question with the published prompt, in the files' order.

        Raises:
            DataError: the files are missing or unreadable.
        """
        if self.lists and (path := llava_list(data, *self.lists)):
            return llava_questions(path, image_folder(data, *self.pictures), self.max_new_tokens)
        return [self.asked(truth) for truth in self.truths(data)]

    def blind(self, data: Path) -> list[Question]:
        """The same questions about other pictures: the blind baseline of your own benchmarks."""
        return []

    def question_only(self, data: Path) -> float | None:
        """The score reachable from the questions' words: the question-only baseline of your own benchmarks."""
        return None

    @abstractmethod
    def grade(self, data: Path, answers: Path, protocol: str, questions: Path | None, judge: Judge | None) -> Graded:
        """Every question's outcome, in the order of the data. `questions` is LLaVA's question file, for answers that
        have only an index.

        Raises:
            DataError: the files are missing, or of different versions.
        """

    def figures(self, items: Sequence[ScoredAnswer]) -> dict[str, Figure]:
        """The published figures and breakdowns, computed from the items only."""
        return breakdowns(items)

    def submission(self, data: Path, answers: Path, folder: Path) -> list[Path]:
        """Write the files for the benchmark's server into `folder` and return them; none if no server scores."""
        return []


class RowBenchmark(Benchmark):
    """A benchmark whose answers are read one by one: `read` is its parser and metric."""

    keys: ClassVar[tuple[str, ...]] = ("question_id",)
    """Keys of an answer line's question id."""
    fields: ClassVar[tuple[str, ...]] = ("text", "answer")
    """Keys of its text."""

    @abstractmethod
    def read(self, answer: AnswerLine, truth: Truth) -> tuple[str, float]:
        """The parsed answer, and its score."""

    def said(self, answers: Path, truths: Sequence[Truth], warnings: Warnings) -> dict[str, AnswerLine]:
        """The answers of a file, by their questions' keys."""
        lines = answer_lines(answers, self.keys, self.fields, warnings)
        return match(lines, [t.key for t in truths], answers, warnings)

    def outcomes(self, truths: Sequence[Truth], said: Mapping[str, AnswerLine]) -> list[ScoredAnswer]:
        """The outcome of every question in order; one without an answer scores 0."""
        return [
            t.outcome(said[t.key].text, *self.read(said[t.key], t)) if t.key in said else t.outcome() for t in truths
        ]

    def grade(self, data: Path, answers: Path, protocol: str, questions: Path | None, judge: Judge | None) -> Graded:
        warnings = Warnings()
        truths = self.truths(data)
        said = self.said(answers, truths, warnings)
        return Graded(self.outcomes(truths, said), protocol, warnings.all())


def score(
    benchmark: Benchmark,
    data: Path,
    answers: Path,
    protocol: str | None = None,
    questions: Path | None = None,
    judge: Judge | None = None,
    only: Collection[str] | None = None,
) -> Report:
    """Grade an answer file and sum it up; `only` the questions with these ids, which the report says.

    Raises:
        DataError: no such protocol, or files that are missing or do not belong together.
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
        # Warnings about the other questions are not relevant.
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


def breakdowns(
    items: Sequence[ScoredAnswer],
    labels: Iterable[str] | None = None,
    headline: str = "accuracy",
    prefix: str = "accuracy.",
    scale: float = 100.0,
) -> dict[str, Figure]:
    """The mean score, overall and by label: the given labels that occur, or all of them sorted."""
    scores = np.array([i.score for i in items])
    inside: dict[str, list[int]] = {}
    for n, item in enumerate(items):
        for label in item.labels:
            inside.setdefault(label, []).append(n)
    found = {headline: mean(scores, scale=scale)}
    for label in sorted(filter(None, inside)) if labels is None else labels:
        if label in inside:
            where = np.zeros(len(items))
            where[inside[label]] = 1
            found[prefix + label] = mean(scores, where, scale)
    return found
