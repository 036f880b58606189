"""The Serve application: ingress replicas with OpenAI's API, and one `ModelFleet`, which brings up the versions of the
models beside it (replica.py) and says which of them answer.

serve deploy serve/local.yaml         # import_path: remora.serving.app:build
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from contextvars import Context

from fastapi import FastAPI
from ray import serve
from ray.serve.config import BackpressureConfig
from ray.serve.handle import DeploymentHandle
from ray.serve.schema import ApplicationStatus

from remora.carrier import carried
from remora.serving import champion
from remora.serving.api import api
from remora.serving.args import EndpointArgs
from remora.serving.canary.args import CanaryArgs
from remora.serving.canary.candidate import candidate_of
from remora.serving.canary.course import CanaryState
from remora.serving.canary.observed import Comparison
from remora.serving.canary.trial import CanaryTrial, CandidateSource
from remora.serving.champion import ModelSource
from remora.serving.engines.remote import RemoteEngine
from remora.serving.engines.versions import VersionsEngine
from remora.serving.fleet import Fleet
from remora.serving.relay import LATER
from remora.serving.replica import (
    GRACE_S,
    HEALTH_PERIOD_S,
    ServeDock,
    delete_versions,
    engine_handle,
    log_with_serve,
    replicas_of,
)
from remora.serving.versions import ModelVersions, RunningVersion, VersionTable

LOG = logging.getLogger(__name__)
BACKOFF_S = 0.05
"""Longest pause of Serve's router between two looks for a free place. With its 0.5 s a full endpoint answers four
requests a second, whatever it can do."""
REPORT_S = 0.5
"""Seconds between two reports of an ingress replica to the fleet: how late it takes a new version at most."""


class ModelFleet:
    """The only one that watches the aliases, brings versions up and stops them. One replica; if it dies, the endpoint
    goes on with the versions that it has, and the next one takes them over."""

    def __init__(
        self, sources: Sequence[ModelSource], candidate: CandidateSource | None = None, plan: CanaryArgs | None = None
    ) -> None:
        log_with_serve()
        self._app = serve.get_replica_context().app_name
        self._fleet = Fleet(sources, ServeDock(self._app))
        self._trial = None if candidate is None or plan is None else CanaryTrial(self._fleet, candidate, plan)
        self._loop: asyncio.AbstractEventLoop | None = None
        began: Future[None] = Future()
        # A loop of its own: a Fleet waits for registries and for Serve, and reports must not wait for it.
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run(began)), name="fleet", daemon=True)
        runs = sources[0].args.runs
        assert runs is not None, "resolved at deployment"
        with carried(runs / "logs"):
            self._thread.start()
            began.result()

    async def _run(self, began: Future[None]) -> None:
        try:
            await self._fleet.begin()
        except BaseException as error:  # noqa: BLE001 (raised in the constructor)
            return began.set_exception(error)
        self._loop = asyncio.get_running_loop()
        began.set_result(None)
        if self._trial is not None:
            self._beginning = asyncio.create_task(self._begin(self._trial))
        while True:
            try:
                await self._fleet.follow()
            except Exception:
                LOG.exception("the fleet failed, and goes on")

    async def _begin(self, trial: CanaryTrial) -> None:
        try:
            await trial.begin()
        except Exception:
            LOG.exception("the canary could not be begun; the endpoint goes on without it")

    def report(self, ingress: str, number: int, busy: frozenset[str]) -> VersionTable:
        """`Fleet.report`"""
        return self._fleet.report(ingress, number, busy)

    async def judge(self, comparisons: Sequence[Comparison]) -> CanaryState:
        """`CanaryJudge.record`"""
        assert self._trial is not None and self._loop is not None, "an ingress replica has a canary"
        recorded = asyncio.run_coroutine_threadsafe(self._trial.record(comparisons), self._loop)
        return await asyncio.wrap_future(recorded)

    def check_health(self) -> None:
        if not self._thread.is_alive():
            raise RuntimeError("the fleet's thread has ended")

    def __del__(self) -> None:
        """Serve calls it when this replica stops. If the whole endpoint does, its versions end with it, after the
        ingress replicas have answered the last request."""
        end = time.monotonic() + GRACE_S
        while True:
            app = serve.status().applications.get(self._app)
            if app is not None and app.status != ApplicationStatus.DELETING:
                return
            ingress = None if app is None else app.deployments.get(Endpoint.__name__)
            if ingress is None or not any(ingress.replica_states.values()) or time.monotonic() > end:
                return delete_versions(self._app)
            time.sleep(0.2)


class FleetJudge:
    """The `CanaryJudge` that the fleet has."""

    def __init__(self, handle: DeploymentHandle[object]) -> None:
        self._handle = handle

    async def record(self, comparisons: Sequence[Comparison]) -> CanaryState:
        state = await Context().run(self._handle.remote, list(comparisons))
        assert isinstance(state, CanaryState)
        return state


@serve.ingress()
class Endpoint:
    """One ingress replica: keys, parsing, decoding of pictures, and answers in OpenAI's form. It has no model."""

    def __init__(self, args: EndpointArgs, fleet: DeploymentHandle[object]) -> None:
        log_with_serve()
        self._args, self._fleet = args, fleet.options(method_name="report")
        self._judge = FleetJudge(fleet.options(method_name="judge"))
        self._name = f"{serve.get_replica_context().replica_tag} {os.getpid()}"
        self._table = VersionTable(0, ())
        self._engines: dict[str, VersionsEngine] = {}

    async def __serve_build_asgi_app__(self) -> FastAPI:
        # Built in the replica. `serve.ingress(app)` would pickle a FastAPI object by value while this class is being
        # defined: string annotations and later definitions of the module are lost (Ray 2.60).
        await self._report()  # once the fleet has brought up the models
        self._engines = {model.model: self._engine(model.model) for model in self._table.models}
        self._follows = asyncio.create_task(self._follow())
        return api(self._args, lambda: self._table, self._engines, self._judge)

    def _engine(self, model: str) -> VersionsEngine:
        def versions() -> ModelVersions:
            return next(one for one in self._table.models if one.model == model)

        def connect(running: RunningVersion) -> RemoteEngine:
            return RemoteEngine(engine_handle(running.app))

        return VersionsEngine(versions, connect)

    async def _report(self) -> None:
        busy = frozenset[str]().union(*(engine.busy for engine in self._engines.values()))
        # In a context of its own, as the engine's calls (engines/remote.py).
        table = await Context().run(self._fleet.remote, self._name, self._table.number, busy)
        assert isinstance(table, VersionTable)
        if table.number > self._table.number:
            self._table = table

    async def _follow(self) -> None:
        """Take the fleet's table as it changes. While there is no fleet the last one stays."""
        there = True
        while True:
            await asyncio.sleep(REPORT_S)
            try:
                await self._report()
                there = True
            except Exception as e:  # noqa: BLE001 (it follows on, whatever it is)
                if there:
                    LOG.warning("the fleet does not answer (%s); the versions stay as they are", type(e).__name__)
                there = False


