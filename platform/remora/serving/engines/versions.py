"""One model's engine, behind which its versions are: a request goes to the one that it was read for."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import astuple

from remora.inference.requests import Request, Stats
from remora.serving.engines.protocol import Delta, Draining, EngineStats, OtherVersion, ServingEngine, VersionedRequest
from remora.serving.versions import ModelVersions, RunningVersion


class VersionsEngine:
    """A `ServingEngine` over the running versions of a model; `connect` gives that of one."""

    def __init__(
        self, versions: Callable[[], ModelVersions], connect: Callable[[RunningVersion], ServingEngine]
    ) -> None:
        self._versions, self._connect = versions, connect
        self._engines: dict[str, ServingEngine] = {}

    async def submit(self, request: Request) -> AsyncGenerator[Delta, None]:
        """As `ServingEngine.submit` says. A version that is retired begins no answer, and goes on with those that it
        has begun."""
        engine, begun = self._of(request), False
        try:
            async with aclosing(engine.submit(request)) as deltas:
                async for delta in deltas:
                    begun = True
                    yield delta
        except Draining:
            if begun or self._serves(request):
                raise
            raise OtherVersion("its version was stopped") from None  # it was stopped while the request was on its way

    def _of(self, request: Request) -> ServingEngine:
        """
        Raises:
            OtherVersion: the version is not served any more.
        """
        now = self._versions()
        taken = (now.stable,) if now.trial is None else (now.stable, now.trial.running)
        wanted = request.version if isinstance(request, VersionedRequest) else now.stable.version
        found = next((one for one in taken if one.version == wanted), None)
        if found is None:
            raise OtherVersion(f"version {wanted} takes no new requests; version {now.stable.version} does")
        for app in self._engines.keys() - {one.app for one in now.running}:
            if not self._is_busy(app):
                del self._engines[app]
        return self._connected(found)

    def _connected(self, running: RunningVersion) -> ServingEngine:
        if running.app not in self._engines:
            self._engines[running.app] = self._connect(running)
        return self._engines[running.app]

    def _serves(self, request: Request) -> bool:
        try:
            self._of(request)
        except OtherVersion:
            return False
        return True

    def _is_busy(self, app: str) -> bool:
        load = self._engines[app].stats.load
        return bool(load.running or load.waiting)

    @property
    def busy(self) -> frozenset[str]:
        """The apps that answer requests from here."""
        return frozenset(app for app in self._engines if self._is_busy(app))

    @property
    def stats(self) -> EngineStats:
        """Of all versions together."""
        total = EngineStats(Stats(0, 0, 0, 0, 0, 0, 0, 0), 0, 0.0, 0, 0, has_cache=False)
        for engine in self._engines.values():
            total = _plus(total, engine.stats)
        return total

    async def ready(self) -> bool:
        """Whether the stable version would take a request now."""
        return await self._connected(self._versions().stable).ready()

    async def drain(self) -> None:
        """As `ServingEngine.drain` says."""
        for engine in list(self._engines.values()):
            await engine.drain()


def _plus(one: EngineStats, other: EngineStats) -> EngineStats:
    return EngineStats(
        Stats(*(a + b for a, b in zip(astuple(one.load), astuple(other.load), strict=True))),
        one.steps + other.steps,
        max(one.stalled_s, other.stalled_s),
        one.failed + other.failed,
        one.rebuilt + other.rebuilt,
        one.has_cache and other.has_cache,
    )
