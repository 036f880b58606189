"""An actor that frees a group's CPUs when its controller dies; a placement group outlives the actor that made it.

Ray's own cleaner asks the State API of the cluster named in /tmp/ray/ray_current_cluster, where the last `ray start`
wrote. A second cluster does not know the controller, so Ray would take it for dead and free its workers; and a cluster
without a dashboard never answers. (session.py makes those queries fail.) This actor watches the group's first worker
instead, which ends with its controller. It imports only Ray, because it starts while the workers do.
"""

from __future__ import annotations

import threading
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError
from ray.util.placement_group import PlacementGroup, remove_placement_group

ASK_EVERY = 1.0
"""Seconds between two checks of the worker."""

NAMESPACE = "remora"
"""The namespace of its name; Ray warns about an anonymous one."""


class Cleaner:
    """A detached actor, so that it outlives the group; it ends once the group's resources are free.

    Args:
        worker: an actor of the group. Its owner is the controller: Ray ends the worker with it.
        group: the placement group to free when the worker has ended for any reason; a restarted group gets a new one.
    """

    def __init__(self, worker: Any, group: PlacementGroup) -> None:
        self.looks = 0
        self._worker, self._group = worker, group
        threading.Thread(target=self._watch, name="cleaner", daemon=True).start()

    def looked(self) -> int:
        """How often the worker was found alive."""
        return self.looks

    def _watch(self) -> None:
        alive, pause = self._worker.__ray_ready__.remote(), threading.Event()
        while not pause.wait(ASK_EVERY):
            try:
                ray.get(alive, timeout=ASK_EVERY)
            except GetTimeoutError:
                continue  # busy, e.g. joining its group
            except RayActorError:
                break
            self.looks += 1
            alive = self._worker.__ray_ready__.remote()
        remove_placement_group(self._group)
        ray.kill(ray.get_runtime_context().current_actor)
