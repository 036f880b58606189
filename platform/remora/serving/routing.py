"""Which engine replica gets a request: the one that has read its picture, or the one with the least work."""

from __future__ import annotations

from ray.serve.experimental.consistent_hash_router import ConsistentHashRouter
from ray.serve.request_router import PendingRequest, RunningReplica


class PictureRouter(ConsistentHashRouter):
    """Serve's consistent hashing by session id (a picture's digest), with the next replicas on the ring if that one is
    full. Serve's own scatters requests without a session id at random; here they go to the shortest queue."""

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        if pending_request is None or not pending_request.metadata.session_id:
            if pending_request is not None:
                pending_request.routing_context.should_backoff = True
            return [candidate_replicas] if candidate_replicas else []
        return await super().choose_replicas(candidate_replicas, pending_request)
