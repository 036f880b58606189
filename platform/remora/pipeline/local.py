"""The `Executor` on this machine, without Ray: one rank in this process, or several as processes.

remora train --local jobs/demo-base.yaml
"""

from __future__ import annotations

import atexit
import logging
import os
import socket
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

from remora.errors import RemoraError, WorkerError
from remora.pipeline import worker
from remora.pipeline.executor import ENVIRONMENT, AskJob, Tries
from remora.pipeline.feed import Feed
from remora.processes import Child
from remora.spec import Cluster
from remora.training import journal

log = logging.getLogger(__name__)
LOOK_EVERY = 0.1
"""Seconds between two checks of the ranks."""
LEAVE_WITHIN = 3.0
"""Seconds that the others have to report their own errors, once a rank has failed."""


class Local:
    """Trains with `cluster.workers` ranks on this machine and answers in this process."""

    def train(self, feed: Feed, cluster: Cluster, runs: Path) -> None:
        if cluster.most_workers == 1:
            _train_here(feed, runs)
        else:
            _train_ranks(feed, cluster, runs)

    def answer(self, job: AskJob, cluster: Cluster) -> Iterator[list[dict[str, object]]]:
        _be_quiet()
        return worker.answer(job)


def _be_quiet() -> None:
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)


def _train_here(feed: Feed, runs: Path) -> None:
    """As the only rank. Its process group stays until this process ends: DeepSpeed keeps groups that it has made."""
    _be_quiet()
    import torch.distributed as dist

    from remora.training.torchrun import join

    if not dist.is_initialized():
        join()
        atexit.register(dist.destroy_process_group)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # as in ENVIRONMENT
        worker.train(feed, runs, lambda: False)


def _train_ranks(feed: Feed, cluster: Cluster, runs: Path) -> None:
    """A group of ranks, started again when one dies, up to `max_failures` times at each stage run."""
    tries = Tries(cluster)
    command = rank_command(runs, feed.file, cluster.hang_timeout)
    while error := _group(command, feed, cluster.most_workers, runs / "logs"):
        if not isinstance(error, WorkerError):
            raise error
        tries.again(feed.at, error)
        again = f"{feed.at}: a rank failed, all restart from the last checkpoint: {error}"
        log.warning(again)
        journal.append(feed.status, "noted", text=again)


def rank_command(runs: Path, feed: Path, hang_timeout: float) -> list[str]:
    return [sys.executable, "-m", "remora.pipeline.rank", str(runs), str(feed), str(hang_timeout)]


def _group(command: list[str], feed: Feed, world: int, logs: Path) -> RemoraError | None:
    """Run one group of ranks to its end; what it failed of, if it did."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    shared = ENVIRONMENT | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(world)}
    began = time.strftime("%Y%m%d-%H%M%S")
    ranks: list[Child] = []
    try:
        for rank in range(world):
            own = {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            ranks.append(Child(command, logs / f"{feed.at}-{began}-rank-{rank}.log", shared | own))
        while None in (codes := [r.process.poll() for r in ranks]) and not any(codes):
            time.sleep(LOOK_EVERY)
        end = time.monotonic() + LEAVE_WITHIN
        while None in [r.process.poll() for r in ranks] and time.monotonic() < end:
            time.sleep(LOOK_EVERY)
        failed = sorted((r for r in ranks if r.process.returncode), key=lambda r: r.process.returncode)
    finally:
        for r in ranks:
            r.stop(grace=0)
    errors = [r.error() for r in failed]  # killed ranks first: the others only lost their peer
    return next((e for e in errors if not isinstance(e, WorkerError)), errors[0] if errors else None)
