"""OpenAI's API over one champion, as a FastAPI application. No Ray here: app.py puts it behind Serve's proxy."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from remora.serving.answering import Job, job
from remora.serving.args import EndpointArgs
from remora.serving.champion import Champion
from remora.serving.protocol import (
    ChatResponse,
    Choice,
    ModelCard,
    ModelList,
    Refusal,
    ResponseMessage,
    Usage,
    read_request,
)

if TYPE_CHECKING:
    from remora.inference import Answer

KNOWN = "POST /v1/chat/completions, GET /v1/models, GET /healthz"


def api(args: EndpointArgs, champion: Champion, answer: Callable[[Job], Awaitable[Answer | Refusal]]) -> FastAPI:
    """The routes for `champion`; `answer` is how a decoded request gets its turn on the model."""
    # No /docs: the page would load scripts from a CDN, and the API is OpenAI's.
    app = FastAPI(title="Remora", openapi_url=None)
    app.add_exception_handler(Refusal, _refused)
    app.add_exception_handler(HTTPException, _no_route)
    app.add_exception_handler(Exception, _failed)
    answerer, started = champion.answerer, int(time.time())
    names = tuple(dict.fromkeys((args.model, answerer.name, args.alias)))
    # Two threads: pictures are decoded off the event loop, and few at a time, which bounds their memory.
    decoders = ThreadPoolExecutor(2, thread_name_prefix="decode")

    def decode(body: bytes) -> Job:
        return job(read_request(body, names), args.limits, answerer.max_length)

    @app.post("/v1/chat/completions", response_model=None)
    async def chat(request: Request) -> JSONResponse:
        body = await read_body(request, args.limits.max_body_bytes)
        result = await answer(await asyncio.get_running_loop().run_in_executor(decoders, decode, body))
        if isinstance(result, Refusal):
            raise result
        response = ChatResponse(
            id=f"chatcmpl-{uuid.uuid4().hex}",
            created=int(time.time()),
            model=answerer.name,
            system_fingerprint=f"{args.model}@{champion.version}",
            choices=[Choice(message=ResponseMessage(content=result.text), finish_reason=result.finish_reason)],
            usage=Usage(
                prompt_tokens=result.prompt_tokens,
                completion_tokens=result.completion_tokens,
                total_tokens=result.prompt_tokens + result.completion_tokens,
            ),
        )
        return JSONResponse(response.model_dump())

    @app.get("/v1/models", response_model=None)
    async def models() -> JSONResponse:
        metadata = {
            "registered": args.model,
            "alias": args.alias,
            "version": champion.version,
            "run_id": champion.run_id,
            "names": list(names),
            "max_length": answerer.max_length,
        }
        card = ModelCard(id=answerer.name, created=started, metadata=metadata)
        return JSONResponse(ModelList(data=[card]).model_dump())

    @app.get("/healthz", response_model=None)
    async def healthz() -> JSONResponse:
        return JSONResponse({"status": "ok", "model": answerer.name, "version": champion.version})

    return app


async def read_body(request: Request, limit: int) -> bytes:
    """The body, never holding much more than `limit` bytes of it.

    Raises:
        Refusal: 413, before the body is read where its length is declared.
    """
    declared, body = request.headers.get("content-length"), bytearray()
    if declared is None or int(declared) <= limit:
        async for chunk in request.stream():
            body += chunk
            if len(body) > limit:
                break
        else:
            return bytes(body)
    found = f"has {declared}" if declared else "is longer"
    raise Refusal(f"a request may have {limit} bytes; this one {found}", status=413, code="request_too_large")


async def _refused(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, Refusal)
    return JSONResponse(error.body(), status_code=error.status)


async def _no_route(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    message = f"{error.detail}: {request.method} {request.url.path[:80]}; known: {KNOWN}"
    refusal = Refusal(message, status=error.status_code)
    return JSONResponse(refusal.body(), status_code=error.status_code, headers=error.headers)


async def _failed(_: Request, error: Exception) -> JSONResponse:
    # The traceback goes to the replica's log; a stranger is told no more than the kind.
    refusal = Refusal(f"the model failed with {type(error).__name__}; see the replica's log", status=500)
    return JSONResponse(refusal.body(), status_code=500)
