"""Published figures, their intervals, and tests of whether two of them differ.

Every figure the benchmarks print is a sum of ratios of sums over items: an accuracy is one ratio, F1 is
2 TP / (2 TP + FP + FN), MME's perception is twenty ratios. In this form, one resampling gives the interval of any
figure, and one paired test compares two models on any of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from remora.evaluation.statistics import accuracy_interval

RESAMPLES = 1000
SWAPS = 10_000
TOGETHER = 1 << 18
"""Numbers held at once while swapping: 2 MiB."""


@dataclass(frozen=True)
class Term:
    """scale x sum(of) / sum(over); 0 if the divisor is 0. Both are [items]."""

    of: NDArray[np.float64]
    over: NDArray[np.float64]
    scale: float = 1.0


Figure: TypeAlias = tuple[Term, ...]


def ratio(of: ArrayLike, over: ArrayLike, scale: float = 100.0) -> Figure:
    return (Term(np.asarray(of, np.float64), np.asarray(over, np.float64), scale),)


def mean(scores: ArrayLike, where: ArrayLike | None = None, scale: float = 100.0) -> Figure:
    """scale x the mean of scores [items], of those items where `where` is true."""
    chosen = np.ones(len(np.asarray(scores))) if where is None else np.asarray(where, np.float64)
    return ratio(np.asarray(scores, np.float64) * chosen, chosen, scale)


def total(figures: Iterable[Figure], scale: float = 1.0) -> Figure:
    """scale x their sum."""
    return tuple(Term(t.of, t.over, scale * t.scale) for figure in figures for t in figure)


def value(figure: Figure) -> float:
    return float(values(figure, group_sums(figure, [""] * len(figure[0].of)).sum(axis=0)))


def printed(figure: Figure, published: float) -> Figure:
    """The figure, moved as little as needed to print like `published` with one digit.

    For scripts that round on the way, or round halves by binary noise: the figure is exact where its digit is theirs.
    """
    exact, tenth = value(figure), round(published, 1)
    if round(exact, 1) == tenth or not exact:
        return figure
    return total([figure], min(max(exact, tenth - 0.05 + 1e-9), tenth + 0.05 - 1e-9) / exact)


def values(figure: Figure, sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """A figure from sums [..., 2, terms] of what is divided and of what divides."""
    of, over = sums[..., 0, :], sums[..., 1, :]
    # Scaled before it is divided, as the official scripts do: their second digit may hang on it.
    scaled = of * np.array([t.scale for t in figure])
    return np.divide(scaled, over, out=np.zeros_like(of), where=over != 0).sum(axis=-1)


def group_sums(figure: Figure, groups: Sequence[str]) -> NDArray[np.float64]:
    """Each group's sums, [groups, 2, terms]."""
    number: dict[str, int] = {}
    index = np.array([number.setdefault(g, len(number)) for g in groups], np.int64)
    sides = [[np.bincount(index, side, len(number)) for side in (t.of, t.over)] for t in figure]
    return np.asarray(sides, np.float64).transpose(2, 1, 0)


def interval(figure: Figure, groups: Sequence[str]) -> tuple[float, float]:
    """A 95% interval; items of one group are about one picture.

    For the mean of scores in [0, 1], Wilson's with the variance over groups (statistics.py). For the rest, percentiles
    of the figure over resampled groups (Efron 1979), which is too narrow if a ratio is at its bound.
    """
    if len(figure) == 1:
        term = figure[0]
        chosen = term.over == 1
        scores = term.of[chosen]
        if len(scores) and bool((term.over[~chosen] == 0).all()) and scores.min() >= 0 and scores.max() <= 1:
            inside = [g for g, c in zip(groups, chosen, strict=True) if c]
            _, low, high = accuracy_interval(scores.tolist(), inside)
            return low * term.scale, high * term.scale
    sums = group_sums(figure, groups)
    if not len(sums):
        return 0.0, 0.0
    return _middle(np.array([values(figure, s) for s in _resampled(sums)]))


def _resampled(sums: NDArray[np.float64]) -> Iterator[NDArray[np.float64]]:
    """Sums [..., 2, terms] over as many groups as there are, drawn with replacement; every call draws the same."""
    rng = np.random.default_rng(0)
    count = len(sums)
    for _ in range(RESAMPLES):
        times = np.bincount(rng.integers(0, count, count), minlength=count).astype(np.float64)
        yield np.tensordot(times, sums, 1)


def _middle(found: NDArray[np.float64]) -> tuple[float, float]:
    low, high = np.quantile(found, (0.025, 0.975))
    return float(low), float(high)


@dataclass(frozen=True)
class Difference:
    """The difference of a figure between models A and B, over the same items."""

    a: float
    b: float
    low: float
    high: float
    """95% interval of a - b: percentiles over resampled groups, the same groups of both."""
    p: float
    """How often swapping the two models' answers, picture by picture, gives at least this difference (two-sided)."""


def difference(a: Figure, b: Figure, groups: Sequence[str]) -> Difference:
    """A paired bootstrap and a paired randomisation test (Noreen 1989) over groups. Items are in the same order."""
    both = np.stack([group_sums(a, groups), group_sums(b, groups)], axis=1)  # [groups, model, 2, terms]

    def less(sums: NDArray[np.float64]) -> float:
        return float(values(a, sums[0]) - values(b, sums[1]))

    found = less(both.sum(axis=0))
    low, high = _middle(np.array([less(sums) for sums in _resampled(both)]))
    # Swapping groups in which the two do not differ cannot move the figure.
    differ = (both[:, 0] != both[:, 1]).any(axis=(1, 2))
    fixed, apart = both[~differ].sum(axis=0), both[differ]
    summed = apart.sum(axis=(0, 1))
    rng = np.random.default_rng(0)
    extreme = 1  # the actual labels
    together = max(1, TOGETHER // max(1, apart.size))
    for done in range(0, SWAPS if len(apart) else 0, together):
        chosen = rng.integers(0, 2, (min(together, SWAPS - done), len(apart)))
        first = apart[np.arange(len(apart)), chosen].sum(axis=1)
        swapped = fixed + np.stack([first, summed - first], axis=1)  # [swaps, model, 2, terms]
        apart_by = values(a, swapped[:, 0]) - values(b, swapped[:, 1])
        extreme += int((abs(apart_by) >= abs(found) - 1e-12).sum())
    p = extreme / (SWAPS + 1) if len(apart) else 1.0
    return Difference(value(a), value(b), low, high, p)


def holm(p: Mapping[str, float]) -> dict[str, float]:
    """p-values adjusted for multiple comparisons (Holm 1979)."""
    ordered = sorted(p, key=lambda name: p[name])
    adjusted: dict[str, float] = {}
    highest = 0.0
    for rank, name in enumerate(ordered):
        highest = max(highest, min(1.0, (len(ordered) - rank) * p[name]))
        adjusted[name] = highest
    return {name: adjusted[name] for name in p}
