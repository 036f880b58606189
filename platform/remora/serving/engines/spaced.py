"""Deltas that travel together from an engine replica: each item that Ray streams costs the replica, the ingress and,
where the answer is streamed on, the proxy more CPU time than a small model's token."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

from remora.serving.engines.protocol import Delta

STREAMED_S = 0.02
"""Seconds between two items of an answer that its client reads as it grows: 50 pieces a second look like a flow."""
WHOLE_S = 1.0
"""Of an answer that its client reads as a whole. What has been told is not lost with the replica: another one goes on
behind it."""


async def spaced(deltas: AsyncGenerator[Delta, None], apart_s: float) -> AsyncGenerator[Delta, None]:
    """The first delta at once; then, `apart_s` after the last item, what came meanwhile, or the next delta as it comes;
    the answer's end at once, with all that is left."""
    async with aclosing(deltas):
        first = await anext(deltas, None)
        if first is None:
            return
        yield first
        if first.finish_reason is None:
            async with aclosing(_rest(deltas, apart_s)) as rest:
                async for delta in rest:
                    yield delta


async def _rest(deltas: AsyncGenerator[Delta, None], apart_s: float) -> AsyncGenerator[Delta, None]:
    arrived, ended = asyncio.Event(), asyncio.Event()
    pending: list[Delta] = []

    async def read() -> None:
        try:
            async for delta in deltas:
                pending.append(delta)
                arrived.set()
        finally:
            ended.set()
            arrived.set()

    reading = asyncio.create_task(read())
    try:
        while pending or not ended.is_set():
            try:
                async with asyncio.timeout(apart_s):
                    await ended.wait()
            except TimeoutError:
                await arrived.wait()
            arrived.clear()
            if pending:
                together, *more = pending
                pending.clear()
                for delta in more:
                    together += delta
                yield together
        await reading  # raises what broke it off
    finally:
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
