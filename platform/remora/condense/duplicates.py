"""Near-duplicates in a cluster: the graph of pairs above a cosine, of which one row per connected component is kept.

Memory is needed for a cluster's rows and one block of cosines, never for the whole matrix.
"""

from __future__ import annotations

import itertools

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from remora.condense.vectors import BLOCK, Vectors, dots, ordered

SIDE = 1024
"""Rows and columns of a block of cosines. If all pairs of a block are joined, it takes some 60 MB."""


def components(rows: np.ndarray, threshold: float) -> np.ndarray:
    """The connected component of each row, int32 [n]; two rows are joined if their cosine is above `threshold`.

    Rows must have length 1. Cosines are float32 products. A pair within rounding error of the threshold (the error of a
    sum of d products of unit rows is below d ulps: Higham, Accuracy and Stability, section 3.1) is computed again in
    float64, so the graph does not depend on the BLAS. A pair exactly at the threshold is not joined.
    """
    labels = np.arange(len(rows), dtype=np.int32)
    held: list[np.ndarray] = []
    count = 0
    starts = range(0, len(rows), SIDE)
    for top, left in itertools.combinations_with_replacement(starts, 2):
        ends = np.concatenate([labels[top : top + SIDE], labels[left : left + SIDE]])
        if (ends == ends[0]).all():
            continue  # all are in one component: more pairs change nothing
        pairs = labels[_above(rows, top, left, threshold)]
        held.append(pairs[:, pairs[0] != pairs[1]])
        count += held[-1].shape[1]
        if count > len(rows):  # bounds the memory of pairs and the time of merging
            labels = _joined(labels, held)
            held, count = [], 0
    return _joined(labels, held)


def _joined(labels: np.ndarray, pairs: list[np.ndarray]) -> np.ndarray:
    """The labels after merging the components of these pairs of labels [2, n]."""
    if not pairs:
        return labels
    left, right = np.concatenate(pairs, axis=1)
    graph = coo_array((np.ones(len(left), np.int8), (left, right)), (len(labels), len(labels)))
    _, found = connected_components(graph, directed=False)
    return found[labels]


def _above(rows: np.ndarray, top: int, left: int, threshold: float) -> np.ndarray:
    """Positions [2, n] of the pairs, the earlier row first, whose cosine in this block is above the threshold."""
    doubt = rows.shape[1] * np.finfo(np.float32).eps
    cosines = rows[top : top + SIDE] @ rows[left : left + SIDE].T
    pairs = np.stack(np.nonzero(cosines > threshold - doubt))
    near = cosines[pairs[0], pairs[1]]
    pairs += [[top], [left]]
    sure = near > threshold + doubt
    unsure = np.flatnonzero(~sure)
    for some in range(0, len(unsure), BLOCK):
        doubted = unsure[some : some + BLOCK]
        sure[doubted] = dots(rows[pairs[0, doubted]], rows[pairs[1, doubted]]) > threshold
    return pairs[:, sure & (pairs[0] < pairs[1])]


def medians(labels: np.ndarray, distances: np.ndarray) -> np.ndarray:
    """For every row [n], the position of the row that is kept of its component.

    A component's rows are sorted by distance, then position. The middle one is kept; of an even number, the farther of
    the middle two, as in Bunny's published code.
    """
    order = np.lexsort((distances, labels))
    starts = np.flatnonzero(np.diff(labels[order], prepend=-1))
    sizes = np.diff(starts, append=len(order))
    kept = np.empty(len(order), np.int64)
    kept[order] = np.repeat(order[starts + sizes // 2], sizes)
    return kept


def distances_to(rows: np.ndarray, centroid: np.ndarray) -> np.ndarray:
    """Euclidean distance of each row to the centroid, float64 [n]."""
    blocks = (rows[start : start + BLOCK].astype(np.float64) - centroid for start in range(0, len(rows), BLOCK))
    return np.concatenate([np.sqrt(dots(b, b)) for b in blocks])


def representatives(
    vectors: Vectors, labels: np.ndarray, centroids: np.ndarray, threshold: float, threads: int = 1
) -> np.ndarray:
    """For every row, the row that is kept for it (itself if kept), or -1 without a cluster: int64 [n]."""
    by_cluster = np.argsort(labels, kind="stable")
    bounds = np.searchsorted(labels[by_cluster], np.arange(len(centroids) + 1))

    def of_cluster(cluster: int) -> tuple[np.ndarray, np.ndarray]:
        members = by_cluster[bounds[cluster] : bounds[cluster + 1]]
        if not len(members):
            return members, members
        rows = vectors.take(members)
        return members, members[medians(components(rows, threshold), distances_to(rows, centroids[cluster]))]

    kept = np.full(len(labels), -1, np.int64)
    for members, theirs in ordered(of_cluster, range(len(centroids)), threads):
        kept[members] = theirs
    return kept
