"""Bunny's coreset by brute force, written from the paper's sentences: O(n²), float64, one row at a time."""

from __future__ import annotations

from fractions import Fraction

import numpy as np


def unit(rows: np.ndarray) -> np.ndarray:
    rows = np.asarray(rows, np.float64)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def one_of_each_component(images: np.ndarray, labels: np.ndarray, centroids: np.ndarray, threshold: float) -> list[int]:
    """In each cluster a graph with an edge where the cosine exceeds the threshold; of each connected component the
    sample whose Euclidean distance to the centroid ranks at the median."""
    x, kept = unit(images), []
    for cluster in range(len(centroids)):
        left = [int(row) for row in np.flatnonzero(labels == cluster)]
        while left:
            component, frontier = [], [left.pop(0)]
            while frontier:
                row = frontier.pop()
                component.append(row)
                joined = [other for other in left if float(x[row] @ x[other]) > threshold]
                left = [other for other in left if other not in joined]
                frontier += joined
            distance = {row: float(np.linalg.norm(x[row] - centroids[cluster].astype(np.float64))) for row in component}
            component.sort(key=lambda row: (distance[row], row))
            kept.append(component[len(component) // 2])
    return sorted(kept)


def ranking(rows: list[int], score: dict[int, float], low: float, high: float) -> list[int]:
    """Sort the remaining samples, the most similar first, and keep those that rank from low to high."""
    best_first = sorted(rows, key=lambda row: (-score[row], row))
    low_, high_ = Fraction(str(low)), Fraction(str(high))
    place = {row: (Fraction(rank) + Fraction(1, 2)) / len(rows) for rank, row in enumerate(best_first)}
    return sorted(row for row in rows if low_ <= place[row] < high_)


def coreset(
    images: np.ndarray,
    texts: np.ndarray,
    labels: np.ndarray,
    centroids: np.ndarray,
    threshold: float,
    text_rank: tuple[float, float],
    centroid_rank: tuple[float, float],
) -> tuple[list[int], list[int], list[int]]:
    """Rows that are left after each step."""
    x, t, c = unit(images), unit(texts), unit(centroids)
    deduplicated = one_of_each_component(images, labels, centroids, threshold)
    by_text = ranking(deduplicated, {r: float(x[r] @ t[r]) for r in deduplicated}, *text_rank)
    by_centroid = ranking(by_text, {r: float(x[r] @ c[labels[r]]) for r in by_text}, *centroid_rank)
    return deduplicated, by_text, by_centroid
