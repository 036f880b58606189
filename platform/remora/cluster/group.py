"""The process group of Ray Train's workers: joining it, timeouts of collectives, and notices of preemption.

Ray's own TorchConfig does the same, but importing it loads torch in the command and then in Ray's controller, before
the first worker starts. Here only workers load torch.
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
"""Seconds between two checks with Ray whether a node is being drained."""
LEAVE_WITHIN = 3.0
"""Seconds that an ending group waits for a worker that may be stuck; Ray's default is 30."""


@dataclass
class Group(BackendConfig):
    """Workers of one process group: NCCL on GPUs, gloo on CPUs.

    Args:
        on_gpus: whether every worker has a GPU.
        timeout_s: seconds that a collective waits for another worker before it fails.
    """

    on_gpus: bool
    timeout_s: float

    @property
    def backend_cls(self) -> type[Backend]:
        return _Joined

    def to_dict(self) -> dict[str, object]:
        return asdict(self)


class _Joined(Backend):
    share_cuda_visible_devices = True  # like Ray's own: NCCL reaches a node's other GPUs directly

    def on_start(self, worker_group: Any, backend_config: BackendConfig) -> None:
        assert isinstance(backend_config, Group)
        worker_group.execute_single(0, _clean_up_after)
        host, port = worker_group.execute_single(0, _meeting_place)
        backend = "nccl" if backend_config.on_gpus else "gloo"
        worker_group.execute(_join, host, port, backend, backend_config.timeout_s)

    def on_training_start(self, worker_group: Any, backend_config: BackendConfig) -> None:
        worker_group.execute(preemption.listen)  # signal handlers need the main thread; training has another

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
        resources={"node:__internal_head__": 0.001},  # the head node, which outlives the others
        scheduling_strategy="DEFAULT",  # outside the group's placement group, which ends with it
    ).remote(ray.get_runtime_context().current_actor, get_current_placement_group())


def _meeting_place() -> tuple[str, int]:
    """The address of this worker's node, and a free port there."""
    with socket.socket() as free:
        free.bind(("", 0))
        return ray.util.get_node_ip_address(), free.getsockname()[1]


def _join(host: str, port: int, backend: str, timeout_s: float) -> None:
    """Set torchrun's variables and join the group. With NCCL a collective that times out ends the process."""
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
    """Whether this group is about to be preempted: SIGTERM to this worker, or a node that Ray drains.

    Asking Ray is a barrier of all workers, so a thread does it, beside the steps.
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
            return  # the controller is gone, and this group with it
