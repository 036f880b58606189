"""The process group of Ray Train's workers: how long one waits for another, and what tells it to make a checkpoint.

Ray's controller loads this file too, for the settings below; it loads torch in any case.
"""

from __future__ import annotations

import os
import threading
import time
from dataclasses import dataclass
from typing import Any

import ray.train
from ray.exceptions import RayError
from ray.train.torch import TorchConfig

from remora.training import notice

ASK_EVERY = 1.0
"""Seconds between two questions to Ray whether a node is taken away."""


@dataclass
class Group(TorchConfig):
    """Ray's own torch settings, for workers that hear SIGTERM."""

    @property
    def backend_cls(self) -> Any:
        return _Listening


class _Listening(TorchConfig().backend_cls):  # type: ignore[misc]
    def on_training_start(self, worker_group: Any, backend_config: Any) -> None:
        super().on_training_start(worker_group, backend_config)
        worker_group.execute(notice.listen)  # in the main thread, where alone it can be; training has another


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
