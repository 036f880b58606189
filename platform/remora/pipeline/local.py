"""The `Executor` on this machine, without Ray: one rank in this process, or several as processes.

remora train --local jobs/demo-base.yaml
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import socket
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

from remora.errors import RemoraError, WorkerError
from remora.pipeline import answer_speed, worker
from remora.pipeline.executor import ENVIRONMENT, AskJob, Ended, Executor, Task, Tries
from remora.pipeline.feed import Feed
from remora.pipeline.search.crew import OneByOne, Trainer
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

    def time(self, job: AskJob, file: Path, cluster: Cluster) -> None:
        answer_speed.in_a_new_process(job, file)


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
    group = RankGroup(feed, cluster, runs)
    try:
        while not group.done():
            time.sleep(LOOK_EVERY)
    finally:
        group.stop()


def rank_command(runs: Path, feed: Path, hang_timeout: float) -> list[str]:
    return [sys.executable, "-m", "remora.pipeline.rank", str(runs), str(feed), str(hang_timeout)]


class RankGroup:
    """A group of ranks that trains what a feed gives, started again when one dies, up to `max_failures` times at each
    stage run."""

    def __init__(self, feed: Feed, cluster: Cluster, runs: Path) -> None:
        self.feed, self._world, self._logs = feed, cluster.most_workers, runs / "logs"
        self._command = rank_command(runs, feed.file, cluster.hang_timeout)
        self._tries = Tries(cluster)
        self._ranks: list[Child] = []

    def done(self) -> bool:
        """Look once: whether all ranks have ended because the feed is closed. Starts them if need be.

        Raises:
            RemoraError: what a rank met and a retry would meet again, or `Tries.again`.
        """
        if not self._ranks:
            self._start()
        codes = [r.process.poll() for r in self._ranks]
        if None in codes and not any(codes):
            return False
        error = self._ended()
        if error is None:
            return True
        if not isinstance(error, WorkerError):
            raise error
        self._tries.again(self.feed.at, error)
        again = f"{self.feed.at}: a rank failed, all restart from the last checkpoint: {error}"
        log.warning(again)
        journal.append(self.feed.status, "noted", text=again)
        return False

    def stop(self) -> None:
        """End them at once."""
        ranks, self._ranks = self._ranks, []
        for r in ranks:
            r.stop(grace=0)

    def _start(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(self._world)}
        began = time.strftime("%Y%m%d-%H%M%S")
        for rank in range(self._world):
            own = {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            file = self._logs / f"{self.feed.at}-{began}-rank-{rank}.log"
            self._ranks.append(Child(self._command, file, ENVIRONMENT | shared | own))

    def _ended(self) -> RemoraError | None:
        """What the group failed of, if it did, once its ranks have ended."""
        ranks, end = self._ranks, time.monotonic() + LEAVE_WITHIN
        while None in [r.process.poll() for r in ranks] and time.monotonic() < end:
            time.sleep(LOOK_EVERY)
        failed = sorted((r for r in ranks if r.process.returncode), key=lambda r: r.process.returncode)
        self.stop()
        errors = [r.error() for r in failed]  # killed ranks first: the others only lost their peer
        return next((e for e in errors if not isinstance(e, WorkerError)), errors[0] if errors else None)


def trainer_of(cluster: Cluster, runs: Path) -> Trainer:
    """Who trains a search's stage runs here."""
    return KeptRanks(cluster, runs) if cluster.most_workers > 1 else OneByOne(Local(), cluster, runs)


class KeptRanks:
    """A search's trainer: one group of ranks for one task after the other, until its room is needed."""

    def __init__(self, cluster: Cluster, runs: Path) -> None:
        self.executor: Executor = Local()
        self.cluster, self.runs = cluster, runs
        self._kept = contextlib.ExitStack()
        self._group: RankGroup | None = None

    def train(self, task: Task) -> Ended:
        """Train one stage run; how it ended. After a failure the next task gets another group.

        Raises:
            RemoraError: as `Executor.train`.
        """
        try:
            if self._group is None:
                feed = self._kept.enter_context(Feed.fresh(self.runs))
                self._group = RankGroup(feed, self.cluster, self.runs)
                self._kept.callback(self._group.stop)
            group = self._group
            number = group.feed.give(task)
            while len(ended := group.feed.ended()) <= number:
                if group.done():
                    raise WorkerError(f"{task.name}: its ranks ended without a word (logs: {self.runs / 'logs'})")
                time.sleep(LOOK_EVERY)
            return ended[number]
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End the group."""
        self._kept.close()
        self._group = None
