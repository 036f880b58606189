"""Ray Train: one stage run on a group of workers that survives their deaths."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import uuid
from pathlib import Path
from typing import Any

from remora.errors import ClusterError, RemoraError, TrainingError
from remora.files import write_atomic
from remora.training.stage import StageJob, run

REFUSED = "refused.txt"
"""What a worker writes when it meets an error that another attempt would meet again."""


def _worker(config: dict[str, str]) -> None:
    """What every worker runs. A process group exists by now: Ray Train made it."""
    import ray.train
    import torch

    job = StageJob.from_json(config["job"])
    refused = job.folder / REFUSED
    if refused.exists():
        return  # a restart after an error of the user's: there is nothing to retry
    torch.set_num_threads(max(1, int(job.cluster.cpus_per_worker)))
    context = ray.train.get_context()
    write_atomic(job.folder / f"worker-{context.get_world_rank()}.pid", f"{os.getpid()}\n")

    def report(step: int, loss: float, folder: Path | None) -> None:
        # Our checkpoint is on storage that every node sees, verified and retained by us; Ray keeps a pointer to it,
        # because it takes only checkpoints below its own folder as they are.
        with tempfile.TemporaryDirectory() as pointer:
            (Path(pointer) / "pointer.json").write_text(
                json.dumps({"checkpoint": folder and str(folder), "step": step})
            )
            ray.train.report(
                {"step": step, "loss": loss},
                checkpoint=ray.train.Checkpoint(pointer) if folder else None,
                checkpoint_dir_name=f"step-{step:06d}-{uuid.uuid4().hex[:8]}",
            )

    try:
        run(job, report)
    except RemoraError as e:
        write_atomic(refused, f"{type(e).__name__}\n{e}")
        raise


def train_stage(job: StageJob, name: str, storage: Path) -> None:
    """Run a stage to its end; returns when `job.folder` holds the trained parts.

    Raises:
        RemoraError: what a worker met and a retry would meet again (a broken picture, a loss that is no number).
        ClusterError: the workers failed more often than `max_failures`, or cannot be placed.
    """
    import ray.train
    from ray.train.torch import TorchTrainer

    cluster = job.cluster
    _check_room(cluster.workers * cluster.cpus_per_worker, cluster.workers * cluster.gpus_per_worker)
    refused = job.folder / REFUSED
    refused.unlink(missing_ok=True)
    resources: dict[str, Any] = {"CPU": cluster.cpus_per_worker}
    if cluster.gpus_per_worker:
        resources["GPU"] = cluster.gpus_per_worker
    attempt = f"{name}-{uuid.uuid4().hex[:8]}"
    trainer = TorchTrainer(
        _worker,
        train_loop_config={"job": job.to_json()},
        scaling_config=ray.train.ScalingConfig(
            num_workers=cluster.workers, use_gpu=cluster.gpus_per_worker > 0, resources_per_worker=resources
        ),
        run_config=ray.train.RunConfig(
            # A name that was used before would silently resume that run; our own checkpoints decide that instead.
            name=attempt,
            storage_path=str(storage),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=cluster.keep_checkpoints),
            failure_config=ray.train.FailureConfig(max_failures=cluster.max_failures),
        ),
    )
    try:
        trainer.fit()
    except ray.train.TrainingFailedError as e:
        _raise_refused(refused)
        lines = [line for line in str(e).splitlines() if line.strip()]
        raise ClusterError(
            f"stage {job.stage.name!r}: its workers failed more than {cluster.max_failures} times: "
            f"{lines[-1].strip()}; "
            f"see {job.folder}, then run the same command again: it goes on from the last checkpoint"
        ) from e
    _raise_refused(refused)
    shutil.rmtree(storage / attempt, ignore_errors=True)  # pointers to checkpoints that the artifact replaces


def _raise_refused(refused: Path) -> None:
    if refused.exists():
        kind, _, message = refused.read_text().partition("\n")
        import remora.errors

        raise getattr(remora.errors, kind, TrainingError)(message)


def _check_room(cpus: float, gpus: float) -> None:
    from remora.cluster.session import cpus_and_gpus

    have_cpus, have_gpus = cpus_and_gpus()
    if cpus > have_cpus or gpus > have_gpus:
        raise ClusterError(
            f"a stage asks for {cpus:g} CPUs and {gpus:g} GPUs, the cluster has {have_cpus:g} and {have_gpus:g}; "
            "lower cluster.workers, cpus_per_worker or gpus_per_worker in the spec, or give --address of a larger one"
        )
