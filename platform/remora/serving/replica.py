"""Engine replicas: each has a version of a model. A version's replicas are a Serve application of their own, without a
route (`ServeDock`), so that versions come and go beside each other."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
import time
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing

from ray import serve
from ray.serve import Deployment
from ray.serve.handle import DeploymentHandle
from ray.serve.schema import ApplicationStatus, ApplicationStatusOverview

from remora import __version__
from remora.carrier import carried, unpack
from remora.errors import DataError, ServingError
from remora.inference.requests import Request
from remora.serving.args import EndpointArgs, IngressArgs
from remora.serving.champion import ModelFacts, ModelLoader, ModelSource, hold
from remora.serving.engines.chosen import engine_of
from remora.serving.engines.protocol import Draining, ModelFailure, OtherVersion, VersionedRequest
from remora.serving.engines.remote import EngineItem, RemoteEngine
from remora.serving.engines.spaced import STREAMED_S, WHOLE_S, spaced
from remora.serving.exported import ServeRecorder
from remora.serving.fleet import AppState
from remora.serving.metrics import MeteredEngine
from remora.serving.probe import probe
from remora.serving.routing import LOAD

LOG = logging.getLogger(__name__)
REQUEST_TIMEOUT_S = 120.0
"""The proxy's timeout for a request."""
GRACE_S = REQUEST_TIMEOUT_S + 10
"""A stopping replica finishes its requests first, so this must exceed the longest of them."""
PLACES = 10_000
"""Requests that Serve gives an engine replica. What waits for an engine waits in it, in order, and is bounded by the
places of ingress replicas: Serve's router looks for a free place every 0.5 s, and newer requests overtake."""
REPORT_S = 1.0
"""Seconds between two reports of a replica's load to those who choose one."""
HEALTH_PERIOD_S = 2
"""Seconds between two checks of a replica. With Serve's 10 s a dead one would be noticed that much later."""
APART = "--"
"""Between an endpoint's name and that of a version: `remora--remora@3--1f2e3d4c`."""
OURS = {
    *("keys", "no_keys", "cors_origins", "image_hosts", "limits", "ingress", "max_queued_requests", "trace"),
    *("models", "alias", "version", "follow", "follow_seconds", "load_seconds", "canary"),
}
"""Settings that are none of an engine replica's: it need not be replaced when they change."""


class ModelReplica:
    """One engine replica: a version of a model and the engine that runs it."""

    def __init__(self, args: EndpointArgs, load: ModelLoader) -> None:
        import torch

        log_with_serve()
        torch.set_num_threads(max(1, int(args.num_cpus)))
        self._stalled_s = args.stalled_seconds
        assert args.runs is not None, "resolved at deployment"
        with carried(args.runs / "logs"):
            model = load(args)
            self._held = hold(model.folder, args.runs)
            self._facts, self._engine = model.facts, engine_of(args, model)
            # Its first answer, so that no client waits for what that sets up. In a thread: a loop runs in this one.
            ThreadPoolExecutor(1).submit(asyncio.run, probe(self._engine, self._facts)).result()
        self._metered = MeteredEngine(self._engine, ServeRecorder(args.model), args.cache_bytes)

    def facts(self) -> ModelFacts:
        return self._facts

    async def submit(self, request: Request) -> AsyncGenerator[EngineItem, None]:
        """An answer's deltas, or why there is none (`EngineItem`). Closing the stream cancels the request."""
        if isinstance(request, VersionedRequest) and request.version != self._facts.version:
            yield OtherVersion(f"the version here is {self._facts.version}")
            return
        whole = isinstance(request, VersionedRequest) and not request.streamed
        try:
            async with aclosing(spaced(self._metered.submit(request), WHOLE_S if whole else STREAMED_S)) as deltas:
                async for delta in deltas:
                    yield delta
        except (DataError, Draining) as error:
            yield error
        except Exception as error:
            LOG.exception("a request failed")
            yield ModelFailure(type(error).__name__)

    def record_routing_stats(self) -> dict[str, int]:
        """For Serve, which gives it to `PictureRouter`."""
        load = self._engine.stats.load
        return {LOAD: load.running + load.waiting}

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


def replicas_of(kind: type, of: EndpointArgs | IngressArgs, initial: int | None = None) -> Deployment:
    """What engine and ingress replicas have in common: how many there are, how they scale, are checked and stop."""
    first = {} if initial is None else {"initial_replicas": max(of.min_replicas, min(initial, of.max_replicas))}
    return serve.deployment()(kind).options(
        autoscaling_config={
            "min_replicas": of.min_replicas,
            "max_replicas": of.max_replicas,
            "target_ongoing_requests": max(1, of.max_ongoing_requests / 2),
            **first,
        },
        max_ongoing_requests=of.max_ongoing_requests,
        health_check_period_s=HEALTH_PERIOD_S,
        graceful_shutdown_timeout_s=GRACE_S,
        # Serve's 3 tries per replica cost tens of seconds, and a model that fails to load fails again.
        max_constructor_retry_count=of.min_replicas + 1,
    )


