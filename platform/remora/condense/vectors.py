"""Embeddings on disk as one matrix: memory-mapped .npy files, with L2-normalised rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np
from threadpoolctl import threadpool_limits

from remora.errors import DataError

BLOCK = 4096
"""Rows processed at once. Blocks always start at multiples of it, independent of files and workers, because the last
bit of a matrix product depends on its shape."""
T = TypeVar("T")
R = TypeVar("R")


class Vectors:
    """Rows of one or more .npy files [n, width] in the order given, of any float type.

    A row is float32 with length 1. A row without a direction (all zeros, or a number that is not finite) is all zeros,
    which means that it has no embedding.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        """Raises:
        DataError: there is no file, or one is not a matrix of floats or has another width.
        """
        self._maps = [_open(f) for f in files]
        if not self._maps:
            raise DataError("no embeddings: give a folder with .npy files of shape [rows, width]")
        self.width = int(self._maps[0].shape[1])
        for file, rows in zip(files, self._maps, strict=True):
            if rows.shape[1] != self.width:
                raise DataError(f"{file} has width {rows.shape[1]}, {files[0]} has {self.width}; both need one encoder")
        self._ends = np.cumsum([len(m) for m in self._maps])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def take(self, rows: np.ndarray) -> np.ndarray:
        """The rows with these ascending numbers, float32 [len(rows), width]."""
        out = np.empty((len(rows), self.width), np.float32)
        cuts = np.searchsorted(rows, self._ends)
        for i in np.flatnonzero(np.diff(cuts, prepend=0)):
            low, high = (cuts[i - 1] if i else 0), cuts[i]
            out[low:high] = self._maps[i][rows[low:high] - (self._ends[i] - len(self._maps[i]))]
        return _normalised(out)

    def block(self, start: int) -> np.ndarray:
        """Up to BLOCK rows from `start` on."""
        return self.take(np.arange(start, min(start + BLOCK, len(self))))


def _open(file: Path) -> np.ndarray:
    try:
        rows = np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as e:
        raise DataError(f"{file}: unreadable embeddings: {e}; it should be a .npy matrix [rows, width]") from None
    if rows.ndim != 2 or rows.dtype.kind != "f" or not rows.size:
        raise DataError(f"{file} holds {rows.dtype} {list(rows.shape)}; embeddings are floats [rows, width]")
    return rows


def _normalised(rows: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore", invalid="ignore"):
        length = np.sqrt(np.einsum("ij,ij->i", rows, rows))[:, None]
    nowhere = ~np.isfinite(length) | (length == 0)
    np.divide(rows, length, out=rows, where=~nowhere)
    rows[nowhere[:, 0]] = 0
    return rows


def dots(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Row by row dot products in float64: [n]. Cosines, for rows of length 1."""
    return np.einsum("ij,ij->i", left, right, dtype=np.float64, casting="same_kind")


def ordered(function: Callable[[T], R], items: Sequence[T], threads: int) -> Iterator[R]:
    """`map` on threads: results in the order of the items, the same for any number of threads.

    BLAS is limited to one thread meanwhile: its sums would depend on the number of threads, and nested threads would
    compete. At most a few results are queued, so results may be large.
    """
    with threadpool_limits(1, "blas"), ThreadPoolExecutor(threads) as pool:
        waiting = []
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > 2 * threads:
                yield waiting.pop(0).result()
        for future in waiting:
            yield future.result()
