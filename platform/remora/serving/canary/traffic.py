"""One ingress replica's part of a canary: which version answers a client, and the other version's answer in the shadow.

What runs in the shadow never reaches the client, and never holds its answer up: so many at a time, the rest is dropped
and counted; pictures are decoded by a thread of its own; whatever fails there is a figure of the comparison.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
import uuid
from collections import deque
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from remora.errors import DataError
from remora.serving.args import Limits
from remora.serving.canary.args import CanaryArgs
from remora.serving.canary.course import CanaryState, Course
from remora.serving.canary.judge import CanaryJudge
from remora.serving.canary.observed import Comparison, Observation, Watcher, overlap
from remora.serving.champion import ModelFacts
from remora.serving.completion import Reading, engine_requests
from remora.serving.engines.protocol import Delta, OtherVersion, ServingEngine
from remora.serving.images import decode
from remora.serving.openai_api import ChatRequest, Refusal
from remora.serving.versions import VersionChoice

if TYPE_CHECKING:
    from remora.inference import Request

LOG = logging.getLogger(__name__)
Which = Literal["stable", "candidate"]
KEPT = 1000
"""Comparisons that wait for a judge that does not answer."""
AT_ONCE = 100


@dataclass
class TrafficCounts:
    """Since this replica started."""

    answered: dict[Which, int] = field(default_factory=lambda: {"stable": 0, "candidate": 0})
    """Whose answers clients got while a version was on trial."""
    compared: int = 0
    dropped: int = 0
    """To be compared, but there was no room in the shadow, or the client went."""
    rescued: int = 0
    """Requests that the candidate failed, and the stable version answered."""


class CanaryTraffic:
    """Both versions, for one ingress replica. Its methods belong to one event loop."""

    def __init__(
        self,
        plan: CanaryArgs,
        engine: ServingEngine,
        judge: CanaryJudge,
        limits: Limits,
        draw: Callable[[], float] = random.random,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """`engine` answers for either version, by the one that a request was read for."""
        self.plan, self.engine, self.judge, self.limits = plan, engine, judge, limits
        self.state = Course(plan).state()
        """As the judge has told last; who answers whom is the table's."""
        self.counts = TrafficCounts()
        self.decode: Reading = decode
        """Of pictures, for the shadow."""
        self._draw, self._clock = draw, clock
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="shadow")
        self._shadows: set[asyncio.Task[None]] = set()
        self._out: deque[Comparison] = deque(maxlen=KEPT)
        self._told_dropped = 0
        self._asking: asyncio.Task[None] | None = None

    def watched(
        self, choice: VersionChoice, request: ChatRequest, asked: Request, deltas: AsyncGenerator[Delta, None]
    ) -> AsyncGenerator[Delta, None]:
        """A client's answer, which is compared with the other version's if the request is among those of the shadow.

        Args:
            choice: Who answers the client, and the other version.
            asked: As the engine is asked; `request` is read again for the other version.
        """
        trial = choice.model.trial
        if choice.shadow is None or trial is None or trial.share >= 1:
            return deltas
        which: Which = "candidate" if choice.on_trial else "stable"
        self.counts.answered[which] += 1
        if self._draw() >= self.plan.shadow:
            return deltas
        if len(self._shadows) >= self.plan.in_flight:
            self.counts.dropped += 1
            return deltas
        client: asyncio.Future[tuple[Observation, str] | None] = asyncio.get_running_loop().create_future()
        task = asyncio.create_task(self._compare(which, choice.shadow.facts, request, asked, client))
        self._shadows.add(task)
        task.add_done_callback(self._shadows.discard)
        return self._told(which, deltas, client)

    async def refresh(self) -> CanaryState:
        """The state now, as far as the judge answers."""
        self._ask()
        if self._asking is not None:
            await asyncio.shield(self._asking)
        return self.state

    async def idle(self) -> None:
        """Return when nothing is in the shadow and the judge has all comparisons that it would take."""
        while self._shadows:
            await asyncio.wait(set(self._shadows))
        await self.refresh()

    async def _told(
        self, which: Which, deltas: AsyncGenerator[Delta, None], client: asyncio.Future[tuple[Observation, str] | None]
    ) -> AsyncGenerator[Delta, None]:
        """The client's answer, and `client` gets what was seen of it: None if there is nothing to compare."""
        watcher = Watcher(self._clock)
        found: Observation | None = None
        try:
            async with aclosing(_at_its_own_pace(deltas, watcher)) as paced:
                async for delta in paced:
                    if delta.finish_reason is not None:  # the reader may close this instead of asking on
                        found = watcher.ended()
                    yield delta
        except OtherVersion:
            raise
        except DataError as error:  # the client's own fault, unless the stable version answers it
            found = watcher.ended(error) if which == "candidate" else None
            raise
        except Exception as error:
            found = watcher.ended(error)
            raise
        finally:
            if not client.done():
                client.set_result(None if found is None else (found, watcher.text))

    async def _compare(
        self,
        which: Which,
        other: ModelFacts,
        request: ChatRequest,
        asked: Request,
        client: asyncio.Future[tuple[Observation, str] | None],
    ) -> None:
        shadow = asyncio.create_task(self._shadow(which, other, request, asked))
        try:
            async with asyncio.timeout(2 * self.plan.patience_s):  # a client that goes at once tells nothing
                await asyncio.wait({shadow, client}, return_when=asyncio.FIRST_COMPLETED)
                seen = None if client.done() and client.result() is None else await client
                hidden = None if seen is None else await shadow
        except TimeoutError:
            seen = hidden = None
        finally:
            shadow.cancel()
            await asyncio.gather(shadow, return_exceptions=True)
        if seen is None or hidden is None:  # gone, or nothing to compare
            self.counts.dropped += 1
            return
        (mine, text), (its, its_text) = seen, hidden
        stable, candidate = (mine, its) if which == "stable" else (its, mine)
        dropped = self.counts.dropped - self._told_dropped
        self._told_dropped = self.counts.dropped
        same, alike = text.strip() == its_text.strip(), overlap(text, its_text)
        self._out.append(Comparison(uuid.uuid4().hex, which, stable, candidate, same, alike, dropped))
        self.counts.compared += 1
        self._ask()

    async def _shadow(
        self, which: Which, other: ModelFacts, request: ChatRequest, asked: Request
    ) -> tuple[Observation, str] | None:
        """The answer of the version that does not answer the client; None if there is none that can be compared."""
        watcher = Watcher(self._clock)
        run = asyncio.get_running_loop().run_in_executor
        try:
            async with asyncio.timeout(self.plan.patience_s):
                read = await run(self._reader, engine_requests, request, self.limits, other, self.decode)
                watcher = Watcher(self._clock)
                async with aclosing(self.engine.submit(replace(read[0], seed=asked.seed))) as deltas:
                    async for delta in deltas:
                        watcher.heard(delta)
        except OtherVersion:
            return None
        except (DataError, Refusal) as error:
            own = isinstance(error, Refusal) and error.status != 400  # no process to decode its pictures
            return None if which == "candidate" or own else (watcher.ended(error), "")
        except Exception as error:  # noqa: BLE001 (a figure of the comparison)
            return watcher.ended(error), ""
        return watcher.ended(), watcher.text

    def _ask(self) -> None:
        """Give the judge what there is and take its state, beside whatever goes on."""
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._give())

    async def _give(self) -> None:
        while True:
            batch = [self._out.popleft() for _ in range(min(AT_ONCE, len(self._out)))]
            try:
                self.state = await self.judge.record(batch)
            except Exception as error:  # noqa: BLE001 (asked again with the next request)
                LOG.warning("the canary's judge does not answer (%s); its comparisons wait", type(error).__name__)
                self._out.extendleft(reversed(batch))
                return
            if not self._out:
                return


