"""The process group of Ray Train's workers: how they find each other, how long one waits for another, and what tells it
to make a checkpoint.

Ray's own torch settings do the same, but whoever names them loads torch: the command and Ray's controller, one after
the other, before the first worker starts. Here only workers do.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any

import ray
import ray.train
import ray.util
from ray.exceptions import GetTimeoutError, RayError
from ray.train.backend import Backend, BackendConfig
from ray.util.placement_group import get_current_placement_group

from remora.cluster.cleaner import NAMESPACE, Cleaner
from remora.training import preemption

ASK_EVERY = 1.0
"""Seconds between two questions to Ray whether a node is taken away."""
LEAVE_WITHIN = 3.0
"""Seconds that a group which ends waits for a worker that may be stuck; Ray's default is 30."""


@dataclass
class Group(BackendConfig):
    """Workers of one process group: NCCL on GPUs, gloo on CPUs.

    Args:
        on_gpus: whether every worker has one.
        timeout_s: seconds that a collective waits for another worker before it fails.
    """

    on_gpus: bool
    timeout_s: float

    @property
    def backend_cls(self) -> Any:
        return _Joined

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


class _Joined(Backend):
    share_cuda_visible_devices = True  # as Ray's own: NCCL reaches a node's other GPUs directly

    def on_start(self, worker_group: Any, backend_config: BackendConfig) -> None:
        assert isinstance(backend_config, Group)
        worker_group.execute_single(0, _clean_up_after)
        host, port = worker_group.execute_single(0, _meeting_place)
        backend = "nccl" if backend_config.on_gpus else "gloo"
        worker_group.execute(_join, host, port, backend, backend_config.timeout_s)

    def on_training_start(self, worker_group: Any, backend_config: BackendConfig) -> None:
        worker_group.execute(preemption.listen)  # in the main thread, the only place for it; training has another

    def on_shutdown(self, worker_group: Any, backend_config: BackendConfig) -> None:
        if len(worker_group) > 1:
            with contextlib.suppress(GetTimeoutError):  # it is killed next
                ray.get(worker_group.execute_async(_leave), timeout=LEAVE_WITHIN)


def _clean_up_after() -> None:
    """Start the `Cleaner` of this worker's group."""
    ray.remote(num_cpus=0)(Cleaner).options(
        name=f"cleaner-{ray.get_runtime_context().get_actor_id()}",
        namespace=NAMESPACE,
        lifetime="detached",
        resources={"node:__internal_head__": 0.001},  # the node that is lost last
        scheduling_strategy="DEFAULT",  # the group's own room ends with the group
    ).remote(ray.get_runtime_context().current_actor, get_current_placement_group())


def _meeting_place() -> tuple[str, int]:
    """Where this worker's node is reached, and a port that is free there."""
    with socket.socket() as free:
        free.bind(("", 0))
        return ray.util.get_node_ip_address(), free.getsockname()[1]


def _join(host: str, port: int, backend: str, timeout_s: float) -> None:
    """Say what torchrun would say, and join the group. With NCCL a collective that waits too long ends the process."""
    import torch.distributed as dist

    context = ray.train.get_context()
    os.environ |= {
        "MASTER_ADDR": host,
        "MASTER_PORT": str(port),
        "WORLD_SIZE": str(context.get_world_size()),
        "RANK": str(context.get_world_rank()),
        "LOCAL_RANK": str(context.get_local_rank()),
        "LOCAL_WORLD_SIZE": str(context.get_local_world_size()),
        "GROUP_RANK": str(context.get_node_rank()),
    }
    os.environ.setdefault("TORCH_NCCL_ASYNC_ERROR_HANDLING", "1")
    dist.init_process_group(backend, timeout=timedelta(seconds=timeout_s))


def _leave() -> None:
    import torch.distributed as dist

    if dist.is_initialized():
        dist.destroy_process_group()


class Notices:
    """Whether this group's machines are about to be taken away: SIGTERM to this worker, or a node that Ray drains.

    Ray's question is a barrier of all workers, so a thread asks it, beside the steps.
    """

    def __init__(self) -> None:
        self._draining = False
        if os.environ.get("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER") != "0":
            threading.Thread(target=self._ask, name="notices", daemon=True).start()

    def __call__(self) -> bool:
        return self._draining or preemption.given()

    def _ask(self) -> None:
        try:
            while True:
                self._draining = ray.train.get_preemption_info() is not None
                time.sleep(ASK_EVERY)
        except RayError:
            return  # whom it asked is gone, and this group with it
