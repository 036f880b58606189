"""Several models on the same questions: which is best, which are as good, and how much of the best figure is luck.

Questions about one picture are not independent, so what is swapped and resampled here is pictures ("groups"). Every
draw is seeded.

The best model is chosen by the same answers that it is then tested on. A test of it against each other model, corrected
for the number of those (Holm), forgets that: of ten equal models one was called worse than the best in 13% of simulated
sets, of 24 in 19%. So every pair is tested at once. Answers are swapped picture by picture, for all pairs by the same
swaps, and a difference counts if, in its own standard error, it is larger than the largest of any pair in 95% of the
swaps: Tukey's idea with the maximum statistic of Westfall and Young (1993), kept to pairs. To shuffle the answers among
all models (Carterette, ACM TOIS 30:1, 2012) gives every pair the same error, and models that share stage runs answer
alike. For two models it is the test of `figures.difference`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from remora.evaluation.figures import RESAMPLES, SWAPS, Figure, group_sums, interval, value, values

ALPHA = 0.05
"""A difference counts when its adjusted p is at most this."""
TOGETHER = 1 << 20
"""Numbers that swaps and resamples hold at once: 8 MiB of them."""
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Ranked:
    """One model's place. Figures are in the benchmark's unit."""

    name: str
    figure: float
    low: float
    high: float
    """95% interval of the figure, on its own."""
    behind: float
    """What the best has more."""
    behind_low: float
    behind_high: float
    """Interval of `behind`; with probability 1 - alpha those of all pairs of models hold at once."""
    p: float
    """Of `behind`, adjusted for all pairs; 1 for the best itself."""


@dataclass(frozen=True)
class Ranking:
    """Every model, the best first; equal figures stay in the order that they were given in."""

    models: tuple[Ranked, ...]
    n: int
    groups: int
    alpha: float
    expected_drop: float
    """By how much the best one's figure is expected to be lower on new questions of the same kind (`expected_drop`)."""

    @property
    def best(self) -> str:
        return self.models[0].name

    @property
    def equals(self) -> tuple[str, ...]:
        """The others that cannot be told from the best one."""
        return tuple(m.name for m in self.models[1:] if m.p > self.alpha)


def rank(figures: Mapping[str, Figure], groups: Sequence[str], alpha: float = ALPHA, seed: int = 0) -> Ranking:
    """Rank models by one figure.

    Args:
        figures: By model; items in one order, so that the same place is the same question.
        groups: Of each item; equal for questions about one picture.

    Raises:
        ValueError: no model, or figures of different items.
    """
    names = list(figures)
    sums = np.stack([group_sums(figures[name], groups) for name in names], axis=1)  # [groups, models, 2, terms]
    found = np.array([value(figures[name]) for name in names])
    order = sorted(range(len(names)), key=lambda i: (-found[i], i))
    best = order[0]
    shares = _shares(list(figures.values()), sums)
    errors = _errors(shares)
    extreme = _extremes(shares, errors, np.random.default_rng(seed))
    # The largest of all pairs that chance makes in 95% of the swaps; the labels as they are count as one of them.
    reach = float(np.quantile(np.append(extreme, np.inf), 1 - alpha, method="higher")) if len(extreme) else 0.0
    ranked = []
    for i in order:
        low, high = interval(figures[names[i]], groups)
        behind, error = float(found[best] - found[i]), float(errors[best, i])
        at = abs(float(shares[:, best].sum() - shares[:, i].sum())) / error if error else 0.0
        p = (1 + int((extreme >= at - 1e-9).sum())) / (len(extreme) + 1) if error else 1.0
        margin = reach * error if error else 0.0
        ranked.append(Ranked(names[i], float(found[i]), low, high, behind, behind - margin, behind + margin, p))
    top = [m.name for m in ranked if m.p > alpha]
    drop = expected_drop(figures, groups, top, seed)
    return Ranking(tuple(ranked), len(groups), len(sums), alpha, drop)


