"""OpenAI's API over one champion, as a FastAPI application. No Ray here: app.py puts it behind Serve's proxy."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from remora.serving.about import about
from remora.serving.args import EndpointArgs
from remora.serving.auth import KeyCheck
from remora.serving.champion import ServedModel
from remora.serving.completion import engine_requests
from remora.serving.fetch import Fetcher
from remora.serving.front import MARK, Facts
from remora.serving.openai_api import (
    ChatRequest,
    ChatResponse,
    Refusal,
    ResponseChoice,
    ResponseMessage,
    Usage,
    read_request,
    too_large,
)
from remora.serving.page import page

if TYPE_CHECKING:
    from remora import inference

Answering = Callable[["tuple[inference.Request, ...]"], Awaitable["list[inference.Answer]"]]
KNOWN = "POST /v1/chat/completions; GET / (a page), /v1/models, /v1/models/{name}, /version, /healthz, /readyz"


def api(args: EndpointArgs, champion: ServedModel, answer: Answering) -> FastAPI:
    """The routes for `champion`; `answer` queues a decoded request for the model and returns its answers."""
    # No /docs: the page would load scripts from a CDN, and the API is OpenAI's.
    app = FastAPI(title="Remora", openapi_url=None)
    app.add_exception_handler(Refusal, _refused)
    app.add_exception_handler(HTTPException, _no_route)
    app.add_exception_handler(Exception, _failed)
    app.add_middleware(KeyCheck, keys=args.keys)  # the one that is added last is the first
    if args.cors_origins:
        origins = list(args.cors_origins)
        app.add_middleware(CORSMiddleware, allow_origins=origins, allow_methods=["*"], allow_headers=["*"])
    app.add_middleware(_Marked, facts=Facts(args.limits.max_body_bytes, args.max_ongoing_requests))
    answerer = champion.answerer
    names = tuple(dict.fromkeys((args.model, answerer.name, args.alias)))
    # Two threads decode pictures and tokenise texts, apart from the event loop and the model's thread; only two, which
    # bounds their memory.
    readers = ThreadPoolExecutor(2, thread_name_prefix="read")

    fetcher = Fetcher(args.image_hosts, args.limits) if args.image_hosts else None

    async def read(body: bytes) -> tuple[ChatRequest, tuple[inference.Request, ...]]:
        run = asyncio.get_running_loop().run_in_executor
        request = await run(readers, read_request, body, names, args.limits)
        if fetcher is not None:
            await fetcher.fill(request.messages)
        return request, await run(readers, engine_requests, request, args.limits, answerer)

    @app.post("/v1/chat/completions", response_model=None)
    async def chat(http: Request) -> Response:
        _check_media_type(http)
        body = await read_body(http, args.limits.max_body_bytes)
        if not body and "upgrade" in http.headers:  # a server that switched protocols has lost it: see front.py
            raise Refusal("the body was lost with an offer to upgrade; speak HTTP/1.1 without one", code="no_body")
        request, asked = await read(body)
        answers = await answer(asked)
        choices = [
            ResponseChoice(index=i, message=ResponseMessage(content=one.text), finish_reason=one.finish_reason)
            for i, one in enumerate(answers)
        ]
        prompt, completion = answers[0].prompt_tokens, sum(one.completion_tokens for one in answers)
        response = ChatResponse(
            id=f"chatcmpl-{uuid.uuid4().hex}",
            created=int(time.time()),
            model=answerer.name,
            system_fingerprint=f"{args.model}@{champion.version}",
            choices=choices,
            usage=Usage(prompt_tokens=prompt, completion_tokens=completion, total_tokens=prompt + completion),
        )
        if request.stream:
            events = response.events(request.includes_usage)
            return Response(events, media_type="text/event-stream", headers={"cache-control": "no-cache"})
        return JSONResponse(response.model_dump())

    about(app, args, champion, names)
    page(app)
    return app


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
    declared, body = request.headers.get("content-length"), bytearray()
    if declared is None or not declared.isdecimal() or int(declared) <= limit:
        async for chunk in request.stream():
            body += chunk
            if len(body) > limit:
                break
        else:
            return bytes(body)
    raise too_large(limit, declared)


class _Marked:
    """Marks every response as a replica's, and tells the front the replica's limits."""

    def __init__(self, app: ASGIApp, facts: Facts) -> None:
        self.app, self.mark = app, facts.written()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def marked(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)[MARK] = self.mark
            await send(message)

        await self.app(scope, receive, marked)


async def _refused(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, Refusal)
    return JSONResponse(error.body(), status_code=error.status, headers=error.headers)


async def _no_route(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    message = f"{error.detail}: {request.method} {request.url.path[:80]}; known: {KNOWN}"
    refusal = Refusal(message, status=error.status_code)
    return JSONResponse(refusal.body(), status_code=error.status_code, headers=error.headers)


async def _failed(_: Request, error: Exception) -> JSONResponse:
    # The traceback goes to the replica's log; clients only get the exception's type.
    refusal = Refusal(f"the model failed with {type(error).__name__}; see the replica's log", status=500)
    return JSONResponse(refusal.body(), status_code=500)