class _Pump:
    """What was read of a stream and its reader has not taken yet."""

    def __init__(self, deltas: AsyncGenerator[Delta, None], watcher: Watcher) -> None:
        self._deltas, self._watcher = deltas, watcher
        self.pending: Delta | None = None
        self.failure: Exception | None = None
        self.done = False
        self.arrived = asyncio.Event()

    async def read(self) -> None:
        try:
            async with aclosing(self._deltas) as deltas:
                async for delta in deltas:
                    self._watcher.heard(delta)
                    self.pending = delta if self.pending is None else self.pending + delta
                    self.arrived.set()
        except Exception as error:  # noqa: BLE001 (raised where it is read)
            self.failure = error
        finally:
            self.done = True
            self.arrived.set()


async def _at_its_own_pace(deltas: AsyncGenerator[Delta, None], watcher: Watcher) -> AsyncGenerator[Delta, None]:
    """The stream, read as fast as it comes: a client that reads slowly must not make its version look slow."""
    pump = _Pump(deltas, watcher)
    reading = asyncio.create_task(pump.read())
    try:
        while True:
            await pump.arrived.wait()
            pump.arrived.clear()
            delta, pump.pending = pump.pending, None
            if delta is not None:
                yield delta
            if pump.done and pump.pending is None:
                if pump.failure is not None:
                    raise pump.failure
                return
    finally:
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
