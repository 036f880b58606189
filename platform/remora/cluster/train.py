"""Train stage runs with Ray Train, in order, on one group of workers that is restarted when workers die."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from remora.carrier import arrived, carried, ours
from remora.errors import ClusterError, RemoraError, WorkerError

# Ray's controller unpickles a reference to `_worker`, so it imports whatever this module imports: torch and
# transformers would cost it 4 s of CPU and 200 MB.
if TYPE_CHECKING:
    from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

    from remora.pipeline.feed import Feed
    from remora.spec import Cluster

log = logging.getLogger(__name__)
ACCELERATOR = "accelerator_type:"
"""Ray's prefix for a kind of GPU among a cluster's resources."""
RESIZE_EVERY = 5.0
"""Seconds between two checks whether an elastic group could grow. Ray's default is 60."""


def _worker(config: dict[str, Any]) -> None:
    """The code of every worker. Ray Train has made the process group by now."""
    import ray.train.torch
    import torch

    from remora.cluster.group import Notices
    from remora.pipeline import worker
    from remora.pipeline.feed import Feed

    runs, notices = Path(config["runs"]), Notices()
    if torch.cuda.is_available():
        torch.cuda.set_device(ray.train.torch.get_device())  # per thread, so not where the group is joined
        if 0 < config["gpus"] < 1:  # Ray only counts shares; without this the first of two would take all memory
            torch.cuda.set_per_process_memory_fraction(config["gpus"])
    with carried(runs / "logs"):
        worker.train(Feed(Path(config["feed"])), runs, notices)


def train_stages(feed: Feed, cluster: Cluster, runs: Path) -> None:
    """Train stage runs in the order in which they are given; returns when the feed is closed and all have ended.

    One group of workers trains them all: starting one costs 15 s on two cores, more than a short stage.

    Raises:
        RemoraError: what a worker met and a retry would meet again (a broken picture, a NaN loss).
        ClusterError: the workers failed more often than `max_failures` at one stage run, or cannot be placed.
    """
    import ray.train

    from remora.pipeline.executor import Tries
    from remora.runs.leftovers import attempt

    _check_room(cluster)
    tries = Tries(cluster)
    while True:
        # A name that was used before would silently resume that run; our own checkpoints decide that instead.
        name = f"{feed.at}-{uuid.uuid4().hex[:8]}"
        try:
            with attempt(runs, name) as folder:
                _trainer(feed.file, cluster, runs, name, folder.parent).fit()
            return
        except ray.train.TrainingFailedError as e:  # Ray would try again whatever the workers met
            if refused := refusal(e):
                raise refused from None
            tries.again(feed.at, ours(e, runs / "logs"))
            log.warning("%s: its workers failed; restarting them from the last checkpoint", feed.at)
        except ray.exceptions.RayActorError:
            # Nobody starts Ray Train's controller again. Its workers end with it.
            tries.again(feed.at, ClusterError("Ray Train's controller died; look at the memory of its node"))
            log.warning("%s: Ray Train's controller died; starting another one", feed.at)


def _trainer(feed: Path, cluster: Cluster, runs: Path, attempt: str, storage: Path) -> DataParallelTrainer:
    import ray.train
    from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer  # TorchTrainer without its import of torch

    from remora.cluster.group import Group

    scaling: dict[str, Any] = {  # Ray's annotations are those of the version before
        "num_workers": (cluster.least_workers, cluster.most_workers) if cluster.elastic else cluster.most_workers,
        "use_gpu": cluster.gpus_per_worker > 0,
        "resources_per_worker": _resources(cluster),
        "accelerator_type": cluster.accelerator,
        "elastic_resize_monitor_interval_s": RESIZE_EVERY,
    }
    return DataParallelTrainer(
        _worker,
        train_loop_config={"runs": str(runs), "feed": str(feed), "gpus": cluster.gpus_per_worker},
        backend_config=Group(cluster.gpus_per_worker > 0, cluster.hang_timeout),
        scaling_config=ray.train.ScalingConfig(**scaling),
        run_config=ray.train.RunConfig(
            name=attempt,
            storage_path=str(storage),
            failure_config=ray.train.FailureConfig(max_failures=0),  # `train_stages` counts them
        ),
    )


def _resources(cluster: Cluster) -> dict[str, float]:
    """The resources Ray reserves for a worker."""
    wanted = {
        "CPU": cluster.cpus_per_worker,
        "GPU": cluster.gpus_per_worker,
        "memory": int(cluster.memory_per_worker * 2**30),
    }
    return {name: amount for name, amount in wanted.items() if amount}


def refusal(error: BaseException) -> RemoraError | None:
    """A worker's error that a retry would repeat, if `error` carries one."""
    found = arrived(error)
    return None if isinstance(found, WorkerError) else found


def _check_room(cluster: Cluster) -> None:
    """Raises:
    ClusterError: the minimum of workers does not fit into the whole cluster, even if it is empty.
    """
    import ray

    have = ray.cluster_resources()
    wanted = {name: cluster.least_workers * amount for name, amount in _resources(cluster).items()}
    kind = f"{ACCELERATOR}{cluster.accelerator}"
    if cluster.accelerator and kind not in have:
        kinds = sorted(name.removeprefix(ACCELERATOR) for name in have if name.startswith(ACCELERATOR))
        raise ClusterError(
            f"a stage asks for accelerator {cluster.accelerator}, the cluster has {', '.join(kinds) or 'none'}; "
            "change cluster.accelerator in the spec, or give --address of another cluster"
        )
    if any(amount > have.get(name, 0.0) for name, amount in wanted.items()):
        raise ClusterError(
            f"a stage asks for {_listed(wanted, wanted)}, the cluster has {_listed(have, wanted)}; lower "
            "cluster.workers or what a worker asks for in the spec, or give --address of a larger one"
        )


def _listed(amounts: Mapping[str, float], names: Iterable[str]) -> str:
    units = {"CPU": "CPUs", "GPU": "GPUs", "memory": "GiB of memory"}
    said = {name: amounts.get(name, 0.0) / (2**30 if name == "memory" else 1) for name in names}
    return " and ".join(f"{round(amount, 1):g} {units[name]}" for name, amount in said.items())
