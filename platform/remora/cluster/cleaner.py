"""The actor that frees a group's CPUs when its controller dies; a placement group outlives the actor that made it.

Ray's own asks the State API, which takes the cluster from /tmp/ray/ray_current_cluster: what `ray start` wrote there
last. Another cluster does not know the controller, so it would be taken for dead and its workers freed; and a cluster
without a dashboard never answers. (session.py sends those questions nowhere.) This one watches the group's first
worker, which ends with its controller. It imports Ray only: it starts beside workers.
"""

from __future__ import annotations

import threading
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError
from ray.util.placement_group import PlacementGroup, remove_placement_group

ASK_EVERY = 1.0
"""Seconds between two questions to the worker."""

NAMESPACE = "remora"
"""Of its name: an anonymous namespace costs a warning of Ray's."""


class Cleaner:
    """Detached, so that it outlives the group; it ends once the group's room is free.

    Args:
        worker: an actor of the group. Whoever owns it is its controller: Ray ends it with that.
        group: what is freed when the worker is gone, however it went: a group is started again as a whole, in new room.
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
                continue  # busy: it joins its group, say
            except RayActorError:
                break
            self.looks += 1
            alive = self._worker.__ray_ready__.remote()
        remove_placement_group(self._group)
        ray.kill(ray.get_runtime_context().current_actor)
