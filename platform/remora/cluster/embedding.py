"""Embedding on a Ray cluster: Ray Data hands the parts of a dataset to workers that hold the encoder."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from remora import errors
from remora.condense.embedding import EmbeddingJob, PartEmbedder
from remora.errors import ClusterError, RemoraError
from remora.spec.condensation import Workers


class _Worker:
    """Opens dataset and encoder once; the parts that it publishes are all that it leaves."""

    def __init__(self, job: EmbeddingJob, threads: int) -> None:
        self.job, self.threads = job, threads

    @cached_property
    def parts(self) -> PartEmbedder:
        """Opened by the first call, so that what is wrong with it comes back as other errors do."""
        import torch

        torch.set_num_threads(self.threads)
        return PartEmbedder(self.job, self.threads)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """An error of a person's is a row of the result: of an exception Ray hands on a page of text."""
        try:
            rows = [self.parts.embed(int(start)) for start in batch["start"]]
        except RemoraError as e:
            return {"rows": np.zeros(1, int), "kind": np.array([type(e).__name__]), "error": np.array([str(e)])}
        return {"rows": np.array([sum(rows)]), "kind": np.array([""]), "error": np.array([""])}


def embed_on_cluster(
    job: EmbeddingJob,
    starts: Sequence[int],
    workers: Workers,
    progress: Callable[[int], None] = lambda rows: None,
) -> None:
    """Embed parts on as many workers as the spec says. Needs a Ray session, and a folder that every node sees.

    A part is published whole, and one that is made twice replaces itself, so Ray may start a lost worker again.

    Raises:
        RemoraError: a worker met an error of a person's; its own line.
        ClusterError: a worker failed otherwise.
    """
    import ray

    ray.data.DataContext.get_current().enable_progress_bars = False
    parts = ray.data.from_items([{"start": start} for start in starts], override_num_blocks=len(starts))
    done = parts.map_batches(
        _Worker,
        fn_constructor_args=(job, max(1, int(workers.cpus))),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=min(workers.count, len(starts))),
        num_cpus=workers.cpus,
        num_gpus=workers.gpus,
    )
    try:
        for batch in done.iter_batches(batch_size=1, prefetch_batches=0):
            if kind := str(batch["kind"][0]):
                raise getattr(errors, kind)(str(batch["error"][0]))
            progress(int(batch["rows"][0]))
    except ray.exceptions.RayError as e:
        said = re.search(r"^[\w.]+: .+", str(e), re.MULTILINE)  # below the worker's traceback
        raise ClusterError(f"embedding failed on a worker: {said[0] if said else type(e).__name__}") from e
