"""The gate before a model takes another's place: not significantly worse on any of some benchmarks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from remora.evaluation.compare import compare_reports
from remora.evaluation.report import Report


@dataclass(frozen=True)
class GateFigure:
    """A benchmark's headline figure of both models, over the same questions."""

    benchmark: str
    metric: str
    n: int
    candidate: float
    incumbent: float
    low: float
    high: float
    """95% interval of candidate - incumbent."""
    p: float
    """Two-sided, of the paired test; adjusted for the number of benchmarks (Holm)."""
    worse: bool
    """Whether the candidate is significantly worse."""

    @property
    def shown(self) -> str:
        """`easy-vqa: accuracy 0.8120 against 0.8680, -0.0560 (-0.0610 to -0.0500), p 0.0001, n 9,673`."""
        n = 4 if max(abs(self.candidate), abs(self.incumbent)) <= 1 else 2
        apart = f"{self.candidate - self.incumbent:+.{n}f} ({self.low:+.{n}f} to {self.high:+.{n}f})"
        both = f"{self.metric} {self.candidate:.{n}f} against {self.incumbent:.{n}f}"
        return f"{self.benchmark}: {both}, {apart}, p {self.p:.4f}, n {self.n:,}"


def gate(pairs: Mapping[str, tuple[Report, Report]], alpha: float) -> tuple[GateFigure, ...]:
    """Hold a candidate's reports against the incumbent's, by benchmark: (candidate's, incumbent's).

    A candidate that is as good as the incumbent is called worse on one of the benchmarks with probability alpha at
    most. One that is a little worse passes where there are too few questions to tell; the interval says how much worse
    it may be.

    Raises:
        DataError: reports of different protocols or judges, or without a question in common.
    """
    found = []
    for name, compared in compare_reports(pairs).items():
        for metric, d in compared.differences.items():
            worse = d.a < d.b and compared.adjusted[metric] <= alpha
            n, p = compared.n, compared.adjusted[metric]
            found.append(GateFigure(name, metric, n, d.a, d.b, d.low, d.high, p, worse))
    return tuple(found)
