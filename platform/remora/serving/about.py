"""What the endpoint says of itself: its models with their scores, its version with its lineage, whether it is ready."""

from __future__ import annotations

import time

from fastapi import FastAPI
from fastapi.responses import JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST

from remora import __version__
from remora.serving.args import EndpointArgs
from remora.serving.champion import ServedModel
from remora.serving.metrics import MeteredEngine, PrometheusRecorder
from remora.serving.openai_api import Refusal

STALLED_S = 60.0
"""A model whose step takes longer than this is not ready."""


def about(
    app: FastAPI,
    args: EndpointArgs,
    champion: ServedModel,
    names: tuple[str, ...],
    engine: MeteredEngine,
    recorder: PrometheusRecorder,
) -> None:
    """Add the routes to `app`."""
    answerer, known, started = champion.answerer, champion.lineage, int(time.time())

    def card(name: str) -> dict[str, object]:
        metadata: dict[str, object] = {
            "registered": args.model,
            "alias": args.alias,
            "version": champion.version,
            "run_id": champion.run_id,
            "name": answerer.name,
            "names": list(names),
            "max_length": answerer.max_length,
            "chosen_by": known.chosen_by,
            "scores": known.scores_body(),
        }
        return {"id": name, "object": "model", "created": started, "owned_by": "remora", "metadata": metadata}

    @app.get("/v1/models", response_model=None)
    async def models() -> JSONResponse:
        return JSONResponse({"object": "list", "data": [card(name) for name in names]})

    @app.get("/v1/models/{name:path}", response_model=None)
    async def model(name: str) -> JSONResponse:
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
        lineage = {"run_id": champion.run_id, "weights": known.weights, "stages": list(known.stages)}
        return JSONResponse(
            {
                "remora": __version__,
                "model": args.model,
                "version": champion.version,
                "name": answerer.name,
                "system_fingerprint": f"{args.model}@{champion.version}",
                "lineage": {**lineage, "data": dict(known.data)},
            }
        )

    @app.get("/healthz", response_model=None)
    async def healthz() -> JSONResponse:
        return JSONResponse({"status": "ok", "model": answerer.name, "version": champion.version})

    @app.get("/readyz", response_model=None)
    async def readyz() -> JSONResponse:
        if engine.stats.stalled_s > STALLED_S:
            raise Refusal("the model hangs; try again in 10 s", status=503, code="not_ready", retry_after=10)
        return JSONResponse({"status": "ready", "model": answerer.name, "version": champion.version})

    @app.get("/metrics", response_model=None)
    async def metrics() -> Response:
        engine.sample()
        return Response(recorder.text(), media_type=CONTENT_TYPE_LATEST)
