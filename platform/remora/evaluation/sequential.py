"""Tests that are looked at while their data come in, and exact tests of pairs for them.

Whoever tests at 5% at every look finds a difference sooner or later. Alpha spending (Lan and DeMets, Biometrika 70,
1983) says how much of alpha may be spent by when; the level of each look follows from the joint distribution of the
looks, which is that of Brownian motion, by the recursion of Armitage, McPherson and Rowe (1969).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtr, bdtrc, gammaln, ndtr, ndtri

AlphaSpending = Literal["pocock", "obrien-fleming", "linear"]
SPENT: dict[AlphaSpending, Callable[[float, float], float]] = {
    "pocock": lambda share, alpha: alpha * math.log1p((math.e - 1) * share),
    "obrien-fleming": lambda share, alpha: 2 * float(ndtr(ndtri(alpha / 2) / math.sqrt(share))),
    "linear": lambda share, alpha: alpha * share,
}
"""How much of alpha is spent at a share of the data, (share, alpha) -> alpha: pocock nearly alike at all looks,
obrien-fleming hardly any at first."""
NODES = 256
"""Of the integrals over what the data may have been at the look before."""
FAR = 9.0
"""Standard deviations beyond which nothing is integrated."""
TINY = 1e-13
"""Less than this cannot be told from rounding in those integrals; such a look has what it spends as its level."""


@lru_cache(maxsize=64)
def levels(looks: int, alpha: float, spending: AlphaSpending) -> tuple[float, ...]:
    """The one-sided level of each of so many looks at equal shares of the data.

    A test whose p is uniform under its hypothesis, and whose looks depend on each other as sums of independent data do,
    has p <= level at any of them with probability alpha.
    """
    nodes, weights = np.polynomial.legendre.leggauss(NODES)
    step, spent, found = math.sqrt(1 / looks), 0.0, list[float]()
    at, mass = np.zeros(1), np.ones(1)  # where the sum was at the look before, and how probably; it begins at 0
    for look in range(1, looks + 1):
        share = look / looks
        now = SPENT[spending](share, alpha)
        part, spent = now - spent, now
        bound = -float(ndtri(max(part, 1e-300))) * math.sqrt(share)
        if part > TINY:
            bound = _bound(at, mass, step, part)
        found.append(float(ndtr(-bound / math.sqrt(share))))
        half = (bound + FAR * math.sqrt(share)) / 2
        new = bound - half + half * nodes
        density = np.exp(-(((new[:, None] - at) / step) ** 2) / 2) @ mass / (step * math.sqrt(2 * math.pi))
        at, mass = new, half * weights * density
    return tuple(found)


def _bound(at: NDArray[np.float64], mass: NDArray[np.float64], step: float, part: float) -> float:
    """What the sum exceeds with this probability after its next step."""
    low, high = -FAR, FAR
    for _ in range(100):
        middle = (low + high) / 2
        if float(mass @ ndtr((at - middle) / step)) > part:
            low = middle
        else:
            high = middle
    return high


def sign_test(up: int, down: int) -> tuple[float, float]:
    """(p of more ups than chance, p of fewer): the exact sign test, one-sided; on discordant pairs it is McNemar's."""
    count = up + down
    return (1.0, 1.0) if not count else (float(bdtrc(up - 1, count, 0.5)) if up else 1.0, float(bdtr(up, count, 0.5)))


def paired_rates(up: int, down: int, count: int, margin: float) -> tuple[float, float]:
    """(p of a rate that is higher by more than `margin`, p of one that is not as much higher), for yes-no pairs.

    Args:
        up: Pairs in which the first alone is a yes.
        down: Pairs in which the second alone is.
        count: All pairs.
        margin: Of the first's rate over the second's, in [0, 1).

    The exact distribution of up - down where the rates differ by the margin, with the share of discordant pairs that is
    then most likely (the restricted maximum likelihood estimate of Tango, Statistics in Medicine 17, 1998; the
    estimated p of Storer and Kim 1990 and Lloyd 2008). Its level is not guaranteed, but within a fifth of the nominal
    one in the enumerations of tests/evaluation/test_sequential.py. With no discordant pair it is (1 - margin)^count.
    """
    if not count:
        return 1.0, 1.0
    both = up + down
    middle = both * (1 + margin) - 2 * margin * (down + count)
    root = math.sqrt(middle * middle + 8 * count * down * margin * (1 - margin))
    second = min(max(0.0, (middle + root) / (4 * count)), (1 - margin) / 2)
    first = second + margin
    rate = first + second  # of discordant pairs
    if rate == 0:
        return 1.0, 1.0
    found = up - down
    if rate >= 1:
        return float(bdtrc((found + count + 1) // 2 - 1, count, first)), float(bdtr((found + count) // 2, count, first))
    discordant = np.arange(count + 1)
    chance = np.exp(
        gammaln(count + 1)
        - gammaln(discordant + 1)
        - gammaln(count - discordant + 1)
        + discordant * math.log(rate)
        + (count - discordant) * math.log1p(-rate)
    )
    of = first / rate
    most = np.floor((found + discordant) / 2)  # ups of so many discordant pairs, for a difference of `found` at most
    least = np.ceil((found + discordant) / 2)
    fewer = np.where(most < 0, 0.0, bdtr(np.clip(most, 0, discordant), discordant, of))
    more = np.where(least <= 0, 1.0, np.where(least > discordant, 0.0, bdtrc(np.maximum(least - 1, 0), discordant, of)))
    return min(1.0, float(chance @ more)), min(1.0, float(chance @ fewer))


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest value that is not exceeded by at least this share of them."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]
