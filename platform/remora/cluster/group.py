"""The process group of Ray Train's workers: how they find each other, how long one waits for another, and what tells it
to make a checkpoint.

Ray's own torch settings do the same, but whoever names them loads torch: the command and Ray's controller, one after
the other, before the first worker starts. Here only workers do.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any

import ray
import ray.train
from ray.exceptions import GetTimeoutError, RayActorError, RayError
from ray.train._internal.utils import get_address_and_port
from ray.train.backend import Backend, BackendConfig
from ray.train.v2._internal.callbacks import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.execution.callback import ControllerCallback, WorkerGroupCallback
from ray.train.v2._internal.execution.failure_handling import DefaultFailurePolicy, FailureDecision
from ray.train.v2._internal.execution.scaling_policy import FixedScalingPolicy
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

from remora.cluster.cleaner import NAMESPACE, Cleaner
from remora.cluster.session import OWN
from remora.cluster.train import refusal
from remora.training import notice

ASK_EVERY = 1.0
"""Seconds between two questions to Ray whether a node is taken away."""
LEAVE_WITHIN = 3.0
"""Seconds that a group which ends waits for a worker that may be stuck; Ray's default is 30."""


class Trainer(DataParallelTrainer):
    """Ray Train without three actors that import for 2 s each while workers wait: one serves Ray Data's datasets, which
    there are none of; one asks an autoscaler for machines, which a cluster of our own does not have; one frees a dead
    controller's CPUs by what another cluster may say of it, and is replaced (cleaner.py).

    The methods are private; tests hold that they do what they say, and Ray's version is pinned.
    """

    def _create_default_callbacks(self) -> list[Any]:
        unwanted = (DatasetsCallback, PlacementGroupCleanerCallback)
        return [*(c for c in super()._create_default_callbacks() if not isinstance(c, unwanted)), _Cleaned()]

    def _initialize_and_run_controller(self, **given: Any) -> Any:
        given["failure_policy"] = _Once(given["failure_policy"].failure_config)
        policy = given["scaling_policy"]
        if OWN in os.environ and isinstance(policy, FixedScalingPolicy):
            given["scaling_policy"] = _AsAsked(policy.scaling_config)
        return super()._initialize_and_run_controller(**given)


class _Cleaned(ControllerCallback, WorkerGroupCallback):
    """Tells a `Cleaner` of this controller and of its workers' placement group."""

    def after_controller_start(self, train_run_context: Any) -> None:
        me = ray.get_runtime_context()
        self._cleaner: Any = (
            ray.remote(num_cpus=0)(Cleaner)
            .options(
                name=f"cleaner-{me.get_actor_id()}",
                namespace=NAMESPACE,
                lifetime="detached",
                resources={"node:__internal_head__": 0.001},  # the node that is lost last
                scheduling_strategy="DEFAULT",  # a trial's placement group ends with the trial
            )
            .remote(me.current_actor)
        )

    def after_worker_group_start(self, worker_group: Any) -> None:
        self._cleaner.register.remote(worker_group.get_worker_group_state().placement_group_handle.placement_group)

    async def before_controller_shutdown(self) -> None:
        self._stop()

    def before_controller_abort(self) -> None:
        self._stop()

    def _stop(self) -> None:
        with contextlib.suppress(RayActorError, GetTimeoutError):
            ray.get(self._cleaner.stop.remote(), timeout=LEAVE_WITHIN)


class _Once(DefaultFailurePolicy):
    """No second attempt at what it would meet again: a full disk, a broken picture, a loss that is not a number."""

    def make_decision(self, training_failed_error: Any) -> FailureDecision:
        if refusal(training_failed_error):
            return FailureDecision.RAISE
        return super().make_decision(training_failed_error)


class _AsAsked(FixedScalingPolicy):
    """As many workers as were asked for, on the machines that are there."""

    def after_controller_start(self, train_run_context: Any) -> None: ...

    def _maybe_send_resource_request(self) -> None: ...


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
        host, port = worker_group.execute_single(0, get_address_and_port)
        backend = "nccl" if backend_config.on_gpus else "gloo"
        worker_group.execute(_join, host, port, backend, backend_config.timeout_s)

    def on_training_start(self, worker_group: Any, backend_config: BackendConfig) -> None:
        worker_group.execute(notice.listen)  # in the main thread, where alone it can be; training has another

    def on_shutdown(self, worker_group: Any, backend_config: BackendConfig) -> None:
        if len(worker_group) > 1:
            with contextlib.suppress(GetTimeoutError):  # it is killed next
                ray.get(worker_group.execute_async(_leave), timeout=LEAVE_WITHIN)


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
        return self._draining or notice.given()

    def _ask(self) -> None:
        try:
            while True:
                self._draining = ray.train.get_preemption_info() is not None
                time.sleep(ASK_EVERY)
        except RayError:
            return  # whom it asked is gone, and this group with it
