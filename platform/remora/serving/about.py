"""What the endpoint says of itself: its models with their scores, its version with its lineage, whether it is ready."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict

from fastapi import FastAPI
from fastapi.responses import JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST

from remora import __version__
from remora.serving.args import EndpointArgs
from remora.serving.auth import HEALTH
from remora.serving.canary.told import CanaryGauges, canary_body
from remora.serving.canary.traffic import CanaryTraffic
from remora.serving.front import KEYS
from remora.serving.metrics import MeteredEngine, PrometheusRecorder
from remora.serving.openai_api import Refusal
from remora.serving.versions import ModelVersions, VersionTable


def about(
    app: FastAPI,
    args: EndpointArgs,
    table: Callable[[], VersionTable],
    engines: Mapping[str, MeteredEngine],
    recorder: PrometheusRecorder,
    canary: CanaryTraffic | None = None,
) -> None:
    """Add the routes to `app`."""
    started = int(time.time())
    gauges = CanaryGauges(recorder.registry, args.model) if canary is not None else None

    def card(name: str, names: Mapping[str, ModelVersions]) -> dict[str, object]:
        model = names[name]
        of = model.stable.facts
        metadata: dict[str, object] = {
            "registered": model.model,
            "alias": model.alias,
            "version": of.version,
            "run_id": of.run_id,
            "name": of.name,
            "names": [name for name, one in names.items() if one is model],
            "max_length": of.max_length,
            "chosen_by": of.lineage.chosen_by,
            "scores": of.lineage.scores_body(),
        }
        return {"id": name, "object": "model", "created": started, "owned_by": "remora", "metadata": metadata}

    @app.get("/v1/models", response_model=None)
    async def models() -> JSONResponse:
        """What is served: each model with its names, version, scores and lineage."""
        names = table().names()
        return JSONResponse({"object": "list", "data": [card(name, names) for name in names]})

    @app.get("/v1/models/{name:path}", response_model=None)
    async def model(name: str) -> JSONResponse:
        """One of these, by any of its names."""
        names = table().names()
        if name not in names:
            raise Refusal(
                f"model {name[:80]!r} is not served here; served: {', '.join(names)}",
                status=404,
                code="model_not_found",
                param="model",
            )
        return JSONResponse(card(name, names))

    @app.get("/version", response_model=None)
    async def version() -> JSONResponse:
        """Remora's version, the model's with what it was trained on, those that drain, and why one was refused."""
        first, *further = (_version_body(model) for model in table().models)
        if canary is not None:
            await canary.refresh()
            first["canary"] = canary_body(table().models[0], canary)
        # Each counts by itself; a cluster without keys in its proxies leaves it to the ingress replicas.
        here = None if args.keys is None else "ingress replica"
        limits = {"key_limits_of": "proxy" if os.environ.get(KEYS) else here}
        models = {"models": [first, *further]} if further else {}
        return JSONResponse({"remora": __version__, **limits, **first, **models})

    async def healthz() -> JSONResponse:
        """200 while an ingress replica lives, also when all are full."""
        return JSONResponse({"status": "ok", **_first(table())})

    for path in HEALTH:
        app.add_api_route(path, healthz, methods=["GET"], response_model=None)

    @app.get("/readyz", response_model=None)
    async def readyz() -> JSONResponse:
        """200 while a replica of each kind would take a request now; else 503."""
        for engine in engines.values():
            if engine.stats.stalled_s > args.stalled_seconds or not await engine.ready():
                raise Refusal(
                    "the model takes no request now; try again in 10 s", status=503, code="not_ready", retry_after=10
                )
        return JSONResponse({"status": "ready", **_first(table())})

    @app.get("/metrics", response_model=None)
    async def metrics() -> Response:
        """Figures in the format of Prometheus."""
        for engine in engines.values():
            engine.sample()
        if canary is not None and gauges is not None:
            await canary.refresh()
            gauges.sample(canary)
        return Response(recorder.text(), media_type=CONTENT_TYPE_LATEST)


def _first(table: VersionTable) -> dict[str, object]:
    of = table.models[0].stable.facts
    return {"model": of.name, "version": of.version}


def _version_body(model: ModelVersions) -> dict[str, object]:
    of = model.stable.facts
    lineage = {"run_id": of.run_id, "weights": of.lineage.weights, "stages": list(of.lineage.stages)}
    return {
        "model": model.model,
        "version": of.version,
        "name": of.name,
        "system_fingerprint": model.fingerprint(of.version),
        "lineage": {**lineage, "data": dict(of.lineage.data)},
        "draining": [one.version for one in model.retired],
        "refused": None if model.refused is None else asdict(model.refused),
    }
