"""A variant's figures on one benchmark, for the search, the tables and the tracker."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TypedDict

from remora.evaluation.report import Report
from remora.notebook import table

SCORE_COLUMNS = ("benchmark", "figure", "score", "from", "to", "blind", "question only", "n")


def scores_html(title: str, scores: Iterable[Score]) -> str:
    """A notebook's table of a model's scores, each with its 95% interval and its baselines."""
    return table(title, SCORE_COLUMNS, map(_score_row, scores))


def _score_row(score: Score) -> tuple[str | int | float | None, ...]:
    return score.benchmark, score.metric, score.accuracy, *score.ci, score.blind, score.question_only, score.n


@dataclass(frozen=True)
class Score:
    """A benchmark's headline figure, with interval and baselines.

    Units are the benchmark's: an own one's accuracies are in [0, 1], a published one's figures are as the papers print
    them.
    """

    benchmark: str
    n: int
    metric: str
    """The headline figure's name: accuracy, f1, perception, …"""
    accuracy: float
    """The headline figure."""
    ci: tuple[float, float]
    """Its 95% interval."""
    blind: float | None = None
    """The same model's figure on shuffled pictures; only for your own benchmarks."""
    blind_ci: tuple[float, float] | None = None
    question_only: float | None = None
    """The figure of the best answers from the questions' words only; see benchmarks/own/prior.py."""
    metrics: dict[str, float] = field(default_factory=dict)
    """Every figure, including the headline."""
    broken: int = 0
    """Questions that could not be asked and count as wrong."""

    @property
    def by_category(self) -> dict[str, float]:
        """The headline figure by its breakdowns."""
        prefix = f"{self.metric}."
        return {k.removeprefix(prefix): v for k, v in self.metrics.items() if k.startswith(prefix)}


class ScoreRecord(TypedDict, total=False):
    """A `Score` as JSON has it. A file of an older version may lack a key."""

    benchmark: str
    n: int
    metric: str
    accuracy: float
    ci: list[float]
    blind: float | None
    blind_ci: list[float] | None
    question_only: float | None
    metrics: dict[str, float]
    broken: int
    by_category: dict[str, float]


def summarise(
    report: Report, metric: str, blind: Report | None = None, question_only: float | None = None, broken: int = 0
) -> Score:
    """The score of a report, with its blind twin's figure."""
    return Score(
        report.benchmark,
        report.n,
        metric,
        report.metrics[metric],
        report.intervals[metric],
        blind.metrics[metric] if blind else None,
        blind.intervals[metric] if blind else None,
        question_only,
        report.metrics,
        broken,
    )


def as_json(value: Score) -> ScoreRecord:
    return {
        "benchmark": value.benchmark,
        "n": value.n,
        "metric": value.metric,
        "accuracy": value.accuracy,
        "ci": list(value.ci),
        "blind": value.blind,
        "blind_ci": list(value.blind_ci) if value.blind_ci else None,
        "question_only": value.question_only,
        "metrics": dict(value.metrics),
        "broken": value.broken,
        "by_category": value.by_category,
    }
