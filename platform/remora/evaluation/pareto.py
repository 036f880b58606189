"""The Pareto front: which of several models no other beats in one figure without losing in another."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def front(points: Sequence[Sequence[float]]) -> list[bool]:
    """Of each point whether no other is at least as good in every figure and better in one; higher is better.

    Equal points are on the front together.
    """
    if not points:
        return []
    all_of = np.asarray(points, float)
    return [not bool(np.any(np.all(all_of >= own, 1) & np.any(all_of > own, 1))) for own in all_of]
