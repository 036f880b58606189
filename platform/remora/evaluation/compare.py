"""Compare two models on the same questions: how much they differ, and which differences are real."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from remora.evaluation.figures import Difference, difference, holm
from remora.evaluation.paired import paired
from remora.evaluation.report import Report

REAL = 0.05
"""A difference is called real if its adjusted p is below this."""


@dataclass(frozen=True)
class Compared:
    """One benchmark: each figure's difference, with p adjusted for all figures compared together."""

    n: int
    differences: dict[str, Difference]
    adjusted: dict[str, float]
    """Holm's p over every benchmark's headline figure; other figures are adjusted among all."""
    warnings: list[str]

    def real(self, figure: str) -> bool:
        return self.adjusted[figure] < REAL

    def as_json(self) -> dict[str, object]:
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
    for name, both in pairs.items():
        found = paired(name, both)
        figures = [found.benchmark.figures(items) for items in found.items]
        for figure in figures[0] if every_figure else [found.benchmark.headline]:
            if figure in figures[1]:
                differences[name, figure] = difference(figures[0][figure], figures[1][figure], found.groups)
        about[name] = (found.n, found.warnings)
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
