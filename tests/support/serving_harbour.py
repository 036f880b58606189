"""A scripted dock, and a fleet of a model whose alias is a value: no Ray, no registry, no clock."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, replace
from pathlib import Path

from remora.errors import RemoraError, TornArtifact
from remora.inference import Request, Stats
from remora.serving.args import EndpointArgs, ModelArgs
from remora.serving.champion import ModelFacts, ModelLoader, ModelSource
from remora.serving.engines.protocol import Chosen, Delta, EngineStats, Likely
from remora.serving.fleet import AppState, Fleet
from remora.serving.versions import ModelVersions
from support.serving_fake import FakeAnswerer, facts_of

FACTS = facts_of(FakeAnswerer())


@dataclass(frozen=True)
class Alias(ModelSource):
    """A model whose alias is a value of `points`; `torn` versions have broken files."""

    points: dict[str, str | RemoraError] = None  # type: ignore[assignment]
    torn: frozenset[str] = frozenset()

    @property
    def follows(self) -> bool:
        return self.args.version is None

    def wanted(self) -> str:
        found = self.args.version or self.points[self.args.model]
        if isinstance(found, RemoraError):
            raise found
        return found

    def prepared(self, version: str) -> ModelLoader:
        if version in self.torn:
            raise TornArtifact("model.safetensors is torn")
        return self.load


class Scripted:
    """An engine that answers with a text, or never."""

    def __init__(self, answer: str = "yes", logprob: float = -0.5) -> None:
        self.answer, self.logprob, self.running = answer, logprob, 0
        self.end: Exception | None = None
        self.go = asyncio.Event()
        self.go.set()

    async def submit(self, request: Request) -> AsyncGenerator[Delta, None]:
        self.running += 1
        try:
            if self.end is not None:
                await self.go.wait()
                raise self.end
            yield Delta("", (1,), (Chosen(Likely(1, "", None, self.logprob)),))
            await self.go.wait()
            yield Delta(self.answer, (2,), finish_reason="stop")
        finally:
            self.running -= 1

    @property
    def stats(self) -> EngineStats:
        return EngineStats(Stats(0, self.running, 0, 0, 0, 0, 0, 0), 1, 0.0, 0, 0)

    async def ready(self) -> bool:
        return True

    async def drain(self) -> None: ...


class Harbour:
    """A dock whose versions come up at once, unless `states` says otherwise."""

    def __init__(self) -> None:
        self.there: dict[str, AppState] = {}
        self.states: dict[str, AppState] = {}
        self.engines: dict[str, Scripted] = {}
        self.done: list[tuple[str, ...]] = []
        self.looked: Callable[[], None] = lambda: None

    def name(self, source: ModelSource, version: str) -> str:
        return f"{source.args.model}@{version}"

    def apps(self) -> dict[str, AppState]:
        self.looked()
        return dict(self.there)

    def deploy(self, app: str, args: EndpointArgs, load: ModelLoader, beside: str | None) -> None:
        self.done.append(("deploy", app, beside or ""))
        self.there[app] = self.states.get(app, AppState(up=True))

    def delete(self, app: str) -> None:
        self.done.append(("delete", app))
        self.there.pop(app, None)

    async def facts(self, app: str) -> ModelFacts:
        return replace(FACTS, version=app.rpartition("@")[2])

    def engine(self, app: str) -> Scripted:
        return self.engines.setdefault(app, Scripted())


class World:
    """A fleet of the model "remora", and an ingress replica of it."""

    def __init__(self, *further: ModelArgs, version: str | None = None, torn: frozenset[str] = frozenset()) -> None:
        self.points: dict[str, str | RemoraError] = {"remora": "1", "other": "7"}
        args = EndpointArgs(runs=Path("/"), version=version, models=further, follow_seconds=0.2)
        self.dock, self.now = Harbour(), 100.0
        sources = [Alias(one, points=self.points, torn=torn) for one in args.each()]
        self.fleet = Fleet(sources, self.dock, lambda: self.now)

    def look(self, busy: frozenset[str] = frozenset()) -> ModelVersions:
        """A round of the fleet, after a report of the ingress replica."""
        self.fleet.report("a", self.fleet.table.number, busy)
        asyncio.run(self.fleet.look())
        return self.fleet.table.models[0]


def begun(*further: ModelArgs, **options: object) -> World:
    world = World(*further, **options)  # type: ignore[arg-type]
    asyncio.run(world.fleet.begin())
    return world
