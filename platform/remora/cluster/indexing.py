"""Ray Data: a dataset's shards indexed by the whole cluster, into a folder that all of it sees."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from remora.data.indexing import Indexed
from remora.data.sources import Shard
from remora.errors import RemoraError


def over_ray(work: Callable[[Shard], Indexed], shards: Iterable[Shard]) -> Iterator[Indexed]:
    """Results in the shards' order, a task a shard. Needs a Ray session."""
    import ray.data

    logging.getLogger("ray.data").setLevel(logging.ERROR)  # it tells every execution, and that it draws no bars
    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    context.print_on_execution_start = False

    def indexed(row: dict[str, Any]) -> dict[str, bytes]:
        try:
            return {"out": pickle.dumps(work(pickle.loads(row["shard"])))}
        except RemoraError as e:  # the user's, as it is: Ray would wrap it, and try again
            return {"out": pickle.dumps(e)}

    rows = [{"shard": pickle.dumps(shard)} for shard in shards]
    if not rows:
        return
    for row in ray.data.from_items(rows, override_num_blocks=len(rows)).map(indexed).iter_rows():
        result = pickle.loads(row["out"])
        if isinstance(result, RemoraError):
            raise result
        yield result
