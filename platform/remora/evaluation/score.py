"""A variant's figures on one benchmark, for the search, the tables and the tracker."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field

from remora.evaluation.report import Report


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


def as_json(value: Score) -> dict[str, object]:
    lists = {k: list(v) for k in ("ci", "blind_ci") if (v := getattr(value, k))}
    return asdict(value) | lists | {"by_category": value.by_category}
