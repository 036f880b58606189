"""The engine behind a handle: what other replicas do for a request. The handle is scripted; no Ray runs."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import pytest
from PIL import Image
from ray.exceptions import ActorDiedError
from ray.serve.handle import DeploymentResponseGenerator

from remora.errors import TooLong
from remora.inference import FittedPicture, Message, Request
from remora.serving.engines import remote
from remora.serving.engines.protocol import Delta, Draining, ModelFailure, OtherVersion, ReplicasDied, VersionedRequest
from remora.serving.engines.remote import RemoteEngine, session_of
from support.serving_fake import FakeAnswerer, facts_of

FACTS = facts_of(FakeAnswerer())
RED = FittedPicture(Image.new("RGB", (4, 4), (255, 0, 0)))
ASKED = VersionedRequest((Message("user", "hi", (RED,)),), 9, version="3")


class Items(DeploymentResponseGenerator):
    """What one replica streams: deltas for tokens, and at its end something else."""

    def __init__(self, items: list[Any]) -> None:
        self.items, self.was_cancelled = items, False

    async def __anext__(self) -> Any:
        await asyncio.sleep(0)
        if not self.items:
            raise StopAsyncIteration
        item = self.items.pop(0)
        if item == "hangs":
            await asyncio.Event().wait()
        if isinstance(item, ActorDiedError):
            raise item
        return item

    def cancel(self) -> None:
        self.was_cancelled = True


class Handle:
    """Replicas that answer 7 tokens, cut by a script: after how many tokens each ends, and how."""

    def __init__(self, *script: tuple[int, Any]) -> None:
        self.script = list(script)
        self.asked: list[tuple[Request, str]] = []
        self.streams: list[Items] = []
        self.state: Any = None

    def options(self, method_name: str, stream: bool = False, session_id: str = "") -> Handle:
        self.session = session_id
        return self

    def remote(self, request: Request | None = None) -> Any:
        if request is None:
            return self.state
        self.asked.append((request, self.session))
        first = len(request.said)
        deltas = [
            Delta(f"t{i}", (i,), finish_reason="stop" if i == 6 else None, prompt_tokens=20, cached_tokens=10 + first)
            for i in range(first, 7)
        ]
        if self.script:
            count, end = self.script.pop(0)
            self.streams.append(Items([*deltas[:count], end]))
        else:
            self.streams.append(Items(list(deltas)))
        return self.streams[-1]


def run(handle: Handle, take: int = 99, request: Request = ASKED) -> tuple[list[Delta], RemoteEngine]:
    async def go() -> tuple[list[Delta], RemoteEngine]:
        engine, found = RemoteEngine(handle), []  # type: ignore[arg-type]
        async with aclosing(engine.submit(request)) as deltas:
            async for delta in deltas:
                found.append(delta)
                if len(found) == take:
                    break
        assert (engine.stats.load.running, engine.stats.load.waiting) == (0, 0)
        return found, engine

    return asyncio.run(asyncio.wait_for(go(), 30))


def died() -> ActorDiedError:
    return ActorDiedError()


@pytest.mark.sampled(2)
@pytest.mark.parametrize("end", [died, lambda: Draining("it stops")])
@pytest.mark.parametrize("at", [[0], [3], [6], [2, 2], [0, 5]])
def test_another_replica_goes_on_behind_what_came(end: Callable[[], Any], at: list[int]) -> None:
    handle = Handle(*((count, end()) for count in at))
    found, engine = run(handle)
    assert [token for delta in found for token in delta.tokens] == list(range(7))
    assert "".join(delta.text for delta in found) == "t0t1t2t3t4t5t6" and found[-1].finish_reason == "stop"
    said = [sum(at[:i]) for i in range(len(at) + 1)]
    assert [len(request.said) for request, _ in handle.asked] == said
    assert [session for _, session in handle.asked] == [RED.digest.hex(), *[""] * len(at)]
    assert {delta.cached_tokens for delta in found} == {10 if at[0] else 10 + said[1]}
    assert engine.stats.rebuilt == len(at) and not any(one.was_cancelled for one in handle.streams)


def test_a_request_behind_tokens_keeps_them() -> None:
    handle = Handle((2, died()))
    found, _ = run(handle, request=replace(ASKED, said=(0, 1)))
    assert [token for delta in found for token in delta.tokens] == [2, 3, 4, 5, 6]
    assert [request.said for request, _ in handle.asked] == [(0, 1), (0, 1, 2, 3)]


def test_a_request_that_kills_is_not_given_to_every_replica() -> None:
    handle = Handle(*((1, died()) for _ in range(9)))
    with pytest.raises(ReplicasDied, match="3 replicas died"):
        run(handle)
    assert len(handle.asked) == remote.ATTEMPTS


def test_replicas_that_all_stop_are_not_asked_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "PATIENCE_S", 0.05)
    monkeypatch.setattr(remote, "PAUSE_S", 0.01)
    with pytest.raises(Draining, match="it stops"):
        run(Handle(*((0, Draining("it stops")) for _ in range(99))))


@pytest.mark.parametrize("error", [TooLong(600, 1, 512), ModelFailure("KeyError"), OtherVersion("4")])
def test_what_an_engine_raises_is_raised_here_and_nobody_else_is_asked(error: Exception) -> None:
    handle = Handle((0, error))
    with pytest.raises(type(error)) as caught:
        run(handle)
    assert str(caught.value) == str(error) and len(handle.asked) == 1


@pytest.mark.parametrize("error", [ModelFailure("KeyError"), Draining("it stops"), ReplicasDied("3 died")])
def test_an_error_crosses_processes_as_it_is(error: Exception) -> None:
    there = pickle.loads(pickle.dumps(pickle.loads(pickle.dumps(error))))
    assert (type(there), str(there), vars(there)) == (type(error), str(error), vars(error))


def test_a_reader_that_goes_cancels_its_replicas_stream() -> None:
    handle = Handle()
    found, _ = run(handle, take=2)
    assert len(found) == 2 and handle.streams[0].was_cancelled

    async def go() -> None:
        engine = RemoteEngine(handle)  # type: ignore[arg-type]
        handle.script.append((2, "hangs"))
        task = asyncio.ensure_future(_all(engine))
        while engine.stats.steps < 2:
            await asyncio.sleep(0)
        assert (engine.stats.load.running, engine.stats.load.waiting) == (1, 0)
        task.cancel()
        await asyncio.wait({task})
        assert handle.streams[-1].was_cancelled and engine.stats.load.running == 0
        await engine.drain()
        with pytest.raises(Draining):
            await anext(engine.submit(ASKED))

    async def _all(engine: RemoteEngine) -> list[Delta]:
        return [delta async for delta in engine.submit(ASKED)]

    asyncio.run(asyncio.wait_for(go(), 30))


def test_silence_is_counted_while_a_request_waits() -> None:
    now = 5.0

    async def go() -> None:
        nonlocal now
        engine = RemoteEngine(Handle((1, "hangs")), lambda: now)  # type: ignore[arg-type]
        assert engine.stats.stalled_s == 0
        now = 50.0
        stream = engine.submit(ASKED)
        await anext(stream)
        now = 60.0
        assert engine.stats.stalled_s == 10
        await stream.aclose()
        assert engine.stats.stalled_s == 0

    asyncio.run(go())


class State:
    """A replica's answer to a question about itself."""

    def __init__(self, how: Any) -> None:
        self.how, self.was_cancelled = how, False

    def __await__(self) -> Any:
        yield from asyncio.sleep(0).__await__()
        if self.how == "hangs":
            yield from asyncio.Event().wait().__await__()
        if isinstance(self.how, Exception):
            raise self.how
        return self.how

    def cancel(self) -> None:
        self.was_cancelled = True


def test_ready_is_that_a_replica_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "READY_S", 0.05)
    handle = Handle()
    for how, ready in ((FACTS, True), ("hangs", False), (died(), False)):
        handle.state = State(how)
        assert asyncio.run(RemoteEngine(handle).ready()) is ready  # type: ignore[arg-type]
        assert handle.state.was_cancelled is not ready


def test_a_session_is_the_first_picture() -> None:
    blue = FittedPicture(Image.new("RGB", (4, 4), (0, 0, 255)))
    again = FittedPicture(Image.new("RGB", (4, 4), (255, 0, 0)))
    for turns in (
        (Message("user", "a", (again, blue)),),
        (Message("user", "a", (RED,)), Message("assistant", "b"), Message("user", "c", (blue,))),
    ):
        assert session_of(Request(turns, 9)) == RED.digest.hex()
    assert session_of(Request((Message("user", "a"),), 9)) == ""
