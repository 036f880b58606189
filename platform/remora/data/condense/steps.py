"""The steps of a condensation, each from what the one before published.

    <folder>/clusters-<digest>/        centroids.npy, labels.npy (the cluster of every row, -1: no embedding)
    <folder>/duplicates-<digest>/      representative.npy (the row that is kept for every row), rows.npy
    <folder>/text-rank-<digest>/       scores.npy (of the rows before), rows.npy
    <folder>/centroid-rank-<digest>/   scores.npy (of the rows before), rows.npy
    <folder>/sample-<digest>/          rows.npy

A digest covers the embeddings, the parameters of the step and of all before it. A step that is there is not made again.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from remora.data.condense import duplicates, kmeans
from remora.data.condense.filters import centroid_similarity, drawn, ranked, text_similarity
from remora.data.condense.vectors import Vectors
from remora.errors import DataError, TornArtifact
from remora.files import digest, is_published, publishing, verify, write_json
from remora.model.seeds import seed_for
from remora.spec import Condensation

RULES = 1
"""Raise by hand when a change makes the same embeddings and parameters keep other rows."""
COUNTS = "counts.json"
Counts = Mapping[str, float]


@dataclass(frozen=True)
class Step:
    """A step that is published."""

    name: str
    digest: str
    folder: Path
    counts: Counts
    seconds: float | None = None
    """What it took now; None if it was there."""

    def load(self, array: str) -> np.ndarray:
        return np.load(self.folder / f"{array}.npy", mmap_mode="r")


@dataclass(frozen=True)
class Embedded:
    """Embeddings of all rows, and the digest of what they follow from."""

    images: Vectors
    texts: Vectors | None
    digest: str


class Condenser:
    """Makes the steps of `spec` in `folder`, or finds them there. `threads` change no result."""

    def __init__(
        self,
        spec: Condensation,
        embedded: Embedded,
        folder: Path,
        threads: int = 1,
        heard: Callable[[Step], None] = lambda step: None,
    ) -> None:
        """Raises:
        DataError: there are not as many texts as pictures.
        """
        self.spec, self.images, self.texts = spec, embedded.images, embedded.texts
        self.folder, self.threads, self.heard = folder, threads, heard
        self.embeddings = embedded.digest
        if self.texts and len(self.texts) != len(self.images):
            raise DataError(f"{len(self.images)} embedded pictures but {len(self.texts)} texts; a row is a pair")

    def run(self) -> list[Step]:
        """Every step, in order; the last one's `rows` are what is kept.

        Raises:
            DataError: fewer embeddings than clusters, or a step keeps nothing.
        """
        spec = self.spec
        clusters = self._step("clusters", self.embeddings, [spec.clusters.model_dump(), spec.seed], self._clusters)
        steps = [clusters]

        def then(name: str, parameters: Any, make: Callable[[Path, np.ndarray], Counts]) -> None:
            before = steps[-1]
            rows = before.load("rows") if before is not clusters else np.empty(0)
            steps.append(self._step(name, before.digest, parameters, lambda folder: make(folder, rows)))
            if not steps[-1].counts["kept"]:
                counts = ", ".join(f"{s.name} {s.counts['kept']}" for s in steps[1:])
                raise DataError(f"{name} keeps none of {before.counts['kept']} samples ({counts}); widen it")

        labels, centroids = clusters.load("labels"), clusters.load("centroids")

        def by_text(folder: Path, rows: np.ndarray) -> Counts:
            assert spec.text_rank and self.texts
            return _rank(folder, rows, text_similarity(self.images, self.texts, rows, self.threads), *spec.text_rank)

        def by_centroid(folder: Path, rows: np.ndarray) -> Counts:
            assert spec.centroid_rank
            scores = centroid_similarity(self.images, labels, centroids, rows, self.threads)
            return _rank(folder, rows, scores, *spec.centroid_rank)

        def sampled(folder: Path, rows: np.ndarray) -> Counts:
            assert spec.sample
            return _keep(folder, rows, drawn(rows, spec.sample, seed_for(spec.seed, "sample")))

        then("duplicates", spec.duplicate, lambda folder, _: self._duplicates(folder, labels, centroids))
        if spec.text_rank and self.texts:
            then("text-rank", spec.text_rank, by_text)
        if spec.centroid_rank:
            then("centroid-rank", spec.centroid_rank, by_centroid)
        if spec.sample:
            then("sample", [spec.sample, spec.seed], sampled)
        return steps

    def _step(self, name: str, parent: str, parameters: Any, make: Callable[[Path], Counts]) -> Step:
        key = digest([RULES, name, parent, parameters])
        step = Step(name, key, self.folder / f"{name}-{key[:16]}", {})
        seconds = None
        if not whole(step.folder):
            started = time.perf_counter()
            with publishing(step.folder) as folder:
                write_json(folder / COUNTS, make(folder))
            seconds = time.perf_counter() - started
        step = replace(step, counts=json.loads((step.folder / COUNTS).read_text()), seconds=seconds)
        self.heard(step)
        return step

    def _clusters(self, folder: Path) -> Counts:
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

    def _duplicates(self, folder: Path, labels: np.ndarray, centroids: np.ndarray) -> Counts:
        kept = duplicates.representatives(self.images, labels, centroids, self.spec.duplicate, self.threads)
        np.save(folder / "representative.npy", kept)
        clustered = kept[kept >= 0]
        largest = int(np.bincount(clustered).max())
        return _keep(folder, clustered, np.flatnonzero(kept == np.arange(len(kept)))) | {"largest": largest}


def _rank(folder: Path, rows: np.ndarray, scores: np.ndarray, low: float, high: float) -> Counts:
    np.save(folder / "scores.npy", scores)
    return _keep(folder, rows, rows[ranked(scores, low, high)])


def _keep(folder: Path, before: np.ndarray, rows: np.ndarray) -> dict[str, float]:
    np.save(folder / "rows.npy", rows)
    return {"from": len(before), "kept": len(rows)}


def whole(folder: Path) -> bool:
    """Whether a folder is published and untouched. A torn one is made again in its place."""
    if not is_published(folder):
        return False
    try:
        verify(folder)
    except TornArtifact:
        return False
    return True
