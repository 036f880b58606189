"""What an endpoint serves, and how it moves on: a version comes up beside the one that answers, and takes over.

    fleet = Fleet(sources, dock)
    await fleet.begin()        # the first version of each model
    await fleet.follow()       # for ever: looks where the aliases point, every few seconds
    fleet.table                # what ingress replicas go by

A new version is loaded by replicas of its own, warmed up, and asked a question. Only then does it take requests, and
the version before it finishes what it has begun. One that cannot be loaded, or does not answer, changes nothing: it is
told once, and tried again later, in case that its files or the room for it were missing.

There is one Fleet for all ingress replicas (`ModelFleet` in app.py), and what it deploys survives it. No Ray here: a
`Dock` has the replicas.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from remora.errors import MissingVersion, RemoraError, ServingError
from remora.serving.args import EndpointArgs
from remora.serving.champion import ModelFacts, ModelLoader, ModelSource
from remora.serving.engines.protocol import ServingEngine
from remora.serving.probe import probe
from remora.serving.versions import ModelVersions, RefusedVersion, RunningVersion, TrialVersion, VersionTable

LOG = logging.getLogger(__name__)
AGAIN_S = 60.0
"""Until a refused version is tried again; twice as long each time."""
MOST_AGAIN_S = 3600.0
GONE_S = 30.0
"""An ingress replica that has said nothing for this long has stopped."""
FACTS_S = 10.0
"""Timeout for asking a version that runs what it is."""


@dataclass(frozen=True)
class AppState:
    """How far the replicas of a version are."""

    up: bool = False
    failed: RemoraError | None = None
    """Why they cannot start."""
    since: float = 0.0
    """When it was deployed, by a clock of which only the order counts."""


class Dock(Protocol):
    """Where versions run. An app is known by its name; its calls may take a while and are made in threads."""

    def name(self, source: ModelSource, version: str) -> str:
        """The app for a version: the same for the same model, version and settings."""
        ...

    def apps(self) -> dict[str, AppState]:
        """Those that are there, also from an earlier Fleet."""
        ...

    def deploy(self, app: str, args: EndpointArgs, load: ModelLoader, beside: str | None) -> None:
        """Start replicas that load a model, as many as the app `beside` has."""
        ...

    def delete(self, app: str) -> None:
        """Stop it; its replicas finish what they have begun."""
        ...

    async def facts(self, app: str) -> ModelFacts: ...

    def engine(self, app: str) -> ServingEngine: ...


@dataclass(frozen=True)
class IngressReport:
    """What an ingress replica goes by."""

    at: float
    number: int
    """Of its table."""
    busy: frozenset[str]
    """Apps that answer requests of it."""


@dataclass
class _Refusal:
    """A version that was tried, and when it is tried again."""

    version: str
    next_at: float
    wait_s: float


class _Moved(Exception):
    """The alias points elsewhere by now."""


class Fleet:
    """The versions of an endpoint's models."""

    def __init__(self, sources: Sequence[ModelSource], dock: Dock, clock: Callable[[], float] = time.monotonic) -> None:
        self._sources, self._dock, self._clock = tuple(sources), dock, clock
        self.table = VersionTable(time.time_ns(), ())  # by time, so that a later Fleet's numbers are higher
        self._reports: dict[str, IngressReport] = {}
        self._refused: dict[str, _Refusal] = {}
        self._told: dict[str, str] = {}
        self._strangers: set[str] = set()
        """Apps of an earlier Fleet that are in no table of this one."""
        self._all_reported_at = 0.0
        """When every ingress replica of an earlier Fleet has reported to this one, or is gone."""

    async def begin(self) -> None:
        """Bring up each model's version, or take the one that an earlier Fleet has brought up.

        Raises:
            RemoraError: one that is wanted does not come up, and no other one of its model is there. Nothing changes.
        """
        there = await asyncio.to_thread(self._dock.apps)
        self._all_reported_at = self._clock() + GONE_S if there else 0.0
        found = list[ModelVersions]()
        try:
            for source in self._sources:
                running = await self._first(source, there)
                found.append(ModelVersions(source.args.model, source.args.alias, running))
        except BaseException:
            await self._stop({one.stable.app for one in found} - set(there))
            raise
        mine = {one.stable.app for one in found}
        self._strangers = set(there) - mine
        self.table = VersionTable(self.table.number, tuple(found))

    async def _first(self, source: ModelSource, there: Mapping[str, AppState]) -> RunningVersion:
        """The version that is wanted; if that does not run yet, or not at all, the newest one that does."""
        others, wanted = list[RunningVersion](), ""
        if source.follows:
            newest = sorted(there, key=lambda app: -there[app].since)
            running = [await self._running(app) for app in newest if there[app].up]
            others = [one for one in running if one and self._dock.name(source, one.version) == one.app]
        try:
            version = await asyncio.to_thread(source.wanted)
            wanted = self._dock.name(source, version)
            if not others or any(one.app == wanted for one in others):
                return await self._up(source, version, None)
        except RemoraError:
            others = [one for one in others if one.app != wanted]
            if not others:
                raise
        return others[0]

    async def _running(self, app: str) -> RunningVersion | None:
        try:
            async with asyncio.timeout(FACTS_S):
                return RunningVersion(await self._dock.facts(app), app)
        except Exception as e:  # noqa: BLE001 (whatever it is, it does not answer)
            LOG.warning("%s is there and does not answer (%s)", app, type(e).__name__)
            return None

    async def follow(self) -> None:
        """Never returns."""
        while True:
            await asyncio.sleep(self._sources[0].args.follow_seconds)
            await self.look()

    async def look(self) -> None:
        """Move each model on to the version that is wanted, and stop versions that nobody uses any more."""
        for source, model in zip(self._sources, self.table.models, strict=True):
            if source.follows:
                await self._move(source, model)
        await self._stop_idle()

    def report(self, ingress: str, number: int, busy: frozenset[str]) -> VersionTable:
        """The table now, for an ingress replica that goes by the one of this number."""
        self._reports[ingress] = IngressReport(self._clock(), number, busy)
        return self.table

    def model(self, name: str) -> ModelVersions:
        """A model's versions now."""
        return next(one for one in self.table.models if one.model == name)

    async def bring_up(self, source: ModelSource, version: str) -> RunningVersion:
        """A version for a trial, beside those that answer.

        Raises:
            RemoraError: it does not come up; what was started of it is stopped.
        """
        self._strangers.discard(self._dock.name(source, version))
        return await self._up(source, version, None)

    def try_out(self, name: str, trial: TrialVersion | None) -> None:
        """Put a version on trial, change its share, or end the trial: then it finishes what it has begun."""
        now = self.model(name)
        before = None if now.trial is None else now.trial.running
        kept = {now.stable.app} if trial is None else {now.stable.app, trial.running.app}
        ended = () if before is None or before.app in kept else (before,)
        self._put(replace(now, trial=trial, retired=(*now.retired, *ended)))

    async def _move(self, source: ModelSource, model: ModelVersions) -> None:
        try:
            wanted = await asyncio.to_thread(source.wanted)
        except RemoraError as e:
            if isinstance(e, MissingVersion):  # nothing is asked for, so nothing is refused
                self._forget_refusal(model)
            return self._tell(
                model, f"{model.model}@{model.alias} cannot be looked up, version {model.stable.version} goes on: {e}"
            )
        self._tell(model, None)
        if wanted == model.stable.version:
            return self._forget_refusal(model)
        before = self._refused.get(model.model)
        if before is not None and before.version == wanted and self._clock() < before.next_at:
            return
        LOG.warning("%s: version %s comes up beside version %s", model.model, wanted, model.stable.version)
        try:
            running = await self._up(source, wanted, model.stable.app)
        except _Moved:
            return
        except RemoraError as e:
            return self._refuse(model, wanted, str(e))
        self._refused.pop(model.model, None)
        LOG.warning("%s: version %s answers now, version %s drains", model.model, wanted, model.stable.version)
        now = self.model(model.model)  # a trial may have begun or ended meanwhile
        trial = None if now.trial is not None and now.trial.running.app == running.app else now.trial
        retired = tuple(one for one in (*now.retired, now.stable) if one.app != running.app)
        self._put(replace(now, stable=running, trial=trial, retired=retired, refused=None))

    async def _up(self, source: ModelSource, version: str, beside: str | None) -> RunningVersion:
        """A version whose replicas run and have answered.

        Raises:
            _Moved: the alias points elsewhere by now, and another version answers meanwhile.
            RemoraError: it does not come up; what was started of it is stopped.
        """
        app, deployed = self._dock.name(source, version), False
        try:
            if app not in await asyncio.to_thread(self._dock.apps):
                load = await asyncio.to_thread(source.prepared, version)
                deployed = True
                await asyncio.to_thread(self._dock.deploy, app, source.at(version), load, beside)
            await self._wait(app, source, version, moves=beside is not None)
            facts = await self._dock.facts(app)
            if not await probe(self._dock.engine(app), facts):
                if beside is not None:
                    raise ServingError("it answers a probe with nothing")
                LOG.warning("%s answers a probe with nothing", app)  # as the version that is asked for, it is served
        except BaseException:
            if deployed or (beside is not None and app not in self._used()):
                await asyncio.to_thread(self._dock.delete, app)
            raise
        return RunningVersion(facts, app)

    async def _wait(self, app: str, source: ModelSource, version: str, moves: bool) -> None:
        end = self._clock() + source.args.load_seconds
        while True:
            state = (await asyncio.to_thread(self._dock.apps)).get(app, AppState())
            if state.failed is not None:
                raise state.failed
            if state.up:
                return
            if self._clock() > end:
                raise ServingError(
                    f"its replicas are not up after {source.args.load_seconds:.0f} s (load_seconds): does the cluster "
                    "have room for both versions? next: serve status"
                )
            await asyncio.sleep(min(0.5, source.args.follow_seconds))
            if moves and await self._points_elsewhere(source, version):
                raise _Moved

    async def _points_elsewhere(self, source: ModelSource, version: str) -> bool:
        try:
            return await asyncio.to_thread(source.wanted) != version
        except RemoraError:
            return False

    def _refuse(self, model: ModelVersions, version: str, reason: str) -> None:
        before = self._refused.get(model.model)
        again = before is not None and before.version == version
        wait = min(MOST_AGAIN_S, 2 * before.wait_s) if again and before is not None else AGAIN_S
        self._refused[model.model] = _Refusal(version, self._clock() + wait, wait)
        told = RefusedVersion(version, " ".join(reason.split()))
        if told != model.refused:
            LOG.error(
                "%s: version %s is not served, version %s goes on: %s",
                *(model.model, version, model.stable.version, told.reason),
            )
            self._put(replace(model, refused=told))

    def _forget_refusal(self, model: ModelVersions) -> None:
        self._refused.pop(model.model, None)
        if model.refused is not None:
            self._put(replace(model, refused=None))

    async def _stop_idle(self) -> None:
        now = self._clock()
        self._reports = {name: one for name, one in self._reports.items() if now - one.at < GONE_S}
        if now < self._all_reported_at or any(one.number < self.table.number for one in self._reports.values()):
            return  # one of them may still choose a version that is retired here
        busy = frozenset[str]().union(*(report.busy for report in self._reports.values()))
        for model in self.table.models:
            if idle := {one.app for one in model.retired} - busy:
                self._put(replace(model, retired=tuple(one for one in model.retired if one.app not in idle)))
                await self._stop(idle)
        idle = self._strangers - busy - self._used()
        self._strangers -= idle
        await self._stop(idle)

    async def _stop(self, apps: set[str]) -> None:
        for app in apps:
            await asyncio.to_thread(self._dock.delete, app)

    def _used(self) -> set[str]:
        return {one.app for model in self.table.models for one in model.running}

    def _put(self, changed: ModelVersions) -> None:
        models = tuple(changed if one.model == changed.model else one for one in self.table.models)
        self.table = VersionTable(max(self.table.number + 1, time.time_ns()), models)

    def _tell(self, model: ModelVersions, line: str | None) -> None:
        """Log a line, unless it was the last one about the model."""
        if line is None:
            self._told.pop(model.model, None)
        elif self._told.get(model.model) != line:
            self._told[model.model] = line
            LOG.warning(line)
