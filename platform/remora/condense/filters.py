"""Filters by rank: keep the samples whose similarity rank, as a fraction, is in a range.

Ranks are over all samples that the previous step kept, not within a cluster: Bunny's paper sorts "the remaining
samples", and its code sorts those of all clusters together.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from remora.condense.vectors import BLOCK, Vectors, dots, ordered


def ranked(scores: np.ndarray, low: float, high: float) -> np.ndarray:
    """Which of the samples [n] rank from `low` (inclusive) to `high` (exclusive): bool [n].

    The highest score has rank 0; of equal scores the earlier sample comes first. Rank r of n is at (r + 1/2) / n, so
    adjacent ranges neither overlap nor leave a gap, and 0 to 1 is everything.
    """
    order = np.argsort(-scores, kind="stable")
    place = (np.arange(len(scores)) + 0.5) / max(len(scores), 1)
    chosen = np.zeros(len(scores), bool)
    chosen[order[(place >= low) & (place < high)]] = True
    return chosen


def text_similarity(images: Vectors, texts: Vectors, rows: np.ndarray, threads: int = 1) -> np.ndarray:
    """Cosine of each row's picture and text, float64 [len(rows)]; 0 without a text."""
    return _by_blocks(lambda some: dots(images.take(some), texts.take(some)), rows, threads)


def centroid_similarity(
    images: Vectors, labels: np.ndarray, centroids: np.ndarray, rows: np.ndarray, threads: int = 1
) -> np.ndarray:
    """Cosine of each row's picture and its cluster's centroid, float64 [len(rows)]; 0 for a centroid at the origin."""
    length = np.linalg.norm(centroids.astype(np.float64), axis=1)
    length[length == 0] = 1

    def of(some: np.ndarray) -> np.ndarray:
        return dots(images.take(some), centroids[labels[some]]) / length[labels[some]]

    return _by_blocks(of, rows, threads)


def _by_blocks(function: Callable[[np.ndarray], np.ndarray], rows: np.ndarray, threads: int) -> np.ndarray:
    blocks = [rows[start : start + BLOCK] for start in range(0, len(rows), BLOCK)]
    return np.concatenate([np.empty(0), *ordered(function, blocks, threads)])


def drawn(rows: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Draw `count` of the rows, ascending, or all of them. A larger count draws a superset."""
    return np.sort(np.random.default_rng(seed).permutation(rows)[:count])
