"""Deltas sent together: none is lost, the first and the last are not delayed, and an error is passed on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

import pytest

from remora.serving.engines.protocol import Delta, Draining
from remora.serving.engines.spaced import spaced

LONG = 3600.0


def delta(i: int, end: bool = False) -> Delta:
    return Delta(f"t{i}", (i,), finish_reason="length" if end else None, prompt_tokens=20)


class Source:
    """An engine's stream, whose deltas come when the test says so."""

    def __init__(self) -> None:
        self.arrived: asyncio.Queue[Delta | Exception] = asyncio.Queue()
        self.closed = False

    async def deltas(self) -> AsyncGenerator[Delta, None]:
        try:
            while True:
                found = await self.arrived.get()
                if isinstance(found, Exception):
                    raise found
                yield found
                if found.finish_reason is not None:
                    return
        finally:
            self.closed = True

    def put(self, *found: Delta | Exception) -> None:
        for each in found:
            self.arrived.put_nowait(each)


def run(go: object) -> None:
    asyncio.run(asyncio.wait_for(go, 30))  # type: ignore[arg-type]


def test_the_first_and_the_end_do_not_wait_and_nothing_is_lost() -> None:
    async def go() -> None:
        source = Source()
        async with aclosing(spaced(source.deltas(), LONG)) as items:
            source.put(delta(0))
            assert (await anext(items)).tokens == (0,)
            source.put(*(delta(i) for i in range(1, 9)), delta(9, end=True))
            last = await anext(items)
            assert last.tokens == tuple(range(1, 10)) and last.finish_reason == "length"
            assert last.text == "".join(f"t{i}" for i in range(1, 10)) and last.prompt_tokens == 20
            assert await anext(items, None) is None
        assert source.closed

    run(go())


def test_what_came_is_told_though_the_next_delta_never_comes() -> None:
    async def go() -> None:
        source = Source()
        async with aclosing(spaced(source.deltas(), 0.01)) as items:
            source.put(delta(0), delta(1), delta(2))
            assert (await anext(items)).tokens == (0,)
            assert (await anext(items)).tokens == (1, 2)
            waiting = asyncio.ensure_future(anext(items))
            await asyncio.sleep(0.02)
            source.put(delta(3))  # long after the last one: at once
            assert (await waiting).tokens == (3,)
            source.put(delta(4), delta(5, end=True))
            while not source.closed:  # while the reader does something else
                await asyncio.sleep(0)
            assert [item.tokens for item in [each async for each in items]] == [(4, 5)]

    run(go())


def test_an_answer_of_one_delta_and_one_of_none() -> None:
    async def go() -> None:
        source = Source()
        source.put(delta(0, end=True))
        assert [each.tokens async for each in spaced(source.deltas(), LONG)] == [(0,)]

        async def nothing() -> AsyncGenerator[Delta, None]:
            return
            yield

        assert [each async for each in spaced(nothing(), LONG)] == []

    run(go())


@pytest.mark.parametrize("before", [0, 1, 3])
def test_a_failure_comes_behind_what_was_told_before_it(before: int) -> None:
    async def go() -> None:
        source = Source()
        source.put(*map(delta, range(before)), Draining("it stops"))
        found: list[int] = []
        with pytest.raises(Draining, match="it stops"):
            async for each in spaced(source.deltas(), LONG):
                found += each.tokens
        assert found == list(range(before)) and source.closed

    run(go())


@pytest.mark.parametrize("take", [1, 2])
def test_a_reader_that_goes_closes_the_stream(take: int) -> None:
    async def go() -> None:
        source = Source()
        source.put(*map(delta, range(4)))
        items = spaced(source.deltas(), 0.01)
        for _ in range(take):
            await anext(items)
        await items.aclose()
        assert source.closed

        other = Source()
        other.put(delta(0))

        async def read() -> list[Delta]:
            return [each async for each in spaced(other.deltas(), LONG)]

        task = asyncio.ensure_future(read())
        while not other.arrived.empty():
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait({task})
        assert other.closed

    run(go())
