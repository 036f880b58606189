"""When a search may stop: the lead of its best variant is significant, though it was looked at more than once."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

from remora.evaluation.figures import Figure
from remora.evaluation.ranking import ALPHA, rank


def lead_is_significant(
    figures: Mapping[str, Figure],
    groups: Sequence[str],
    share: float,
    looked: Sequence[float] = (),
    alpha: float = ALPHA,
    seed: int = 0,
) -> bool:
    """Whether the best of several models is better than every other, at a rung of a search.

    Each look may spend a part of alpha (`spent`; Lan and DeMets 1983), and the parts are added up, since nothing is
    known about how two rungs' answers to the same questions depend on each other. So among equal models a search is
    stopped wrongly, at any of its rungs, with probability alpha at most. The lead is significant at this rung; whether
    another model would overtake if it trained on is another question.

    Args:
        figures: By model, all at the same share of their samples; items in one order, as for `rank`.
        groups: Of each item; equal for questions about one picture.
        share: Of the samples, in (0, 1].
        looked: The shares at which this was asked before, in order.

    Raises:
        ValueError: shares that do not rise from 0 to 1.
    """
    shares = [0.0, *looked, share]
    if not all(a < b for a, b in pairwise(shares)) or share > 1:
        raise ValueError(f"looks must rise from 0 to 1, and these are at {', '.join(f'{s:g}' for s in shares[1:])}")
    now = spent(shares[-1], alpha) - spent(shares[-2], alpha)
    found = rank(figures, groups, now, seed)
    return len(figures) > 1 and not found.equals


def spent(share: float, alpha: float = ALPHA) -> float:
    """How much of alpha may be spent up to this share of the samples; all of it at 1.

    Lan and DeMets' function of Pocock's kind: early looks get nearly as much as late ones, since an early stop is what
    saves work.
    """
    return alpha * math.log1p((math.e - 1) * share)
