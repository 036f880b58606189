"""The work of a process that trains or answers: the same in this process, under Ray and as one of several ranks."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from remora.errors import Paused
from remora.evaluation.ask import Ask
from remora.evaluation.benchmarks import Benchmark, benchmark
from remora.files import is_published, write_atomic
from remora.pipeline.executor import AskJob, Task
from remora.pipeline.feed import Feed
from remora.processes import forget_peak
from remora.runs import Store, predictions
from remora.training import journal, totals

if TYPE_CHECKING:
    from remora.inference import Answerer
    from remora.pipeline.scoring import SampleScorer


def train(feed: Feed, runs: Path, preempted: Callable[[], bool]) -> None:
    """Train stage runs as they are given, as one rank of a process group that exists; rank 0 publishes each.

    What an earlier group published is passed over, the stage run that it was stopped in is resumed.
    """
    import torch
    import torch.distributed as dist

    from remora.training.stage import run, to_the_end

    store, lead = Store(runs), dist.get_rank() == 0
    for task in feed.left():
        torch.set_num_threads(max(1, int(task.job.cluster.cpus_per_worker)))
        if task.trained:
            _validate(task, store, lead)
        elif not is_published(store.root / task.name):
            write_atomic(task.job.folder / f"worker-{dist.get_rank()}.pid", f"{os.getpid()}\n")
            began = time.time()
            told = {"run": task.name, "stage": task.job.stage.name}
            if lead:
                journal.append(task.status, "stage", **told, state="training")
                gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
                predictions.foretell(task.job, runs, dist.get_world_size(), gpu)
            forget_peak()  # on a CPU a stage run's memory is the process's, and this one may have trained others
            try:
                figures = run(task.job, preempted, _scorer(task, store), task.watch.heard if task.watch else to_the_end)
            except Paused:
                if task.watch is None:
                    raise
                if lead:
                    feed.end("paused")
                dist.barrier()
                continue
            if lead:
                events = list(journal.read(task.job.folder / journal.JOURNAL))
                seconds = time.time() - began
                about = {"began": began, "seconds": seconds, "environments": totals.environments(events)}
                record = {**task.record, **about, **predictions.told(task.job, events, seconds)}
                store.publish(task.name, record, int(figures["attempt"]))
                journal.append(task.status, "stage", **told, state="trained")
        if lead:
            feed.end("trained")
        dist.barrier()  # the next stage run starts from what was just published


def _scorer(task: Task, store: Store) -> SampleScorer | None:
    """Who asks the benchmark that the stage is validated by, if it is by one."""
    said = task.job.stage.validation
    if said is None or said.benchmark is None:
        return None
    from remora.pipeline.scoring import SampleScorer

    return SampleScorer(task.job, said.benchmark, store)


def _validate(task: Task, store: Store, lead: bool) -> None:
    from remora.training.validation import validate_trained

    found = validate_trained(task.job, _scorer(task, store))
    if lead:
        journal.append(store.validated_later(task.name), journal.VALIDATION, **found)


def answer(job: AskJob) -> Iterator[list[dict[str, object]]]:
    """The answer lines of each piece. Questions are read here, so no pictures are sent between processes."""
    from remora.evaluation.ask import ask

    asks = asks_of(benchmark(job.benchmark), job.data)
    for places in job.pieces:
        yield ask(_answerer(job.bundle, Store(job.runs).cache), [asks[p] for p in places])


@lru_cache(maxsize=1)
def _answerer(bundle: Path, cache: Path) -> Answerer:
    """The model, loaded once per process."""
    import torch

    from remora.inference import Answerer

    if not torch.cuda.is_available():
        torch.set_num_threads(1)
    return Answerer.load(bundle, cache)


def asks_of(chosen: Benchmark, data: Path) -> list[Ask]:
    """All questions of a benchmark; for your own benchmarks also those with shuffled pictures."""
    asks = [Ask(i, "pictures", q) for i, q in enumerate(chosen.questions(data))]
    return asks + [Ask(i, "blind", q) for i, q in enumerate(chosen.blind(data))]
