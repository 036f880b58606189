"""POST /v1/chat/completions: read a request, have the engine answer it, and send the answer whole or as it grows.

A client that goes is noticed at once, whether it streams or not, and its request is cancelled in the engine. No Ray
here.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from typing import TYPE_CHECKING, TypeVar, TypeVarTuple

from fastapi import Request, Response
from fastapi.responses import JSONResponse, StreamingResponse

from remora.errors import DataError, TooLong
from remora.serving.args import EndpointArgs
from remora.serving.canary.sticky import client_of
from remora.serving.canary.traffic import CanaryTraffic
from remora.serving.completion import engine_requests
from remora.serving.engines.protocol import Delta, Draining, OtherVersion, ReplicasDied, ServingEngine
from remora.serving.fetch import Fetcher
from remora.serving.front import SEED
from remora.serving.messages import shows_pictures
from remora.serving.openai_api import ChatRequest, Refusal, read_request, too_large
from remora.serving.picture_pool import shared
from remora.serving.relay import BODY
from remora.serving.responses import Head, events, whole
from remora.serving.tracer import Tracer
from remora.serving.versions import VersionChoice, VersionTable

if TYPE_CHECKING:
    from remora import inference
    from remora.serving.champion import ModelFacts

LOG = logging.getLogger(__name__)
T = TypeVar("T")
Ts = TypeVarTuple("Ts")
AT_ONCE = 8 * 2**10
"""Bytes of a request that is read in the event loop, within a millisecond."""
GONE = 499
"""nginx's status for a client that closed its connection; nobody reads it."""
VERSIONS = 10
"""Times that a request is given to another version because its own is retired before it begins."""


class Chat:
    """The route's work, for the models of a table, with an engine for each, by the model's name."""

    def __init__(
        self,
        args: EndpointArgs,
        table: Callable[[], VersionTable],
        engines: Mapping[str, ServingEngine],
        tracer: Tracer | None = None,
        canary: CanaryTraffic | None = None,
    ) -> None:
        self.args, self.table, self.engines, self.tracer, self.canary = args, table, engines, tracer, canary
        self._fetcher = Fetcher(args.image_hosts, args.limits) if args.image_hosts else None
        self._readers = ThreadPoolExecutor(2, thread_name_prefix="read")
        limits, processes = args.limits, args.ingress.picture_processes
        self.pictures = shared(processes, limits.decode_seconds, limits.decode_bytes)
        # Threads of their own, so that slow pictures hold up no text.
        self._viewers = ThreadPoolExecutor(processes, thread_name_prefix="pictures")
        self._viewed = 0
        if canary is not None:
            canary.decode = self.pictures.decode

    async def complete(self, http: Request) -> Response:
        """Answers to a conversation with pictures, as OpenAI's chat completions."""
        _check_media_type(http)
        body = await read_body(http, self.args.limits.max_body_bytes)
        if not body and "upgrade" in http.headers:  # a server that switched protocols has lost it: see front.py
            raise Refusal("the body was lost with an offer to upgrade; speak HTTP/1.1 without one", code="no_body")
        http.state.short = len(body) <= AT_ONCE
        request, client = await self._beside(http, self._parsed, body, getattr(http.state, "key_name", None))
        seed = http.headers.get(SEED, "")
        if request.seed is None and seed.isdecimal() and len(seed) <= 10:
            request = request.model_copy(update={"seed": int(seed)})
        if self._fetcher is not None:
            await self._fetcher.fill(request.messages)
        for _ in range(VERSIONS):
            try:
                return await self._tried(http, request, self.table().choose(request.model, client))
            except OtherVersion:
                continue
            except TooLong as e:
                # Clients recognise this wording (litellm, LangChain).
                raise Refusal(
                    f"This model's maximum context length is {e.holds} tokens. However, your messages resulted in "
                    f"{e.prompt} tokens; shorten the conversation",
                    code="context_length_exceeded",
                    param="messages",
                ) from None
            except DataError as e:
                raise Refusal(str(e), code="invalid_conversation", param="messages") from None
            except (Draining, ReplicasDied) as e:
                code = "not_ready" if isinstance(e, Draining) else "replica_died"
                raise Refusal(f"{e}; try again in 1 s", status=503, code=code, retry_after=1) from None
        raise Refusal("the endpoint changes its model; try again in 1 s", status=503, code="not_ready", retry_after=1)

    def _parsed(self, body: bytes, key_name: str | None) -> tuple[ChatRequest, str]:
        """A request, and who sends it, as far as a canary needs that."""
        request = read_request(body, tuple(self.table().names()), self.args.limits)
        if self.canary is None:
            return request, ""
        user = (request.model_extra or {}).get("user")
        return request, client_of(self.canary.plan.sticky, key_name, user, request.messages)

    async def _tried(self, http: Request, request: ChatRequest, choice: VersionChoice) -> Response:
        """The response of the chosen version, or the stable one's if a version on trial has none."""
        if not choice.on_trial:
            return await self._answered(http, request, choice)
        try:
            return await self._answered(http, request, choice)
        except OtherVersion:
            raise
        except Exception as error:  # noqa: BLE001 (the stable version says what is wrong with the request, if anything)
            LOG.warning("version %s on trial has no answer (%s)", choice.version.version, type(error).__name__)
            if self.canary is not None:
                self.canary.counts.rescued += 1
            return await self._answered(http, request, VersionChoice(choice.model, choice.model.stable))

    async def _answered(self, http: Request, request: ChatRequest, choice: VersionChoice) -> Response:
        """The response of one version. Until there is something to send, a failure is raised."""
        began, facts = time.time_ns(), choice.version.facts
        asked, engine = await self._read(http, request, facts), self.engines[choice.model.model]
        streams = [engine.submit(one) for one in asked]
        if self.canary is not None:
            streams[0] = self.canary.watched(choice, request, asked[0], streams[0])
        deltas = side_by_side(streams)
        head = Head(facts.name, choice.fingerprint)
        if self.tracer is not None:
            told = head.system_fingerprint, http.headers.get("x-request-id")
            deltas = self.tracer.followed(deltas, request, began, *told)
        if not request.stream:
            answers = await while_connected(http, _complete(deltas, len(asked)))
            return Response(status_code=GONE) if answers is None else JSONResponse(whole(head, answers))
        first = await while_connected(http, _first(deltas))
        if first is None:
            return Response(status_code=GONE)
        sent = events(head, _before(first, deltas), len(asked), request.includes_usage, request.counts_along)
        return StreamingResponse(sent, media_type="text/event-stream", headers={"cache-control": "no-cache"})

    async def _beside(self, http: Request, work: Callable[[*Ts], T], *args: *Ts) -> T:
        """The result of reading a part of a request: in a thread beside, unless the request is too short to hold up
        others."""
        if http.state.short:
            return work(*args)
        return await asyncio.get_running_loop().run_in_executor(self._readers, work, *args)

    async def _read(self, http: Request, request: ChatRequest, facts: ModelFacts) -> tuple[inference.Request, ...]:
        run, limits = asyncio.get_running_loop().run_in_executor, self.args.limits
        if not shows_pictures(request.messages):
            return await self._beside(http, engine_requests, request, limits, facts)
        ingress = self.args.ingress
        if self._viewed >= ingress.picture_processes + ingress.waiting_pictures:
            raise Refusal(
                "as many requests with images wait as may; try again in 1 s",
                status=429,
                code="overloaded",
                retry_after=1,
            )
        self._viewed += 1
        try:
            return await run(self._viewers, engine_requests, request, limits, facts, self.pictures.decode)
        finally:
            self._viewed -= 1


