"""One thread owns an engine of steps (AnswerEngine, VllmEngine); requests join and leave between steps.

After an exception of a step that engine is unusable. A fresh one gets the requests again, behind the tokens that
were sent. To find the request at fault, each that was in the failed step takes its next step alone, and only those that
fail there fail. If none does (too little memory for all of them), half as many run together from then on, until the
engine is idle.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

from remora.inference.requests import Event, Prompt, Request
from remora.inference.text import GrowingText
from remora.inference.vllm.process import WorkerGone
from remora.serving.engines.protocol import Chosen, Delta, Draining, EngineStats, Likely, StepEngine

if TYPE_CHECKING:
    from remora.inference import Answerer

LOG = logging.getLogger(__name__)
COUNTS = ("prompt_tokens", "shared_tokens", "answer_tokens", "near_ties")
"""Of Stats: those that add up over engines."""


@dataclass(eq=False)
class _Stream:
    """A request, what was said of its answer, and what its reader has not taken yet."""

    request: Request
    prompt: Prompt
    text: GrowingText
    loop: asyncio.AbstractEventLoop
    arrived: asyncio.Event
    pending: Delta | None = None
    done: bool = False
    error: BaseException | None = None
    said: list[int] = field(default_factory=list)
    number: int = -1
    """The engine's for it."""
    cached: int | None = None
    """By its first event: a later engine would count what it read itself."""


