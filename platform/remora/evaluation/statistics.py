"""Intervals for scores of grouped questions."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence

Z95 = 1.959963984540054


def accuracy_interval(scores: Sequence[float], groups: Sequence[Hashable]) -> tuple[float, float, float]:
    """(mean, low, high): a 95% interval for a mean of 0/1 scores whose questions share pictures.

    Ten questions about one picture are not ten independent ones. The variance of the mean is taken over groups (the
    linearised ratio estimator; Cochran, Sampling Techniques, 3rd ed., section 9A.2), converted to the number of
    independent questions with that variance, and put into Wilson's interval, which stays inside [0, 1].
    """
    n = len(scores)
    if n == 0:
        raise ValueError("no scores")
    mean = sum(scores) / n
    residual: dict[Hashable, float] = {}
    for score, group in zip(scores, groups, strict=True):
        residual[group] = residual.get(group, 0.0) + score - mean
    k = len(residual)
    effective = float(k)  # one group, or all right, or all wrong: the correlation within groups is unknown
    if k > 1 and 0 < mean < 1:
        variance = k / (k - 1) * sum(r * r for r in residual.values()) / n**2
        independent = mean * (1 - mean) / (n - 1)
        # Groups that happen to vary less than independent questions must not shrink the interval below theirs.
        effective = n / max(1.0, variance / independent)
    return mean, *wilson(mean, effective)


def wilson(mean: float, n: float) -> tuple[float, float]:
    """Wilson's 95% score interval for a proportion (Wilson 1927)."""
    z2 = Z95 * Z95
    centre = (mean + z2 / (2 * n)) / (1 + z2 / n)
    half = Z95 / (1 + z2 / n) * math.sqrt(mean * (1 - mean) / n + z2 / (4 * n * n))
    # At 0 and 1 the bound is the mean itself, which rounding misses by 1e-19.
    return max(0.0, min(mean, centre - half)), min(1.0, max(mean, centre + half))