class ServeDock:
    """A `Dock` on Serve, for the endpoint of this name."""

    def __init__(self, endpoint: str) -> None:
        self._endpoint = endpoint

    def name(self, source: ModelSource, version: str) -> str:
        """By the model, the version and whatever else decides what its replicas do."""
        settings = source.args.model_dump_json(exclude=OURS)
        digest = hashlib.sha256(f"{__version__} {version} {settings}".encode()).hexdigest()[:8]
        model = re.sub(r"[^\w.-]", "_", source.args.model, flags=re.ASCII)[:40]
        return f"{self._endpoint}{APART}{model}@{version}{APART}{digest}"

    def apps(self) -> dict[str, AppState]:
        found = _versions(self._endpoint)
        return {name: _state(app) for name, app in found.items() if app.status != ApplicationStatus.DELETING}

    def deploy(self, app: str, args: EndpointArgs, load: ModelLoader, beside: str | None) -> None:
        end = time.monotonic() + GRACE_S
        there = serve.status().applications
        while app in there and time.monotonic() < end:  # the same version was stopped a moment ago
            time.sleep(0.2)
            there = serve.status().applications
        initial = None if beside is None else _replicas(there.get(beside))
        serve.run_many(
            [serve.RunTarget(engines(args, load, initial), name=app, route_prefix=None)],
            wait_for_applications_running=False,
        )

    def delete(self, app: str) -> None:
        delete_app(app)

    async def facts(self, app: str) -> ModelFacts:
        found = await self._handle(app).options(method_name="facts").remote()
        assert isinstance(found, ModelFacts)
        return found

    def engine(self, app: str) -> RemoteEngine:
        return RemoteEngine(self._handle(app))

    def _handle(self, app: str) -> DeploymentHandle[object]:
        return engine_handle(app)


def log_with_serve() -> None:
    """Have this process's replica write what Remora logs into its log of Serve (logs/serve/ of Ray's session)."""
    for handler in logging.getLogger("ray.serve").handlers:
        logging.getLogger("remora").addHandler(handler)


def engine_handle(app: str) -> DeploymentHandle[object]:
    return serve.get_deployment_handle(ModelReplica.__name__, app)


def engines(args: EndpointArgs, load: ModelLoader, initial: int | None = None) -> serve.Application:
    """The application of a version's replicas."""
    deployment = replicas_of(ModelReplica, args, initial).options(
        max_ongoing_requests=PLACES,
        request_router_config={
            "request_router_class": "remora.serving.routing.PictureRouter",
            "request_router_kwargs": {"num_fallback_replicas": args.max_replicas, "full": args.max_ongoing_requests},
            "request_routing_stats_period_s": REPORT_S,
        },
        ray_actor_options={"num_cpus": args.num_cpus, "num_gpus": args.num_gpus},
        # Of requests the ingress replicas and the proxy have a line each; a third costs a fifth of what an engine
        # replica does for a short answer beside its model.
        logging_config={"enable_access_log": False},
    )
    return deployment.bind(args, load)


def delete_app(name: str) -> None:
    """Delete an application, and wait until its replicas have finished their requests."""
    end = time.monotonic() + GRACE_S
    while True:
        try:
            return serve.delete(name)
        except TimeoutError:  # serve.delete itself gives up after 60 s; requests may take longer
            if time.monotonic() > end:
                return


def delete_versions(endpoint: str) -> None:
    """Delete whatever versions of an endpoint there are."""
    for name in _versions(endpoint):
        delete_app(name)


def _versions(endpoint: str) -> dict[str, ApplicationStatusOverview]:
    found = serve.status().applications
    return {name: app for name, app in found.items() if name.startswith(f"{endpoint}{APART}")}


def _state(app: ApplicationStatusOverview) -> AppState:
    since = app.last_deployed_time_s
    if app.status == ApplicationStatus.RUNNING:
        return AppState(up=True, since=since)
    if app.status != ApplicationStatus.DEPLOY_FAILED:  # also UNHEALTHY: Serve replaces its replicas
        return AppState(since=since)
    told = [each.message for each in app.deployments.values()]
    error = unpack(app.message, *told)
    return AppState(failed=error or ServingError(" ".join(" ".join((*told, app.message)).split())[:200]), since=since)


def _replicas(app: ApplicationStatusOverview | None) -> int | None:
    states = {} if app is None else app.deployments[ModelReplica.__name__].replica_states
    return next((count for state, count in states.items() if state == "RUNNING"), None)
