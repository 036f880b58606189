"""Ray Train: stage runs, one after the other, on one group of workers that survives their deaths."""

from __future__ import annotations

import os
import shutil
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import remora.errors
from remora.errors import ClusterError, RemoraError, TrainingError
from remora.files import is_published, write_atomic

# Ray's controller unpickles a reference to `_worker`, so whatever this file imports, it imports too: torch and
# transformers would cost it 4 s of CPU and 200 MB for nothing.
if TYPE_CHECKING:
    from remora.spec import Cluster
    from remora.training.job import StageJob

REFUSED = "refused.txt"
"""What a worker writes when it meets an error that another attempt would meet again."""


@dataclass(frozen=True)
class Task:
    """A stage run to train: its name in the store, its job, and the record that it is published with."""

    name: str
    job: StageJob
    record: dict[str, Any]


def _worker(config: dict[str, Any]) -> None:
    """What every worker runs. A process group exists by now: Ray Train made it.

    Stage runs that an earlier attempt of this group published are passed over, the one it was stopped in is resumed.
    """
    import ray.train
    import torch
    import torch.distributed as dist

    from remora.stages import Store
    from remora.training import journal
    from remora.training.job import StageJob
    from remora.training.stage import run

    store, status = Store(Path(config["runs"])), Path(config["status"])
    rank = ray.train.get_context().get_world_rank()
    for name, text, record in config["tasks"]:
        job = StageJob.from_json(text)
        if is_published(store.root / name):
            continue
        refused = job.folder / REFUSED
        if refused.exists():
            return  # a restart after an error of the user's: there is nothing to retry
        torch.set_num_threads(max(1, int(job.cluster.cpus_per_worker)))
        write_atomic(job.folder / f"worker-{rank}.pid", f"{os.getpid()}\n")
        began = time.time()
        if rank == 0:
            journal.append(status, "stage", run=name, stage=job.stage.name, state="training")
        try:
            run(job)
        except RemoraError as e:
            write_atomic(refused, f"{type(e).__name__}\n{e}")
            raise
        if rank == 0:
            store.publish(name, {**record, "began": began, "seconds": time.time() - began})
            journal.append(status, "stage", run=name, stage=job.stage.name, state="trained")
        dist.barrier()  # the next stage run starts from what was just published


def train_stages(tasks: Sequence[Task], cluster: Cluster, runs: Path, status: Path) -> None:
    """Train stage runs in order; returns when all of them are published. `status` hears which one is at work.

    One group of workers does them all: starting one costs 15 s on two cores, more than a short stage.

    Raises:
        RemoraError: what a worker met and a retry would meet again (a broken picture, a loss that is no number).
        ClusterError: the workers failed more often than `max_failures`, or cannot be placed.
    """
    import ray.train
    from ray.train.torch import TorchTrainer

    _check_room(cluster.workers * cluster.cpus_per_worker, cluster.workers * cluster.gpus_per_worker)
    refusals = [t.job.folder / REFUSED for t in tasks]
    for refused in refusals:
        refused.unlink(missing_ok=True)
    resources: dict[str, Any] = {"CPU": cluster.cpus_per_worker}
    if cluster.gpus_per_worker:
        resources["GPU"] = cluster.gpus_per_worker
    # A name that was used before would silently resume that run; our own checkpoints decide that instead.
    attempt, storage = f"{tasks[-1].name}-{uuid.uuid4().hex[:8]}", runs / "ray"
    trainer = TorchTrainer(
        _worker,
        train_loop_config={
            "runs": str(runs),
            "status": str(status),
            "tasks": [(t.name, t.job.to_json(), t.record) for t in tasks],
        },
        scaling_config=ray.train.ScalingConfig(
            num_workers=cluster.workers, use_gpu=cluster.gpus_per_worker > 0, resources_per_worker=resources
        ),
        run_config=ray.train.RunConfig(
            name=attempt,
            storage_path=str(storage),
            failure_config=ray.train.FailureConfig(max_failures=cluster.max_failures),
        ),
    )
    try:
        trainer.fit()
    except ray.train.TrainingFailedError as e:
        _raise_refused(refusals)
        lines = [line for line in str(e).splitlines() if line.strip()]
        raise ClusterError(
            f"{tasks[-1].name}: its workers failed more than {cluster.max_failures} times: {lines[-1].strip()}; "
            f"see {storage / attempt}, then run the same command again: it goes on from the last checkpoint"
        ) from e
    _raise_refused(refusals)
    shutil.rmtree(storage / attempt, ignore_errors=True)


def _raise_refused(refusals: Sequence[Path]) -> None:
    for refused in refusals:
        if refused.exists():
            kind, _, message = refused.read_text().partition("\n")
            raise getattr(remora.errors, kind, TrainingError)(message)


def _check_room(cpus: float, gpus: float) -> None:
    from remora.cluster.session import cpus_and_gpus

    have_cpus, have_gpus = cpus_and_gpus()
    if cpus > have_cpus or gpus > have_gpus:
        raise ClusterError(
            f"a stage asks for {cpus:g} CPUs and {gpus:g} GPUs, the cluster has {have_cpus:g} and {have_gpus:g}; "
            "lower cluster.workers, cpus_per_worker or gpus_per_worker in the spec, or give --address of a larger one"
        )
