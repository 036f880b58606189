"""Index a dataset's shards and embed its samples on a cluster, with Ray Data. Every node must see the folders."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from remora.carrier import ours, pack, unpack
from remora.data.index_builder import Indexed
from remora.data.sources import Shard
from remora.spec.condensation import Workers

if TYPE_CHECKING:
    from remora.condense.embedding import EmbeddingJob, PartEmbedder


def over_ray(work: Callable[[Shard], Indexed], shards: Iterable[Shard], logs: Path) -> Iterator[Indexed]:
    """Results in the shards' order, one task per shard. Needs a Ray session.

    Raises:
        RemoraError: a worker's error; WorkerError for an unexpected one, with its trace in a file of `logs`.
    """
    import ray.data

    logging.getLogger("ray.data").setLevel(logging.ERROR)  # it logs every execution, and that it draws no bars
    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    context.print_on_execution_start = False

    def indexed(row: dict[str, bytes]) -> dict[str, object]:
        try:
            return {"out": pickle.dumps(work(pickle.loads(row["shard"]))), "error": ""}
        except Exception as e:  # noqa: BLE001 (as a row: for an exception Ray logs a page, and retries)
            return {"out": b"", "error": pack(ours(e, logs))}

    rows = [{"shard": pickle.dumps(shard)} for shard in shards]
    if not rows:
        return
    for row in ray.data.from_items(rows, override_num_blocks=len(rows)).map(indexed).iter_rows():
        if error := unpack(row["error"]):
            raise error
        yield pickle.loads(row["out"])


class _Worker:
    """Opens dataset and encoder once; its only output are the parts that it publishes."""

    def __init__(self, job: EmbeddingJob, threads: int, logs: Path) -> None:
        self.job, self.threads, self.logs = job, threads, logs

    @cached_property
    def parts(self) -> PartEmbedder:
        """Opened by the first call, so that its errors are returned like others."""
        import torch

        from remora.condense.embedding import PartEmbedder

        torch.set_num_threads(self.threads)
        return PartEmbedder(self.job, self.threads)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """An error is returned as a row: for an exception Ray would log a page."""
        try:
            rows = [self.parts.embed(int(start)) for start in batch["start"]]
        except Exception as e:  # noqa: BLE001 (another process waits for any error)
            return {"rows": np.zeros(1, int), "error": np.array([pack(ours(e, self.logs))])}
        return {"rows": np.array([sum(rows)]), "error": np.array([""])}


def embed_on_cluster(
    job: EmbeddingJob,
    starts: Sequence[int],
    workers: Workers,
    logs: Path,
    progress: Callable[[int], None] = lambda rows: None,
) -> None:
    """Embed parts on the spec's number of workers. Needs a Ray session, and folders that every node sees.

    A part is published whole, and making it twice is harmless, so Ray may restart a lost worker.

    Raises:
        RemoraError: a worker's error; WorkerError for an unexpected one, with its trace in a file of `logs`.
    """
    import ray

    ray.data.DataContext.get_current().enable_progress_bars = False
    parts = ray.data.from_items([{"start": start} for start in starts], override_num_blocks=len(starts))
    done = parts.map_batches(
        _Worker,
        fn_constructor_args=(job, max(1, int(workers.cpus)), logs),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=min(workers.count, len(starts))),
        num_cpus=workers.cpus,
        num_gpus=workers.gpus,
    )
    try:
        for batch in done.iter_batches(batch_size=1, prefetch_batches=0):
            if error := unpack(str(batch["error"][0])):
                raise error
            progress(int(batch["rows"][0]))
    except ray.exceptions.RayError as e:
        raise ours(e, logs) from e