class ThreadedEngine:
    """A `ServingEngine` with a thread in this process. `make` makes an engine of steps with so many rows at most."""

    def __init__(
        self,
        answerer: Answerer,
        make: Callable[[int], StepEngine],
        rows: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._answerer, self._make, self._rows, self._clock = answerer, make, rows, clock
        self._change = threading.Condition()
        self._arrived: list[_Stream] = []  # these four under _change
        self._gone: list[_Stream] = []
        self._open: set[_Stream] = set()
        self._draining = False
        self._engine = make(rows)
        self._running: dict[int, _Stream] = {}
        self._allowed = rows  # rows now: fewer after a failure that no request alone causes
        self._before = self._engine.stats  # counts of earlier engines
        self._steps = self._failed = self._rebuilt = 0
        self._began: float | None = None
        self._told = self._engine.stats
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    async def submit(self, request: Request) -> AsyncGenerator[Delta, None]:
        """As `ServingEngine.submit` says. A reader that is slower than the engine gets several tokens a delta."""
        asked = request.conversation
        prompt = asked if isinstance(asked, Prompt) else await asyncio.to_thread(self._answerer.prompt, asked)
        # Clients send one limit for a whole benchmark, up to 4096, for any model.
        room = self._answerer.room(prompt)
        request = replace(request, conversation=prompt, max_new_tokens=min(request.max_new_tokens, room))
        text = GrowingText(self._answerer.detokenizer, request.stop)
        for token in request.said:
            text.add(token)
        stream = _Stream(request, prompt, text, asyncio.get_running_loop(), asyncio.Event())
        with self._change:
            if self._draining:
                raise Draining("this replica is about to stop")
            self._open.add(stream)
            self._arrived.append(stream)
            self._change.notify()
        try:
            while True:
                await stream.arrived.wait()
                stream.arrived.clear()
                delta, stream.pending = stream.pending, None
                stream.done = stream.error is not None or (delta is not None and delta.finish_reason is not None)
                if delta is not None:
                    yield delta
                if stream.error is not None:
                    raise stream.error
                if stream.done:
                    return
        finally:
            with self._change:
                self._open.discard(stream)
                if not stream.done:
                    self._gone.append(stream)
                self._change.notify_all()

    @property
    def stats(self) -> EngineStats:
        began, told = self._began, self._told
        with self._change:
            arrived = [*self._arrived]
        tokens = sum(stream.request.max_new_tokens for stream in arrived)
        counts = {name: getattr(told, name) + getattr(self._before, name) for name in COUNTS}
        load = replace(told, waiting=told.waiting + len(arrived), waiting_tokens=told.waiting_tokens + tokens, **counts)
        stalled = 0.0 if began is None else self._clock() - began
        return EngineStats(load, self._steps, stalled, self._failed, self._rebuilt)

    async def ready(self) -> bool:
        return not self._draining

    def abandon(self, error: BaseException) -> None:
        """Break off all streams and take no more requests, since the thread hangs."""
        with self._change:
            self._draining = True
            streams = list(self._open)
        self._fail(streams, error)

    async def drain(self) -> None:
        """As `ServingEngine.drain` says; its thread ends."""
        with self._change:
            self._draining = True
            self._change.notify()
        await asyncio.to_thread(self._thread.join)

    # The thread.

    def _run(self) -> None:
        while self._take():
            self._began = self._clock()
            try:
                events = self._engine.step()
            except Exception as error:
                self._steps += 1
                LOG.exception("a step of the model failed with %d requests in it", len(self._running))
                try:
                    self._recover(error)
                except Exception as broken:
                    # _began stays, so the engine counts as one that hangs, and is replaced.
                    LOG.exception("the engine cannot be made again")
                    self.abandon(Draining(f"the engine cannot be made again: {broken}"))
                    return
                self._told = self._engine.stats
            else:
                self._steps += 1
                self._told = self._engine.stats
                self._tell(events)

    def _take(self) -> bool:
        """Wait for something to do, then give the engine what came and take from it what went; false at the end."""
        with self._change:
            if not self._engine.busy:
                self._began = None
                if self._allowed < self._rows:
                    self._replace_engine(self._rows)
                self._change.wait_for(lambda: self._arrived or (self._draining and not self._open))
                if not self._arrived:
                    return False
            new, self._arrived = self._arrived, []
            gone, self._gone = self._gone, []
        for stream in new:
            if stream not in gone:
                self._add(stream)
        for stream in gone:
            if self._running.get(stream.number) is stream:
                del self._running[stream.number]
                self._engine.cancel(stream.number)
        return True

    def _add(self, stream: _Stream) -> None:
        stream.number = -1
        try:
            stream.number = self._engine.add(replace(stream.request, said=(*stream.request.said, *stream.said)))
        except Exception as error:  # noqa: BLE001 (handed to the client)
            self._fail([stream], error)
        else:
            self._running[stream.number] = stream

    def _replace_engine(self, rows: int) -> None:
        last = self._engine.stats
        added = {name: getattr(last, name) + getattr(self._before, name) for name in COUNTS}
        self._before = replace(self._before, **added)
        self._allowed = rows
        self._engine = self._make(rows)
        self._told = self._engine.stats
        self._running = {}

    def _recover(self, error: Exception) -> None:
        """Go on after a failed step: see the top of this file."""
        streams = list(self._running.values())
        waiting = {stream for stream in streams if self._engine.waits(stream.number)}
        suspects = [stream for stream in streams if stream not in waiting]
        self._rebuilt += 1
        self._replace_engine(self._allowed)
        if len(suspects) == 1 and not isinstance(error, WorkerGone):
            at_fault = suspects
            self._failed += 1
            self._fail(suspects, error)
        else:
            at_fault = [stream for stream in suspects if self._fails_alone(stream)]
            if not at_fault:
                self._replace_engine(max(1, self._allowed // 2))
        for stream in streams:
            if stream in waiting or (stream not in at_fault and stream.number >= 0):
                self._add(stream)

    def _fails_alone(self, stream: _Stream) -> bool:
        """Whether a request's next step fails with no other in the engine."""
        try:
            self._take_a_step_alone(stream)
        except Exception as error:
            LOG.exception("a request fails by itself")
            self._failed += 1
            self._fail([stream], error)
            self._replace_engine(self._allowed)
            return True
        return False

    def _take_a_step_alone(self, stream: _Stream) -> None:
        """Ask for a request's next token with no other in the engine. Its number is -1 if that was its last."""
        self._add(stream)
        events: list[Event] = []
        while stream.number >= 0 and not events:
            self._began = self._clock()
            self._steps += 1
            events = self._engine.step()
        self._tell(events)
        if stream.number in self._running:
            self._engine.cancel(stream.number)
        else:
            stream.number = -1
        self._running = {}

    def _tell(self, events: Sequence[Event]) -> None:
        """Hand over what a step said, with one call for each event loop."""
        said: dict[asyncio.AbstractEventLoop, list[tuple[_Stream, Delta]]] = defaultdict(list)
        for event in events:
            stream = self._running[event.request]
            said[stream.loop].append((stream, self._delta(stream, event)))
            if event.answer is not None:
                del self._running[event.request]
        for loop, deltas in said.items():
            _call(loop, partial(_deliver, deltas))

    def _delta(self, stream: _Stream, event: Event) -> Delta:
        answer, prompt = event.answer, stream.prompt
        stream.said.append(event.token)
        if stream.cached is None:
            stream.cached = event.cached_tokens
        text = stream.text.add(event.token) if answer is None else stream.text.end(answer.text)
        return Delta(
            text,
            (event.token,),
            self._chosen(event),
            None if answer is None else answer.finish_reason,
            prompt_tokens=len(prompt.ids),
            image_tokens=prompt.image_tokens,
            cached_tokens=stream.cached,
        )

    def _chosen(self, event: Event) -> tuple[Chosen, ...]:
        if event.logprobs is None or event.token == self._answerer.stop_id:
            return ()
        of = self._answerer.detokenizer

        def likely(token: int, logprob: float) -> Likely:
            return Likely(token, of.shown(token), of.bytes_of(token), logprob)

        best = tuple(likely(token, logprob) for token, logprob in event.logprobs.best)
        return (Chosen(likely(event.token, event.logprobs.token), best),)

    def _fail(self, streams: Sequence[_Stream], error: BaseException) -> None:
        for stream in streams:
            _call(stream.loop, partial(_break, stream, error))


def _call(loop: asyncio.AbstractEventLoop, what: Callable[[], None]) -> None:
    """Call from another thread; a loop that was closed has no readers any more."""
    try:
        loop.call_soon_threadsafe(what)
    except RuntimeError:
        if not loop.is_closed():
            raise


def _deliver(deltas: Sequence[tuple[_Stream, Delta]]) -> None:
    for stream, delta in deltas:
        stream.pending = delta if stream.pending is None else stream.pending + delta
        stream.arrived.set()


def _break(stream: _Stream, error: BaseException) -> None:
    stream.error = error
    stream.arrived.set()
