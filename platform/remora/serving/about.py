"""What the endpoint says of itself: its models with their scores, its version with its lineage, whether it is ready."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from fastapi import FastAPI
from fastapi.responses import JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST

from remora import __version__
from remora.serving.args import EndpointArgs
from remora.serving.champion import ModelFacts
from remora.serving.front import KEYS
from remora.serving.metrics import MeteredEngine, PrometheusRecorder
from remora.serving.openai_api import Refusal


def about(
    app: FastAPI,
    args: EndpointArgs,
    facts: Callable[[], ModelFacts],
    engine: MeteredEngine,
    recorder: PrometheusRecorder,
) -> None:
    """Add the routes to `app`."""
    started = int(time.time())

    def card(name: str) -> dict[str, object]:
        of = facts()
        metadata: dict[str, object] = {
            "registered": args.model,
            "alias": args.alias,
            "version": of.version,
            "run_id": of.run_id,
            "name": of.name,
            "names": list(args.names(of.name)),
            "max_length": of.max_length,
            "chosen_by": of.lineage.chosen_by,
            "scores": of.lineage.scores_body(),
        }
        return {"id": name, "object": "model", "created": started, "owned_by": "remora", "metadata": metadata}

    @app.get("/v1/models", response_model=None)
    async def models() -> JSONResponse:
        return JSONResponse({"object": "list", "data": [card(name) for name in args.names(facts().name)]})

    @app.get("/v1/models/{name:path}", response_model=None)
    async def model(name: str) -> JSONResponse:
        names = args.names(facts().name)
        if name not in names:
            raise Refusal(
                f"model {name[:80]!r} is not served here; served: {', '.join(names)}",
                status=404,
                code="model_not_found",
                param="model",
            )
        return JSONResponse(card(name))

    @app.get("/version", response_model=None)
    async def version() -> JSONResponse:
        of = facts()
        lineage = {"run_id": of.run_id, "weights": of.lineage.weights, "stages": list(of.lineage.stages)}
        return JSONResponse(
            {
                "remora": __version__,
                "model": args.model,
                "version": of.version,
                "name": of.name,
                "system_fingerprint": f"{args.model}@{of.version}",
                # Each counts by itself; a cluster without keys in its proxies leaves it to the ingress replicas.
                "key_limits_of": "proxy" if os.environ.get(KEYS) else "ingress replica",
                "lineage": {**lineage, "data": dict(of.lineage.data)},
            }
        )

    @app.get("/healthz", response_model=None)
    async def healthz() -> JSONResponse:
        return JSONResponse({"status": "ok", "model": facts().name, "version": facts().version})

    @app.get("/readyz", response_model=None)
    async def readyz() -> JSONResponse:
        if engine.stats.stalled_s > args.stalled_seconds or not await engine.ready():
            raise Refusal(
                "the model takes no request now; try again in 10 s", status=503, code="not_ready", retry_after=10
            )
        return JSONResponse({"status": "ready", "model": facts().name, "version": facts().version})

    @app.get("/metrics", response_model=None)
    async def metrics() -> Response:
        engine.sample()
        return Response(recorder.text(), media_type=CONTENT_TYPE_LATEST)