def expected_drop(figures: Mapping[str, Figure], groups: Sequence[str], equals: Sequence[str], seed: int = 0) -> float:
    """By how much the best of several figures is expected to fall on new questions: a winner was lucky, too.

    The bootstrap: the same choice is made on resampled pictures, and what is chosen there is compared with its figure
    on all of them. The figures that were found lie further apart than the models do, which makes that choice too easy:
    for equal models the plain bootstrap gives 0.7 of the true drop, and the pictures that a resample left out give 1.45
    of it. So the figures of `equals`, which cannot be told from the best one, are first drawn together by the share of
    their spread that chance explains (James and Stein 1961; Efron and Morris 1975). The simulation is in
    docs/decisions/evaluation.md.

    Args:
        equals: The best model and those that cannot be told from it.
    """
    several = list(figures.values())
    sums = np.stack([group_sums(figure, groups) for figure in several], axis=1)  # [groups, models, 2, terms]
    found = np.array([value(figure) for figure in several])
    if len(sums) < 2:  # one picture says nothing about others
        return 0.0
    near = [i for i, name in enumerate(figures) if name in equals]
    likely = found.copy()
    likely[near] = _drawn_together(found[near], _shares(several, sums)[:, near])
    rng, best = np.random.default_rng(seed), int(found.argmax())
    lucky = []
    count, together = len(sums), max(1, TOGETHER // len(sums))
    for done in range(0, RESAMPLES, together):
        times = rng.multinomial(count, np.full(count, 1 / count), size=min(together, RESAMPLES - done))
        drawn = np.tensordot(times.astype(np.float64), sums, 1)  # [resamples, models, 2, terms]
        luck = np.stack([values(figure, drawn[:, i]) for i, figure in enumerate(several)], axis=1) - found
        # Less the best one's own luck, which is 0 on average: the estimate is steadier so, and never negative.
        lucky.append(luck[np.arange(len(luck)), (likely + luck).argmax(axis=1)] - luck[:, best])
    return float(np.concatenate(lucky).mean())


def _drawn_together(found: Floats, shares: Floats) -> Floats:
    """Figures [models], nearer to their mean by the share of their spread that equal models would have."""
    spread = ((found - found.mean()) ** 2).sum()
    apart = shares - shares.mean(axis=1, keepdims=True)
    apart -= apart.mean(axis=0)
    chance = len(shares) / (len(shares) - 1) * (apart**2).sum()
    return np.asarray(found.mean() + (max(0.0, 1 - chance / spread) if spread else 0.0) * (found - found.mean()))


def cheapest(ranking: Ranking, costs: Mapping[str, Sequence[float]]) -> str:
    """Of the best and its equals the one of least cost: by the first number, then the next, then by its place.

    Args:
        costs: Model to what it costs, the weightiest first: parameters, picture tokens; or seconds an answer.
    """
    equals = {ranking.best, *ranking.equals}
    return min((m.name for m in ranking.models if m.name in equals), key=lambda name: tuple(costs[name]))


def _shares(figures: Sequence[Figure], sums: Floats) -> Floats:
    """What each picture adds to each model's figure, [groups, models]: two columns' totals differ by what figures do.

    A ratio is linearised at the models' common one (Cochran, Sampling Techniques, 3rd ed., section 6.3).
    """
    of, over = sums[:, :, 0], sums[:, :, 1]  # [groups, models, terms]
    common = _ratio(of.sum(axis=(0, 1)), over.sum(axis=(0, 1)))
    scales = np.array([[term.scale for term in figure] for figure in figures])
    parts = _ratio(of - common * over, np.broadcast_to(over.sum(axis=0), of.shape))
    return np.asarray((parts * scales).sum(axis=2))


def _ratio(of: Floats, over: Floats) -> Floats:
    return np.divide(of, over, out=np.zeros_like(of), where=over != 0)


def _errors(shares: Floats) -> Floats:
    """Standard error of each pair's difference if it were by chance, [models, models]: 0 where the two are alike."""
    errors = np.zeros((shares.shape[1],) * 2)
    for i in range(len(errors)):
        errors[i] = np.sqrt(((shares[:, i : i + 1] - shares) ** 2).sum(axis=0))
    return errors


def _extremes(shares: Floats, errors: Floats, rng: np.random.Generator) -> Floats:
    """The largest difference of any pair, in its standard error, in each of SWAPS swaps, [swaps]; [] if all are alike.

    Swapping two models' answers to a picture turns the sign of what it adds to their difference.
    """
    first, second = np.nonzero(np.triu(errors))
    if not len(first):
        return np.empty(0)
    centred = shares - shares[:, :1]
    centred = centred[(centred != 0).any(axis=1)]  # pictures on which no two differ move nothing
    together = max(1, TOGETHER // (len(centred) + len(first)))
    found = []
    for done in range(0, SWAPS, together):
        signs = rng.integers(0, 2, (min(together, SWAPS - done), len(centred))) * 2.0 - 1.0
        moved = signs @ centred  # [swaps, models]
        found.append((abs(moved[:, first] - moved[:, second]) / errors[first, second]).max(axis=1))
    return np.concatenate(found)
