"""The Serve application: ingress replicas with OpenAI's API, and engine replicas that each hold the model.

serve deploy serve/local.yaml         # import_path: remora.serving.app:build
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

from fastapi import FastAPI
from ray import serve
from ray.serve.config import BackpressureConfig
from ray.serve.handle import DeploymentHandle

from remora.carrier import carried
from remora.errors import DataError
from remora.inference.requests import Request
from remora.serving import champion
from remora.serving.api import api
from remora.serving.args import EndpointArgs, IngressArgs
from remora.serving.champion import ModelFacts, ServedModel
from remora.serving.engines.chosen import engine_of
from remora.serving.engines.protocol import Draining, ModelFailure, VersionedRequest
from remora.serving.engines.remote import EngineItem, RemoteEngine
from remora.serving.exported import ServeRecorder
from remora.serving.metrics import MeteredEngine

LOG = logging.getLogger(__name__)
REQUEST_TIMEOUT_S = 120.0
"""The proxy's timeout for a request."""
GRACE_S = REQUEST_TIMEOUT_S + 10
"""A stopping replica finishes its requests first, so this must exceed the longest of them."""
RETRY_AFTER_S = 2
"""Retry-After of the 429 when the endpoint is full."""
HEALTH_PERIOD_S = 2
"""Seconds between two checks of a replica. With Serve's 10 s a dead one would be noticed that much later."""


@serve.deployment
class ModelReplica:
    """One engine replica: a champion and the engine that runs it."""

    def __init__(self, args: EndpointArgs, load: Callable[[EndpointArgs], ServedModel]) -> None:
        import torch

        torch.set_num_threads(max(1, int(args.num_cpus)))
        self._stalled_s = args.stalled_seconds
        assert args.runs is not None, "resolved at deployment"
        with carried(args.runs / "logs"):
            model = load(args)
            self._engine = engine_of(args, model)
        self._facts = model.facts
        self._metered = MeteredEngine(self._engine, ServeRecorder(args.model), args.cache_bytes)

    def facts(self) -> ModelFacts:
        return self._facts

    async def submit(self, request: Request) -> AsyncGenerator[EngineItem, None]:
        """An answer's deltas, or why there is none (`EngineItem`). Closing the stream cancels the request."""
        if isinstance(request, VersionedRequest) and request.version != self._facts.version:
            yield self._facts
            return
        try:
            async with aclosing(self._metered.submit(request)) as deltas:
                async for delta in deltas:
                    yield delta
        except (DataError, Draining) as error:
            yield error
        except Exception as error:
            LOG.exception("a request failed")
            yield ModelFailure(type(error).__name__)

    def check_health(self) -> None:
        """For Serve, which asks every HEALTH_PERIOD_S, and replaces a replica that fails this three times.

        Raises:
            Draining: the engine's thread hangs. Its requests are given back before.
        """
        self._metered.sample()
        stalled = self._engine.stats.stalled_s
        if stalled > self._stalled_s:
            hangs = Draining(f"the model hangs: a step has taken {stalled:.0f} s")
            self._engine.abandon(hangs)
            raise hangs


@serve.deployment
@serve.ingress()
class Endpoint:
    """One ingress replica: keys, parsing, decoding of pictures, and answers in OpenAI's form. It has no model."""

    def __init__(self, args: EndpointArgs, engine: DeploymentHandle[object]) -> None:
        self._args, self._engine = args, engine

    async def __serve_build_asgi_app__(self) -> FastAPI:
        # Built in the replica. `serve.ingress(app)` would pickle a FastAPI object by value while this class is being
        # defined: string annotations and later definitions of the module are lost (Ray 2.60).
        facts = await self._engine.options(method_name="facts").remote()  # once an engine replica has loaded the model
        assert isinstance(facts, ModelFacts)
        engine = RemoteEngine(self._engine, facts)
        return api(self._args, lambda: engine.facts, engine)


def application(args: EndpointArgs, load: Callable[[EndpointArgs], ServedModel] = champion.load) -> serve.Application:
    """The application for `args`; an engine replica gets its model by `load`.

    Raises:
        SpecError: neither keys nor `no_keys`.
    """
    args.check_keys()
    args = args.resolved()
    engine = ModelReplica.options(  # type: ignore[attr-defined]
        **_replicas(args),
        request_router_config={
            "request_router_class": "remora.serving.routing.PictureRouter",
            # Any other, if a picture's replica is full.
            "request_router_kwargs": {"num_fallback_replicas": args.max_replicas},
        },
        ray_actor_options={"num_cpus": args.num_cpus, "num_gpus": args.num_gpus},
    )
    endpoint = Endpoint.options(  # type: ignore[attr-defined]
        **_replicas(args.ingress),
        max_queued_requests=args.max_queued_requests,
        backpressure_config=BackpressureConfig(status_code=429, retry_after_s=RETRY_AFTER_S),
        ray_actor_options={"num_cpus": args.ingress.num_cpus},
    )
    return endpoint.bind(args, engine.bind(args, load))


def _replicas(of: EndpointArgs | IngressArgs) -> dict[str, object]:
    """What engine and ingress replicas have in common: how many there are, how they scale, are checked and stop."""
    return {
        "autoscaling_config": {
            "min_replicas": of.min_replicas,
            "max_replicas": of.max_replicas,
            "target_ongoing_requests": max(1, of.max_ongoing_requests / 2),
        },
        "max_ongoing_requests": of.max_ongoing_requests,
        "health_check_period_s": HEALTH_PERIOD_S,
        "graceful_shutdown_timeout_s": GRACE_S,
        # Serve's 3 tries per replica cost tens of seconds, and a model that fails to load fails again.
        "max_constructor_retry_count": of.min_replicas + 1,
    }


def build(args: dict[str, object]) -> serve.Application:
    """The application builder that a Serve config names as `import_path`; `args` are EndpointArgs.

    Raises:
        SpecError: an unknown argument, or a value that breaks a rule.
        TrackingError: there is no such model, alias or version; the running deployment stays.
    """
    return application(champion.pinned(EndpointArgs.read(args)))
