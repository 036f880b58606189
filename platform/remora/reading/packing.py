"""Assign samples to forward passes: a pure function of their lengths, so that every rank computes the same result.

Packed: as few and as even rows as possible, within a token capacity. Padded: groups of samples of similar length. The
number of rows or groups is a multiple of `ranks`, and `deal` gives every rank the same number.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections.abc import Sequence
from itertools import pairwise


def pack(lengths: Sequence[int], capacity: int, ranks: int = 1) -> list[list[int]]:
    """Indices of the lengths, in rows of at most `capacity` tokens; a multiple of `ranks` rows, the fullest first.

    Best fit decreasing gives the number of rows, which is rounded up to a multiple of `ranks`. The smallest capacity
    that needs no more rows makes them even (MULTIFIT: Coffman, Garey and Johnson, "An Application of Bin-Packing to
    Multiprocessor Scheduling", 1978). Ties are broken by index. Surplus rows are empty.

    Raises:
        ValueError: a length is below 1 or above the capacity.
    """
    if not all(1 <= length <= capacity for length in lengths):
        raise ValueError(f"lengths from {min(lengths)} to {max(lengths)} do not fit rows of 1 to {capacity} tokens")
    longest_first = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    rows = _best_fit(lengths, longest_first, capacity)
    count = max(1, math.ceil(len(rows) / ranks)) * ranks
    low, high = max(math.ceil(sum(lengths) / count), max(lengths, default=0)), capacity
    while low < high:  # about 12 times for rows of 2,048 tokens
        middle = (low + high) // 2
        tighter = _best_fit(lengths, longest_first, middle)
        if len(tighter) <= count:
            rows, high = tighter, middle
        else:
            low = middle + 1
    rows = [sorted(row) for row in rows] + [[] for _ in range(count - len(rows))]
    return sorted(rows, key=lambda row: -sum(lengths[i] for i in row))


def _best_fit(lengths: Sequence[int], order: Sequence[int], capacity: int) -> list[list[int]]:
    """Put each length into the fullest row with room for it (the oldest of equals), else into a new row."""
    rows: list[list[int]] = []
    room: list[tuple[int, int]] = []  # (tokens left, row), sorted
    for i in order:
        at = bisect_left(room, (lengths[i], 0))
        left, row = room.pop(at) if at < len(room) else (capacity, len(rows))
        if row == len(rows):
            rows.append([])
        rows[row].append(i)
        insort(room, (left - lengths[i], row))
    return rows


def group(lengths: Sequence[int], size: int, ranks: int = 1) -> list[list[int]]:
    """Indices of the lengths, in groups of at most `size` samples of similar length, the longest first.

    The number of groups is the smallest multiple of `ranks`, and their sizes differ by at most two. Similar lengths
    waste least padding; the samples of one pass are dealt to the ranks in turn, so that no rank gets all the long ones.
    Ties are broken by index.
    """
    longest_first = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    passes = max(1, math.ceil(len(lengths) / (size * ranks)))
    edges = [i * len(lengths) // passes for i in range(passes + 1)]
    return [sorted(longest_first[a:b][rank::ranks]) for a, b in pairwise(edges) for rank in range(ranks)]


def deal(shares: Sequence[list[int]], rank: int, ranks: int) -> list[list[int]]:
    """A rank's shares, one per forward pass. In each pass the ranks' shares are adjacent in size, and every other pass
    deals them in reverse, so that no rank always has the largest."""
    passes = range(0, len(shares), ranks)
    return [shares[first + (rank if i % 2 == 0 else ranks - 1 - rank)] for i, first in enumerate(passes)]