async def side_by_side(streams: Sequence[AsyncGenerator[Delta, None]]) -> AsyncGenerator[tuple[int, Delta], None]:
    """The deltas of several answers as they come, each with its answer's number. The first failure ends all."""
    # One waits: a slow client gets several tokens a delta.
    arrived: asyncio.Queue[tuple[int, Delta] | Exception] = asyncio.Queue(1)

    async def read(number: int, stream: AsyncGenerator[Delta, None]) -> None:
        try:
            async with aclosing(stream):
                async for delta in stream:
                    await arrived.put((number, delta))
        except Exception as error:  # noqa: BLE001 (raised below)
            await arrived.put(error)

    tasks = [asyncio.create_task(read(number, stream)) for number, stream in enumerate(streams)]
    try:
        unfinished = len(streams)
        while unfinished:
            found = await arrived.get()
            if isinstance(found, Exception):
                raise found
            unfinished -= found[1].finish_reason is not None
            yield found
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def while_connected(http: Request, work: Coroutine[None, None, T]) -> T | None:
    """The result of some work, or None if the client goes first: then the work is cancelled."""
    working, gone = asyncio.create_task(work), asyncio.create_task(_disconnected(http))
    try:
        await asyncio.wait({working, gone}, return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else None
    finally:
        for task in (working, gone):
            task.cancel()
        await asyncio.gather(working, gone, return_exceptions=True)


async def _disconnected(http: Request) -> None:
    while (await http.receive())["type"] != "http.disconnect":
        pass


async def _complete(deltas: AsyncGenerator[tuple[int, Delta], None], choices: int) -> list[Delta]:
    answers: dict[int, Delta] = {}
    async with aclosing(deltas):
        async for number, delta in deltas:
            answers[number] = answers[number] + delta if number in answers else delta
    return [answers[number] for number in range(choices)]


async def _first(deltas: AsyncGenerator[tuple[int, Delta], None]) -> tuple[int, Delta]:
    return await anext(deltas)


async def _before(
    first: tuple[int, Delta], rest: AsyncGenerator[tuple[int, Delta], None]
) -> AsyncIterator[tuple[int, Delta]]:
    async with aclosing(rest):
        yield first
        async for each in rest:
            yield each


def _check_media_type(request: Request) -> None:
    """Require JSON or no media type. Foreign pages may make a browser send other types without asking."""
    kind = request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    if kind != "application/json" and not kind.endswith("+json"):
        raise Refusal(
            f"content-type is {kind[:80]!r}; send application/json", status=415, code="unsupported_media_type"
        )


async def read_body(request: Request, limit: int) -> bytes:
    """The body, never holding much more than `limit` bytes of it.

    Raises:
        Refusal: 413, before the body is read where its length is declared.
    """
    along = request.scope.get(BODY)
    if isinstance(along, bytes):
        if len(along) > limit:
            raise too_large(limit, str(len(along)))
        return along
    declared, body = request.headers.get("content-length"), bytearray()
    if declared is None or not declared.isdecimal() or int(declared) <= limit:
        async for chunk in request.stream():
            body += chunk
            if len(body) > limit:
                break
        else:
            return bytes(body)
    raise too_large(limit, declared)
