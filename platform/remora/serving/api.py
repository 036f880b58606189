"""OpenAI's API over the served models, as a FastAPI application. No Ray here: app.py puts it behind Serve's proxy."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from remora.serving.about import about
from remora.serving.args import EndpointArgs
from remora.serving.auth import KeyCheck
from remora.serving.canary.judge import CanaryJudge
from remora.serving.canary.traffic import CanaryTraffic
from remora.serving.chat import Chat
from remora.serving.engines.protocol import ServingEngine
from remora.serving.metrics import MeteredEngine, PrometheusRecorder, VersionsCollector
from remora.serving.openai_api import CHAT, Refusal
from remora.serving.openapi import describe
from remora.serving.page import page
from remora.serving.relay import MARK, Facts
from remora.serving.responses import failed
from remora.serving.tracer import traced
from remora.serving.versions import VersionTable

KNOWN = (
    "POST /v1/chat/completions; GET / (a page), /v1/models, /v1/models/{name}, /version, /openapi.json, /metrics, "
    "/healthz, /health, /readyz"
)


def api(
    args: EndpointArgs,
    table: Callable[[], VersionTable],
    engines: Mapping[str, ServingEngine],
    judge: CanaryJudge | None = None,
) -> FastAPI:
    """The routes for the models of the table, which may change; `engines` has one for each, by the model's name. With
    `args.canary`, its `judge` gets the comparisons."""
    recorder = PrometheusRecorder(args.model)
    recorder.registry.register(VersionsCollector(table))
    metered = {
        one.model: MeteredEngine(engines[one.model], recorder.beside(one.model), one.cache_bytes) for one in args.each()
    }
    tracer = traced(args) if args.trace else None
    canary = None
    if args.canary is not None and judge is not None:
        canary = CanaryTraffic(args.canary, metered[args.model], judge, args.limits)
    chat = Chat(args, table, metered, tracer, canary)

    @asynccontextmanager
    async def running(_: FastAPI) -> AsyncIterator[None]:
        chat.pictures.start()  # not by the first request
        yield
        chat.pictures.close()
        if tracer is not None:
            tracer.sink.close()

    # No /docs: the page would load scripts from a CDN, and the API is OpenAI's.
    app = FastAPI(title="Remora", openapi_url=None, lifespan=running)
    app.add_exception_handler(Refusal, _refused)
    app.add_exception_handler(HTTPException, _no_route)
    app.add_exception_handler(Exception, _failed)
    app.add_middleware(KeyCheck, keys=args.keys)  # the one that is added last is the first
    if args.cors_origins:
        origins = list(args.cors_origins)
        app.add_middleware(CORSMiddleware, allow_origins=origins, allow_methods=["*"], allow_headers=["*"])
    app.add_middleware(_Marked, facts=Facts.of(args))
    app.add_api_route(CHAT, chat.complete, methods=["POST"], response_model=None)
    about(app, args, table, metered, recorder, canary)
    page(app)
    describe(app)
    return app


class _Marked:
    """Marks every response as an ingress replica's, and tells the front its limits."""

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
    return JSONResponse(failed(error).body(), status_code=500)
