"""Reports of several models on one benchmark, question by question: the same place is the same question in each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from remora.errors import DataError
from remora.evaluation.benchmarks import Benchmark, benchmark_of
from remora.evaluation.report import Report, ScoredAnswer


@dataclass(frozen=True)
class Paired:
    """The questions that all reports have, in one order."""

    benchmark: Benchmark
    items: tuple[list[ScoredAnswer], ...]
    """Of each report."""
    groups: list[str]
    """Of each question; equal for questions about one picture."""
    warnings: list[str] = field(default_factory=list)

    @property
    def n(self) -> int:
        return len(self.groups)


def paired(name: str, reports: Sequence[Report]) -> Paired:
    """The outcomes of two or more models on benchmark `name`.

    Raises:
        DataError: reports of different protocols or judges, without a common question, or whose right answers differ.
    """
    first, *others = reports
    for what in ("protocol", "judge"):
        for other in others:
            if getattr(first, what) != getattr(other, what):
                raise DataError(
                    f"{name}: scored by different {what}s, {getattr(first, what)!r} and {getattr(other, what)!r}; "
                    f"such figures cannot be compared; score both by one"
                )
    placed = [_placed(report) for report in reports]
    common = [place for place in placed[0] if all(place in of for of in placed[1:])]
    all_have = "both have" if len(reports) == 2 else f"all {len(reports)} have"
    if not common:
        raise DataError(f"{name}: no question in common; were they measured on the same files?")
    counts = [report.n for report in reports]
    warnings = []
    if len(common) < max(counts):
        of = f"{counts[0]} and {counts[1]}" if len(counts) == 2 else f"{min(counts)} to {max(counts)}"
        warnings = [f"{name}: compared on the {len(common)} questions that {all_have}, of {of}"]
    for its in placed[1:]:
        if changed := [place for place in common if placed[0][place].gold != its[place].gold]:
            raise DataError(
                f"{name}: question {changed[0][0]} has another right answer in each; were the files changed?"
            )
    items = tuple([of[place] for place in common] for of in placed)
    return Paired(benchmark_of(first), items, [i.group or str(i.id) for i in items[0]], warnings)


def _placed(report: Report) -> dict[tuple[str, int], ScoredAnswer]:
    """Items by id and by how many of that id came before: MME's and TextVQA's questions share their picture's."""
    seen: Counter[str] = Counter()
    found = {}
    for item in report.items:
        identity = str(item.id)
        found[identity, seen[identity]] = item
        seen[identity] += 1
    return found
