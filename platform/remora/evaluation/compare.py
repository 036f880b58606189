"""Two models on the same questions: how much they differ, and which differences are real."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from remora.errors import DataError
from remora.evaluation.benchmarks import benchmark_of
from remora.evaluation.figures import Difference, difference, holm
from remora.evaluation.report import Report, ScoredAnswer

REAL = 0.05
"""A difference is called real when its adjusted p is below."""


@dataclass(frozen=True)
class Compared:
    """One benchmark: each figure's difference, with p adjusted for all figures that are compared at once."""

    n: int
    differences: dict[str, Difference]
    adjusted: dict[str, float]
    """Holm's p over every benchmark's headline figure; other figures are adjusted among all."""
    warnings: list[str]

    def real(self, figure: str) -> bool:
        return self.adjusted[figure] < REAL

    def as_json(self) -> dict[str, Any]:
        return {
            "n": self.n,
            "figures": {
                k: asdict(d) | {"difference": d.a - d.b, "adjusted_p": self.adjusted[k], "real": self.real(k)}
                for k, d in self.differences.items()
            },
            "warnings": self.warnings,
        }


def compare_reports(pairs: Mapping[str, tuple[Report, Report]], every_figure: bool = False) -> dict[str, Compared]:
    """Compare the headline figure of each benchmark, or `every_figure` of them.

    Raises:
        DataError: reports of different protocols or judges, or without a question in common.
    """
    differences: dict[tuple[str, str], Difference] = {}
    about: dict[str, tuple[int, list[str]]] = {}
    for name, (a, b) in pairs.items():
        for what in ("protocol", "judge"):
            if getattr(a, what) != getattr(b, what):
                raise DataError(
                    f"{name}: scored by different {what}s, {getattr(a, what)!r} and {getattr(b, what)!r}; "
                    f"such figures cannot be compared; score both by one"
                )
        of_a, of_b = _placed(a), _placed(b)
        common = [place for place in of_a if place in of_b]
        warnings = []
        if not common:
            raise DataError(f"{name}: no question in common; were both measured on the same files?")
        if len(common) < max(a.n, b.n):
            warnings = [f"{name}: compared on the {len(common)} questions that both have, of {a.n} and {b.n}"]
        if changed := [i for i in common if of_a[i].gold != of_b[i].gold]:
            raise DataError(
                f"{name}: question {changed[0][0]} has another right answer in each; were the files changed?"
            )
        chosen = benchmark_of(a)
        items = [[of[i] for i in common] for of in (of_a, of_b)]
        figures = [chosen.figures(i) for i in items]
        groups = [i.group or str(i.id) for i in items[0]]
        for figure in figures[0] if every_figure else [chosen.headline]:
            if figure in figures[1]:
                differences[name, figure] = difference(figures[0][figure], figures[1][figure], groups)
        about[name] = (len(common), warnings)
    adjusted = holm({f"{n}\n{f}": d.p for (n, f), d in differences.items()})
    return {
        name: Compared(
            n,
            {f: d for (of, f), d in differences.items() if of == name},
            {f: adjusted[f"{of}\n{f}"] for of, f in differences if of == name},
            warnings,
        )
        for name, (n, warnings) in about.items()
    }


def _placed(report: Report) -> dict[tuple[str, int], ScoredAnswer]:
    """Items by id and by how many of that id came before: MME's and TextVQA's questions share their picture's."""
    seen: Counter[str] = Counter()
    found = {}
    for item in report.items:
        identity = str(item.id)
        found[identity, seen[identity]] = item
        seen[identity] += 1
    return found
