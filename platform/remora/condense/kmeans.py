"""k-means on rows of length 1: Lloyd's algorithm on a seeded sample of them (Euclidean; centroids are plain means).

The initial centroids are randomly drawn rows. k-means++ gave clusters that are 1% tighter
(benchmarks/results/condense.md), but it reads every row once per centroid, too slow for 100,000 centroids. For a seed
the result is the same on any number of threads and for any split of the rows into files.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array

from remora.condense.vectors import BLOCK, Vectors, ordered
from remora.errors import DataError
from remora.spec.condensation import Clusters

NOWHERE = -1
"""The label of a row without an embedding."""


@dataclass(frozen=True)
class Fit:
    """Centroids float32 [k, width], and the number of iterations."""

    centroids: np.ndarray
    rounds: int


def fit(vectors: Vectors, clusters: Clusters, seed: int, threads: int = 1) -> Fit:
    """Fit `clusters.count` centroids.

    A centroid without rows is reset to the row that is farthest from its own centroid.

    Raises:
        DataError: there are fewer rows than clusters.
    """
    generator = np.random.default_rng(seed)
    wanted = min(len(vectors), clusters.count * clusters.points)
    points = vectors.take(np.sort(generator.choice(len(vectors), wanted, replace=False, shuffle=False)))
    if not (there := points.any(axis=1)).all():
        points = points[there]  # a full copy, 80 GB at Bunny's size
    if len(points) < clusters.count:
        raise DataError(f"{clusters.count} clusters for {len(points)} embeddings; lower clusters.count")
    centroids = points[np.sort(generator.choice(len(points), clusters.count, replace=False))]
    labels = np.full(len(points), NOWHERE, np.int32)
    for done in range(clusters.iterations):
        before = labels
        labels, nearness = _nearest_of(points, centroids, threads)
        if np.array_equal(labels, before):
            return Fit(centroids, done)
        centroids = _means(points, labels, nearness, clusters.count)
    return Fit(centroids, clusters.iterations)


def _nearest_of(points: np.ndarray, centroids: np.ndarray, threads: int) -> tuple[np.ndarray, np.ndarray]:
    half = half_norms(centroids)
    starts = range(0, len(points), BLOCK)
    found = list(ordered(lambda start: nearest(points[start : start + BLOCK], centroids, half), starts, threads))
    return np.concatenate([labels for labels, _ in found]), np.concatenate([near for _, near in found])


def _means(points: np.ndarray, labels: np.ndarray, nearness: np.ndarray, count: int) -> np.ndarray:
    """The mean of every cluster's points; an empty cluster gets one of the farthest points each."""
    ones = np.ones(len(points), np.float32)
    members = csr_array((ones, (labels, np.arange(len(points)))), (count, len(points)))
    sizes = np.bincount(labels, minlength=count)
    means = (members @ points) / np.maximum(sizes, 1).astype(np.float32)[:, None]
    empty = np.flatnonzero(sizes == 0)
    means[empty] = points[np.argsort(nearness, kind="stable")[: len(empty)]]
    return means


def half_norms(centroids: np.ndarray) -> np.ndarray:
    """Half of each centroid's squared length: float32 [k]."""
    return np.einsum("ij,ij->i", centroids, centroids) / 2


def nearest(points: np.ndarray, centroids: np.ndarray, half: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Label of each point's nearest centroid, int32 [n] (of equals, the lower), and x·c - |c|²/2 there, float32 [n].

    |x - c|² is |x|² minus twice the latter, so the largest is the nearest. Centroids are processed BLOCK at a time: all
    100,000 at once would take 1.6 GB for a block of points.
    """
    labels = np.zeros(len(points), np.int32)
    best = np.full(len(points), -np.inf, np.float32)
    for start in range(0, len(centroids), BLOCK):
        scores = points @ centroids[start : start + BLOCK].T
        scores -= half[start : start + BLOCK]
        here = scores.argmax(axis=1)
        reached = scores[np.arange(len(points)), here]
        closer = reached > best
        labels[closer] = here[closer] + start
        best[closer] = reached[closer]
    return labels, best


def assign(vectors: Vectors, centroids: np.ndarray, threads: int = 1) -> tuple[np.ndarray, float]:
    """The nearest centroid of every row, int32 [n] (NOWHERE without an embedding), and the mean distance."""
    half = half_norms(centroids)

    def of_block(start: int) -> tuple[np.ndarray, float]:
        rows = vectors.block(start)
        labels, near = nearest(rows, centroids, half)
        there = rows.any(axis=1)
        labels[~there] = NOWHERE
        squares = 1 - 2 * near[there].astype(np.float64)  # rows have length 1
        return labels, float(np.sqrt(squares.clip(0)).sum())

    found = list(ordered(of_block, range(0, len(vectors), BLOCK), threads))
    labels = np.concatenate([part for part, _ in found])
    return labels, sum(distance for _, distance in found) / max(1, int((labels != NOWHERE).sum()))