def application(
    args: EndpointArgs, sources: Sequence[ModelSource] | None = None, candidate: CandidateSource | None = None
) -> serve.Application:
    """The application for `args` and, if they are not those of the registry, for these models and this candidate.

    Raises:
        SpecError: neither keys nor `no_keys`.
        RemoraError: as `candidate_of`, if there is a canary and no `candidate`.
    """
    args.check_keys()
    args = args.resolved()
    sources = sources or champion.sources(args)
    if args.canary is not None and candidate is None:
        candidate = candidate_of(args, sources[0])
    fleet = serve.deployment()(ModelFleet).options(
        num_replicas=1,
        max_ongoing_requests=1000,
        health_check_period_s=HEALTH_PERIOD_S,
        graceful_shutdown_timeout_s=2 * GRACE_S,  # the ingress replicas' last requests, then its versions'
        max_constructor_retry_count=1,
        max_surge_percent=100,
        ray_actor_options={"num_cpus": 0},
    )
    endpoint = replicas_of(Endpoint, args.ingress).options(
        max_queued_requests=args.max_queued_requests,
        request_router_config={"max_backoff_s": BACKOFF_S},
        backpressure_config=BackpressureConfig(status_code=429, retry_after_s=LATER),
        max_surge_percent=100,
        ray_actor_options={"num_cpus": args.ingress.num_cpus},
    )
    return endpoint.bind(args, fleet.bind(tuple(sources), candidate, args.canary))


def build(args: dict[str, object]) -> serve.Application:
    """The application builder that a Serve config names as `import_path`; `args` are EndpointArgs.

    Raises:
        SpecError: an unknown argument, or a value that breaks a rule.
        TrackingError: there is no such model, alias or version; the running deployment stays.
    """
    read = EndpointArgs.read(args)
    champion.check(read)
    return application(read)
