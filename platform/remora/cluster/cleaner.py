"""The actor that frees a group's CPUs when its controller dies; a placement group outlives the actor that made it.

Ray asks the State API, which takes the cluster from /tmp/ray/ray_current_cluster: whatever `ray start` wrote there
last. Another cluster does not know the controller, so it was taken for dead and its workers were freed; and a cluster
without a dashboard never answered. This one asks the controller itself. It imports Ray alone: it starts beside workers.
"""

from __future__ import annotations

import threading
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError
from ray.util.placement_group import PlacementGroup, remove_placement_group

ASK_EVERY = 1.0
"""Seconds between two questions to the controller."""

NAMESPACE = "remora"
"""Of its name: an anonymous namespace costs a warning of Ray's."""


class Cleaner:
    """Detached, so that it outlives the controller. Its handle of the controller ends with it."""

    def __init__(self, controller: Any) -> None:
        self.looks = 0
        self._controller = controller
        self._group: PlacementGroup | None = None
        self._stopped = threading.Event()
        threading.Thread(target=self._watch, name="cleaner", daemon=True).start()

    def register(self, group: PlacementGroup) -> None:
        """The newest group of workers."""
        self._group = group

    def looked(self) -> int:
        """How often the controller was found alive."""
        return self.looks

    def stop(self) -> None:
        """End; the controller frees what it holds."""
        self._stopped.set()
        ray.actor.exit_actor()

    def _watch(self) -> None:
        alive = self._controller.__ray_ready__.remote()
        while not self._stopped.wait(ASK_EVERY):
            try:
                ray.get(alive, timeout=ASK_EVERY)
            except GetTimeoutError:
                continue  # busy: it starts workers, say
            except RayActorError:
                if self._group and not self._stopped.is_set():
                    remove_placement_group(self._group)
                ray.kill(ray.get_runtime_context().current_actor)
                return
            self.looks += 1
            alive = self._controller.__ray_ready__.remote()
