"""What each axis does, with all others held equal, as the papers' figures show it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import fmean

from remora.evaluation.score import ScoreRecord
from remora.reporting.search_report.record import SearchedVariant, SearchRecord

SEED = "seed"


@dataclass(frozen=True)
class Bar:
    """A benchmark's figure for one value of an axis: means over settings of the other axes, the same for each value."""

    benchmark: str
    value: str
    figure: float
    low: float
    """Mean of the figures' 95% intervals; over seeds, where they are an axis, of their range."""
    high: float


@dataclass(frozen=True)
class Ablation:
    """One axis."""

    axis: str
    values: tuple[str, ...]
    bars: tuple[Bar, ...]
    settings: int
    """Settings of the other axes that every value was measured in; figures are means over them."""
    seeds: int
    """Seeds that every figure is a mean of, at least."""
    left_out: tuple[str, ...]
    """Values that were not measured in those settings."""


def ablations(record: SearchRecord) -> tuple[Ablation, ...]:
    """One for each axis with two values that were measured with all others equal."""
    found = (_ablation(record, axis, values) for axis, values in record.axes.items() if axis != SEED)
    return tuple(a for a in found if a)


def _ablation(record: SearchRecord, axis: str, values: tuple[str, ...]) -> Ablation | None:
    settings: dict[tuple[tuple[str, str], ...], dict[str, list[SearchedVariant]]] = {}
    for v in record.measured:
        if axis in v.choice:
            others = tuple(sorted((k, w) for k, w in v.choice.items() if k not in (axis, SEED)))
            settings.setdefault(others, {}).setdefault(v.choice[axis], []).append(v)
    shown = _most(frozenset(there) for there in settings.values())
    if len(shown) < 2:
        return None
    equal = [there for there in settings.values() if shown <= there.keys()]
    kept = tuple(value for value in values if value in shown)
    bars = [
        bar
        for benchmark in record.benchmarks
        for bar in _bars(benchmark, {value: [there[value] for there in equal] for value in kept})
    ]
    seeds = min(len(there[value]) for there in equal for value in kept)
    return Ablation(axis, kept, tuple(bars), len(equal), seeds, tuple(v for v in values if v not in shown))


def _most(sets: Iterable[frozenset[str]]) -> frozenset[str]:
    """The values that most settings share: as many values as can be had, then as many settings."""
    sets = list(sets)
    return max(sets, key=lambda s: (len(s), sum(s <= other for other in sets)), default=frozenset())


def _bars(benchmark: str, settings: Mapping[str, list[list[SearchedVariant]]]) -> list[Bar]:
    """A benchmark's bar for each value; none if one of them has no figure."""
    found = [bar for value, several in settings.items() if (bar := _bar(benchmark, value, several))]
    return found if len(found) == len(settings) else []


def _bar(benchmark: str, value: str, settings: list[list[SearchedVariant]]) -> Bar | None:
    spans = [_span([v.scores[benchmark] for v in seeds if benchmark in v.scores]) for seeds in settings]
    if not all(spans):
        return None
    figure, low, high = (fmean(span[i] for span in spans if span) for i in range(3))
    return Bar(benchmark, value, figure, low, high)


def _span(scores: list[ScoreRecord]) -> tuple[float, float, float] | None:
    """A setting's figure and its interval; of several seeds their mean and range."""
    if not scores:
        return None
    figures = [s["accuracy"] for s in scores]
    if len(figures) > 1:
        return fmean(figures), min(figures), max(figures)
    low, high = scores[0]["ci"]
    return figures[0], low, high
