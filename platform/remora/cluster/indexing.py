"""Index a dataset's shards on the whole cluster with Ray Data, into a folder that every node sees."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from remora.carrier import ours, pack, unpack
from remora.data.indexing import Indexed
from remora.data.sources import Shard


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

    def indexed(row: dict[str, Any]) -> dict[str, Any]:
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
