"""The results of scoring: each question's outcome, and the figures with their intervals."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from pydantic import FiniteFloat, TypeAdapter, ValidationError

from remora.notebook import table
from remora.spec.messages import broken_rule


@dataclass(frozen=True)
class ScoredAnswer:
    """One question's outcome."""

    id: str | int
    answer: str
    """The answer as given; empty if there was none."""
    parsed: str
    """The parsed answer; empty if nothing was read."""
    score: FiniteFloat
    group: str = ""
    """Equal for questions about one picture."""
    gold: str = ""
    labels: tuple[str, ...] = ()
    """The breakdowns that this question counts in."""


@dataclass(frozen=True)
class Graded:
    """Items scored by a named protocol, with warnings. `judge` is the model that gave the scores."""

    items: list[ScoredAnswer]
    protocol: str
    warnings: list[str]
    judge: str | None = None


@dataclass(frozen=True)
class Report:
    """A benchmark's figures for one answer file, in the papers' units, unrounded."""

    benchmark: str
    protocol: str
    metrics: dict[str, FiniteFloat]
    intervals: dict[str, tuple[FiniteFloat, FiniteFloat]]
    """95% intervals; see statistics.py and figures.py."""
    items: list[ScoredAnswer]
    warnings: list[str]
    judge: str | None = None
    own: dict[str, object] | None = None
    """The YAML of your own benchmark, needed to sum up the items; None for a published one."""

    @property
    def n(self) -> int:
        return len(self.items)

    def _repr_html_(self) -> str:
        """Its figures with their 95% intervals, in a notebook."""
        rows = ((name, value, *self.intervals.get(name, (None, None))) for name, value in self.metrics.items())
        return table(
            f"{self.benchmark} ({self.protocol}), {self.n:,} questions", ("figure", "value", "from", "to"), rows
        )

    def as_json(self) -> dict[str, object]:
        judge = {"judge": self.judge} if self.judge else {}
        own = {"own": self.own} if self.own else {}
        return {
            "benchmark": self.benchmark,
            "protocol": self.protocol,
            "n": self.n,
            "metrics": self.metrics,
            "intervals": {k: list(v) for k, v in self.intervals.items()},
            **judge,
            **own,
            "items": [asdict(i) | {"labels": list(i.labels)} for i in self.items],
            "warnings": self.warnings,
        }

    @classmethod
    def from_json(cls, raw: object) -> Report:
        """Raises:
        ValueError: it does not match `as_json`; one line that names the first wrong field.
        """
        try:
            return TypeAdapter(cls).validate_python(raw)
        except ValidationError as e:
            first = e.errors()[0]
            where = ".".join(map(str, first["loc"])) or "it"
            raise ValueError(f"{where}: {broken_rule(first)}") from None
