"""Which engine replica gets a request: the one that has read its picture, or the one with the least work."""

from __future__ import annotations

from ray.serve.experimental.consistent_hash_router import ConsistentHashRouter
from ray.serve.request_router import PendingRequest, RunningReplica

LOAD = "load"
"""Answers that a replica has, running and waiting; in its routing stats."""


class PictureRouter(ConsistentHashRouter):
    """Serve's consistent hashing by session id (a picture's digest), but any replica if that one has `full` answers or
    more, since all may ask about the same picture. Serve's own scatters requests without a session id at random; here
    they go to the shortest queue."""

    def initialize_state(self, **kwargs: int) -> None:
        self._full = kwargs.pop("full")
        super().initialize_state(**kwargs)

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        if pending_request is not None and pending_request.metadata.session_id:
            ranked = await super().choose_replicas(candidate_replicas, pending_request)
            if not ranked or ranked[0][0].routing_stats.get(LOAD, 0) < self._full:
                return ranked
        elif pending_request is not None:
            pending_request.routing_context.should_backoff = True
        return [candidate_replicas] if candidate_replicas else []
