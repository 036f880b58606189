"""An engine in other processes: the replicas of one version (`ModelReplica`, serving/replica.py).

A replica that dies, hangs or stops costs no request: another one goes on behind the tokens that came. Requests about
the same picture go to the same replica while it has room (serving/routing.py), which has read the picture already.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from contextvars import Context
from dataclasses import replace

from ray.exceptions import RayActorError
from ray.serve.exceptions import DeploymentUnavailableError, ReplicaUnavailableError
from ray.serve.handle import DeploymentHandle, DeploymentResponseGenerator

from remora.inference.requests import FittedPicture, Prompt, Request, Stats
from remora.serving.engines.protocol import Delta, Draining, EngineStats, ModelFailure, ReplicasDied

LOG = logging.getLogger(__name__)
ATTEMPTS = 3
"""Replicas that a request may cost: one that kills a replica may kill two more."""
PATIENCE_S = 30.0
"""Seconds for which a request is given to other replicas because one stops or hangs."""
PAUSE_S = 0.2
"""Between two of these attempts."""
READY_S = 1.0
"""Timeout for asking whether a replica would take a request: less than the proxy gives us (front.HEALTH_S)."""

EngineItem = Delta | Exception
"""What a replica streams: an answer's deltas, or what `ServingEngine.submit` raises, as a value, since Ray would wrap
an exception."""


class RemoteEngine:
    """A `ServingEngine` behind a handle of the deployment."""

    def __init__(self, handle: DeploymentHandle[object], clock: Callable[[], float] = time.monotonic) -> None:
        self._handle, self._clock = handle, clock
        self._open = self._begun = 0
        self._heard = clock()
        self._deltas = self._failed = self._moved = 0
        self._draining = False
        self._idle = asyncio.Event()
        self._idle.set()

    async def submit(self, request: Request) -> AsyncGenerator[Delta, None]:
        """As `ServingEngine.submit` says; also raises ReplicasDied."""
        if self._draining:
            raise Draining("this replica is about to stop")
        if not self._open:
            self._heard = self._clock()
        self._open += 1
        self._idle.clear()
        begun = False
        try:
            async with aclosing(self._answered(request)) as deltas:
                async for delta in deltas:
                    self._heard = self._clock()
                    self._deltas += 1
                    self._begun += not begun
                    begun = True
                    yield delta
        finally:
            self._open -= 1
            self._begun -= begun
            if not self._open:
                self._idle.set()

    async def _answered(self, request: Request) -> AsyncGenerator[Delta, None]:
        """An answer, by as many replicas as it takes."""
        told: Delta | None = None
        session, died, end = session_of(request), 0, self._clock() + PATIENCE_S
        while True:
            said = request.said if told is None else (*request.said, *told.tokens)
            try:
                async with aclosing(self._of_one_replica(replace(request, said=said), session)) as deltas:
                    async for delta in deltas:
                        if told is not None:  # a later replica counts what it read itself
                            delta = replace(delta, cached_tokens=told.cached_tokens)
                        told = delta if told is None else replace(told, tokens=told.tokens + delta.tokens)
                        yield delta
                        if delta.finish_reason is not None:
                            return
                raise RuntimeError("an engine's stream ended before its answer")
            except (RayActorError, ReplicaUnavailableError) as e:
                died += 1
                LOG.warning("a replica died; its request goes to another one (%s)", type(e).__name__)
                if died == ATTEMPTS:
                    raise ReplicasDied(f"{ATTEMPTS} replicas died of this request or beside it") from None
            except Draining:
                if self._clock() > end:
                    raise
                await asyncio.sleep(PAUSE_S)
            except DeploymentUnavailableError:
                raise Draining("no replica of the model could be started; see serve status") from None
            self._moved += 1
            session = ""  # its own replica may be the one that stops

    async def _of_one_replica(self, request: Request, session: str) -> AsyncGenerator[Delta, None]:
        handle = self._handle.options(method_name="submit", stream=True, session_id=session)
        # In a context of its own: Serve gives all calls of one HTTP request the same internal id, and a router that
        # is not first come first served never answers the first of two calls with one id (Ray 2.60).
        items = Context().run(handle.remote, request)
        assert isinstance(items, DeploymentResponseGenerator)
        finished = False
        try:
            async for item in items:
                if isinstance(item, Delta):
                    finished = item.finish_reason is not None
                    yield item
                elif isinstance(item, Exception):
                    self._failed += isinstance(item, ModelFailure)
                    raise item
        except (GeneratorExit, asyncio.CancelledError):  # the client is gone
            if not finished:
                items.cancel()
            raise

    @property
    def stats(self) -> EngineStats:
        """Of the requests from here; replicas export their own. Steps are deltas, `rebuilt` counts requests that were
        given to another replica."""
        load = Stats(self._open - self._begun, self._begun, 0, 0, 0, 0, 0, 0)
        stalled = self._clock() - self._heard if self._open else 0.0
        return EngineStats(load, self._deltas, stalled, self._failed, self._moved, has_cache=False)

    async def ready(self) -> bool:
        """Whether a replica that is not full answers within READY_S."""
        asked = Context().run(self._handle.options(method_name="facts").remote)
        try:
            async with asyncio.timeout(READY_S):
                await asked
        except (TimeoutError, RayActorError, ReplicaUnavailableError, DeploymentUnavailableError):
            asked.cancel()
            return False
        return not self._draining

    async def drain(self) -> None:
        """As `ServingEngine.drain` says. The replicas go on, for others."""
        self._draining = True
        await self._idle.wait()


def session_of(request: Request) -> str:
    """What requests have in common that should go to the same replica: their first picture. Empty: nothing."""
    asked = request.conversation
    if isinstance(asked, Prompt):
        return asked.pictures[0].digest.hex() if asked.pictures else ""
    shown = (image for turn in asked for image in turn.images)
    return next((image.digest.hex() for image in shown if isinstance(image, FittedPicture)), "")
