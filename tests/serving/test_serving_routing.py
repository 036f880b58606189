"""Which engine replica gets a request, when Serve's ring and the replicas' loads are known."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from ray.serve.experimental.consistent_hash_router import ConsistentHashRouter

from remora.serving.routing import LOAD, PictureRouter


def choose(monkeypatch: pytest.MonkeyPatch, session: str, **loads: int) -> tuple[list[list[str]], bool]:
    """The names of the replicas in the order of the ring, which here is their own, and whether Serve waits between
    tries."""
    replicas: list[Any] = [SimpleNamespace(name=name, routing_stats={LOAD: load}) for name, load in loads.items()]
    replicas.append(SimpleNamespace(name="new", routing_stats={}))

    async def ring(self: object, candidates: object, pending: Any) -> list[list[Any]]:
        pending.routing_context.should_backoff = True
        return [[one] for one in replicas]

    monkeypatch.setattr(ConsistentHashRouter, "choose_replicas", ring)
    monkeypatch.setattr(ConsistentHashRouter, "initialize_state", lambda self, num_fallback_replicas: None)
    router = PictureRouter.__new__(PictureRouter)
    router.initialize_state(num_fallback_replicas=2, full=8)
    pending: Any = SimpleNamespace(
        metadata=SimpleNamespace(session_id=session), routing_context=SimpleNamespace(should_backoff=False)
    )
    found = asyncio.run(router.choose_replicas(replicas[::-1], pending))
    return [[one.name for one in each] for each in found], pending.routing_context.should_backoff  # type: ignore[attr-defined]


def test_a_pictures_replica_comes_first_until_it_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose(monkeypatch, "red", a=7, b=0) == ([["a"], ["b"], ["new"]], True)
    assert choose(monkeypatch, "red", a=8, b=0) == ([["new", "b", "a"]], True), "Serve takes the shortest queue"
    assert choose(monkeypatch, "red") == ([["new"]], True), "it has not told its load yet"


def test_without_a_picture_any_replica_may_have_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose(monkeypatch, "", a=0, b=9) == ([["new", "b", "a"]], True)
