"""The steps of a condensation; each uses what the previous one published.

    <folder>/clusters-<digest>/        centroids.npy, labels.npy (the cluster of every row, -1: no embedding)
    <folder>/duplicates-<digest>/      representative.npy (the row that is kept for every row), rows.npy
    <folder>/text-rank-<digest>/       scores.npy (of the rows before), rows.npy
    <folder>/centroid-rank-<digest>/   scores.npy (of the rows before), rows.npy
    <folder>/sample-<digest>/          rows.npy

A digest covers the embeddings and the parameters of the step and all before it. Existing steps are reused.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from remora.condense import duplicates, kmeans
from remora.condense.filters import centroid_similarity, drawn, ranked, text_similarity
from remora.condense.vectors import Vectors
from remora.errors import DataError, TornArtifact
from remora.files import digest, is_published, publishing, verify, write_json
from remora.model.seeds import seed_for
from remora.spec import Condensation
from remora.versions import CONDENSING

COUNTS = "counts.json"
Counts = Mapping[str, float]


@dataclass(frozen=True)
class Step:
    """A published step."""

    name: str
    digest: str
    folder: Path
    counts: Counts
    seconds: float | None = None
    """Seconds it took; None if it existed already."""

    def load(self, array: str) -> np.ndarray:
        return np.load(self.folder / f"{array}.npy", mmap_mode="r")


@dataclass(frozen=True)
class Embedded:
    """Embeddings of all rows, and the digest of their inputs."""

    images: Vectors
    texts: Vectors | None
    digest: str


class Condenser:
    """Makes the steps of `spec` in `folder`, or reuses existing ones. `threads` does not change the result."""

    def __init__(
        self,
        spec: Condensation,
        embedded: Embedded,
        folder: Path,
        threads: int = 1,
        heard: Callable[[Step], None] = lambda step: None,
    ) -> None:
        """Raises:
        DataError: the numbers of texts and pictures differ.
        """
        self.spec, self.images, self.texts = spec, embedded.images, embedded.texts
        self.folder, self.threads, self.heard = folder, threads, heard
        self.embeddings = embedded.digest
        if self.texts and len(self.texts) != len(self.images):
            raise DataError(f"{len(self.images)} embedded pictures but {len(self.texts)} texts; a row is a pair")

    def run(self) -> list[Step]:
        """All steps, in order; the last one's `rows` are the result.

        Raises:
            DataError: fewer embeddings than clusters, or a step keeps nothing.
        """
        spec, steps = self.spec, list[Step]()

        def step(name: str, parameters: object, make: Callable[[Path, Sequence[Step]], Counts]) -> None:
            steps.append(self._step(name, parameters, steps, make))

        step("clusters", [spec.clusters.model_dump(), spec.seed], self._clusters)
        step("duplicates", spec.duplicate, self._duplicates)
        if spec.text_rank:
            step("text-rank", spec.text_rank, self._text_rank)
        if spec.centroid_rank:
            step("centroid-rank", spec.centroid_rank, self._centroid_rank)
        if spec.sample:
            step("sample", [spec.sample, spec.seed], self._sample)
        return steps

    def _step(
        self, name: str, parameters: object, before: Sequence[Step], make: Callable[[Path, Sequence[Step]], Counts]
    ) -> Step:
        key = digest([CONDENSING, name, before[-1].digest if before else self.embeddings, parameters])
        folder = self.folder / f"{name}-{key[:16]}"
        seconds = None
        if not whole(folder):
            started = time.perf_counter()
            with publishing(folder) as tmp:
                write_json(tmp / COUNTS, make(tmp, before))
            seconds = time.perf_counter() - started
        step = Step(name, key, folder, json.loads((folder / COUNTS).read_text()), seconds)
        self.heard(step)
        if not step.counts["kept"]:
            so_far = ", ".join(f"{s.name} {s.counts['kept']}" for s in before)
            raise DataError(f"{name} keeps nothing of what was left ({so_far}); widen it or start from more")
        return step

    def _clusters(self, folder: Path, before: Sequence[Step]) -> Counts:
        found = kmeans.fit(self.images, self.spec.clusters, seed_for(self.spec.seed, "clusters"), self.threads)
        labels, distance = kmeans.assign(self.images, found.centroids, self.threads)
        np.save(folder / "centroids.npy", found.centroids)
        np.save(folder / "labels.npy", labels)
        sizes = np.bincount(labels[labels != kmeans.NOWHERE], minlength=len(found.centroids))
        return {
            "from": len(labels),
            "kept": int(sizes.sum()),
            "clusters": int((sizes > 0).sum()),
            "largest": int(sizes.max()),
            "rounds": found.rounds,
            "mean_distance": distance,
        }

    def _duplicates(self, folder: Path, before: Sequence[Step]) -> Counts:
        labels, centroids = before[0].load("labels"), before[0].load("centroids")
        kept = duplicates.representatives(self.images, labels, centroids, self.spec.duplicate, self.threads)
        np.save(folder / "representative.npy", kept)
        clustered = kept[kept >= 0]
        largest = int(np.bincount(clustered).max())
        return _keep(folder, clustered, np.flatnonzero(kept == np.arange(len(kept)))) | {"largest": largest}

    def _text_rank(self, folder: Path, before: Sequence[Step]) -> Counts:
        assert self.spec.text_rank and self.texts, "the spec checks it"
        rows = before[-1].load("rows")
        return _rank(folder, rows, text_similarity(self.images, self.texts, rows, self.threads), *self.spec.text_rank)

    def _centroid_rank(self, folder: Path, before: Sequence[Step]) -> Counts:
        assert self.spec.centroid_rank
        labels, centroids, rows = before[0].load("labels"), before[0].load("centroids"), before[-1].load("rows")
        scores = centroid_similarity(self.images, labels, centroids, rows, self.threads)
        return _rank(folder, rows, scores, *self.spec.centroid_rank)

    def _sample(self, folder: Path, before: Sequence[Step]) -> Counts:
        assert self.spec.sample
        rows = before[-1].load("rows")
        return _keep(folder, rows, drawn(rows, self.spec.sample, seed_for(self.spec.seed, "sample")))


def _rank(folder: Path, rows: np.ndarray, scores: np.ndarray, low: float, high: float) -> Counts:
    np.save(folder / "scores.npy", scores)
    return _keep(folder, rows, rows[ranked(scores, low, high)])


def _keep(folder: Path, before: np.ndarray, rows: np.ndarray) -> dict[str, float]:
    np.save(folder / "rows.npy", rows)
    return {"from": len(before), "kept": len(rows)}


def whole(folder: Path) -> bool:
    """Whether a folder is published and intact. A torn one is replaced."""
    if not is_published(folder):
        return False
    try:
        verify(folder)
    except TornArtifact:
        return False
    return True
