"""How an endpoint moves on to another version, against a scripted dock: no Ray, no registry, no clock."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace

import pytest

from remora.errors import MissingVersion, ServingError, TrackingError
from remora.inference import Message
from remora.serving.args import ModelArgs
from remora.serving.engines.protocol import Draining, OtherVersion, VersionedRequest
from remora.serving.engines.versions import VersionsEngine
from remora.serving.fleet import AGAIN_S, GONE_S, AppState, Fleet
from remora.serving.versions import ModelVersions, RunningVersion, TrialVersion
from support.serving_harbour import FACTS, Harbour, Scripted, World, begun


def test_a_version_comes_up_beside_and_takes_over_and_the_other_one_drains() -> None:
    world = begun()
    first = world.fleet.table
    assert world.look().stable.version == "1" and world.fleet.table is first
    world.points["remora"] = "2"
    now = world.look()
    assert (now.stable.version, [one.version for one in now.retired]) == ("2", ["1"])
    assert world.dock.done == [("deploy", "remora@1", ""), ("deploy", "remora@2", "remora@1")]
    assert world.fleet.table.number > first.number
    world.fleet.report("late", first.number, frozenset())
    assert [one.version for one in world.look().retired] == ["1"], "this one may still choose it"
    world.now += GONE_S
    assert [one.version for one in world.look(frozenset({"remora@1"})).retired] == ["1"], "it answers a request"
    assert not world.look().retired and world.dock.done[-1] == ("delete", "remora@1")
    world.look()
    assert len(world.dock.done) == 3


def test_an_alias_that_moves_back_takes_the_version_that_drains() -> None:
    world = begun()
    for version in ("2", "1"):
        world.points["remora"] = version
        now = world.look(frozenset({"remora@1"}))
    assert (now.stable.version, [one.version for one in now.retired]) == ("1", ["2"])
    assert not world.look().retired
    assert [what for what in world.dock.done if what[0] == "deploy"][2:] == [], "1 was never started again"
    assert world.dock.done[-1] == ("delete", "remora@2")


BROKEN: dict[str, tuple[Callable[[Harbour], object], str]] = {
    "no start": (
        lambda d: d.states.update({"remora@2": AppState(failed=ServingError("the bundle\nis torn"))}),
        "the bundle is torn",
    ),
    "nothing": (lambda d: d.engines.update({"remora@2": Scripted("  ")}), "answers a probe with nothing"),
    "nan": (lambda d: d.engines.update({"remora@2": Scripted(logprob=float("nan"))}), "are no numbers"),
    "fails": (lambda d: setattr(d.engine("remora@2"), "end", ServingError("it is ill")), "it is ill"),
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_broken_version_changes_nothing_and_is_told_once(how: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)
    world, (make, reason) = begun(), BROKEN[how]
    make(world.dock)
    world.points["remora"] = "2"
    for _ in range(3):
        now = world.look()
        assert (now.stable.version, now.retired) == ("1", ())
        assert now.refused is not None and now.refused.version == "2" and reason in now.refused.reason
        assert "\n" not in now.refused.reason
    assert world.dock.done[1:] == [("deploy", "remora@2", "remora@1"), ("delete", "remora@2")]
    world.now += AGAIN_S
    world.look()
    assert len(world.dock.done) == 5, "tried again, in case that it is mended"
    world.now += AGAIN_S
    world.look()
    assert len(world.dock.done) == 5, "and the next time later"
    assert len(caplog.records) == 1
    world.dock.states, world.dock.engines = {}, {}
    world.now += AGAIN_S
    now = world.look()
    assert (now.stable.version, now.refused) == ("2", None)


def test_torn_files_start_no_replica() -> None:
    world = begun(torn=frozenset({"2"}))
    world.points["remora"] = "2"
    now = world.look()
    assert now.refused is not None and now.refused.reason == "model.safetensors is torn"
    assert world.dock.done == [("deploy", "remora@1", ""), ("delete", "remora@2")]
    world.points["remora"] = "1"
    assert world.look().refused is None, "the alias is where it was"


def test_an_alias_that_moves_on_meanwhile_ends_the_wait() -> None:
    world = begun()
    world.dock.states["remora@2"] = AppState()  # for ever on its way
    world.points["remora"] = "2"

    def looked() -> None:
        if "remora@2" in world.dock.there:
            world.points["remora"] = "3"

    world.dock.looked = looked
    assert world.look().stable.version == "1" and world.dock.done[-1] == ("delete", "remora@2")
    assert world.look().stable.version == "3"


def test_a_version_without_room_is_given_up() -> None:
    world = begun()
    world.dock.states["remora@2"] = AppState()
    world.points["remora"] = "2"

    def looked() -> None:
        world.now += 300

    world.dock.looked = looked
    refused = world.look().refused
    assert refused is not None and "not up after 600 s" in refused.reason


def test_a_registry_that_is_away_changes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    world = begun()
    world.points["remora"] = TrackingError("MLflow does not answer")
    assert [world.look().stable.version for _ in range(3)] == ["1"] * 3
    assert [record.message for record in caplog.records] == [
        "remora@champion cannot be looked up, version 1 goes on: MLflow does not answer"
    ]


@pytest.mark.parametrize("away", [MissingVersion("no alias 'champion'"), TrackingError("MLflow does not answer")])
def test_a_refusal_ends_with_its_alias_and_not_with_a_registry_that_is_away(away: TrackingError) -> None:
    world = begun(torn=frozenset({"2"}))
    world.points["remora"] = "2"
    assert world.look().refused is not None
    world.points["remora"] = away
    now = world.look()
    assert now.stable.version == "1" and (now.refused is None) == isinstance(away, MissingVersion)
    world.points["remora"] = "2"
    assert world.look().refused is not None, "the alias is there again"


def test_a_pinned_version_stays() -> None:
    world = begun(version="1")
    world.points["remora"] = "2"
    assert world.look().stable.version == "1"


def test_several_models_move_apart() -> None:
    world = begun(ModelArgs(model="other"))
    world.points["remora"] = "2"
    world.dock.states["remora@2"] = AppState(failed=ServingError("no"))
    world.points["other"] = "8"
    world.look()
    assert [one.stable.version for one in world.fleet.table.models] == ["1", "8"]


def test_the_first_versions_have_to_come_up() -> None:
    world = World(ModelArgs(model="other"))
    world.dock.states["other@7"] = AppState(failed=ServingError("the bundle is torn"))
    with pytest.raises(ServingError, match="the bundle is torn"):
        asyncio.run(world.fleet.begin())
    assert "other@7" not in world.dock.there


def test_the_version_that_is_asked_for_is_served_also_if_it_says_nothing() -> None:
    world = World()
    world.dock.engines["remora@1"] = Scripted("")
    asyncio.run(world.fleet.begin())
    assert world.look().stable.version == "1"


def test_another_fleet_takes_over_what_runs_and_stops_the_rest() -> None:
    world = begun()
    world.dock.there["remora@0"] = AppState(up=True)  # one that drained when the first fleet died
    later = Fleet(world.fleet._sources, world.dock, lambda: world.now)
    asyncio.run(later.begin())
    assert [one for one in world.dock.done if one[0] == "deploy"] == [("deploy", "remora@1", "")]
    assert later.table.number > world.fleet.table.number
    later.report("a", world.fleet.table.number, frozenset())
    asyncio.run(later.look())
    assert "remora@0" in world.dock.there, "an ingress replica may still go by the old table"
    later.report("a", later.table.number, frozenset({"remora@0"}))
    asyncio.run(later.look())
    assert "remora@0" in world.dock.there
    later.report("a", later.table.number, frozenset())
    asyncio.run(later.look())
    assert "remora@0" in world.dock.there, "another one may not have reported yet"
    world.now += GONE_S
    later.report("a", later.table.number, frozenset())
    asyncio.run(later.look())
    assert set(world.dock.there) == {"remora@1"}


@pytest.mark.parametrize("why", ["broken", "slow", "away"])
def test_another_fleet_begins_with_what_runs_where_the_wanted_version_does_not(why: str) -> None:
    """So that a fleet that dies while the alias names a broken version is not the end of it."""
    world = begun()
    for since, app in enumerate(("remora@0", "remora@1")):
        world.dock.there[app] = AppState(up=True, since=since)
    world.points["remora"] = TrackingError("MLflow does not answer") if why == "away" else "2"
    if why == "broken":
        world.dock.there["remora@2"] = world.dock.states["remora@2"] = AppState(
            failed=ServingError("the bundle is torn"), since=3
        )
    if why == "slow":
        world.dock.there["remora@2"] = AppState(since=3)
    later = Fleet(world.fleet._sources, world.dock, lambda: world.now)
    asyncio.run(later.begin())
    assert later.table.models[0].stable.version == "1" and "remora@1" in world.dock.there
    world.points["remora"] = "3"
    asyncio.run(later.look())
    assert later.table.models[0].stable.version == "3"


def test_what_was_begun_ends_if_another_model_does_not_come_up() -> None:
    world = World(ModelArgs(model="other"))
    world.dock.states["other@7"] = AppState(failed=ServingError("the bundle is torn"))
    with pytest.raises(ServingError):
        asyncio.run(world.fleet.begin())
    assert world.dock.there == {}


class Behind:
    """A model's engine over scripted ones."""

    def __init__(self) -> None:
        self.engines: dict[str, Scripted] = {}
        self.versions = ModelVersions("remora", "champion", running("3"))
        self.engine = VersionsEngine(lambda: self.versions, self._connect)

    def _connect(self, to: RunningVersion) -> Scripted:
        return self.engines.setdefault(to.app, Scripted(f"of {to.version}"))

    async def ask(self, version: str) -> str:
        turns = (Message("user", "hi"),)
        found = [delta.text async for delta in self.engine.submit(VersionedRequest(turns, 9, version=version))]
        return "".join(found)


def running(version: str) -> RunningVersion:
    return RunningVersion(replace(FACTS, version=version), f"app {version}")


def test_a_request_goes_to_the_version_that_it_was_read_for() -> None:
    async def go() -> None:
        of = Behind()
        assert await of.ask("3") == "of 3"
        of.versions = replace(of.versions, trial=TrialVersion(running("4"), 0.5))
        assert [await of.ask("3"), await of.ask("4")] == ["of 3", "of 4"]
        with pytest.raises(OtherVersion, match="version 5 takes no new requests; version 3 does"):
            await of.ask("5")
        assert of.engine.stats.steps == 2 and await of.engine.ready()

    asyncio.run(go())


def test_a_retired_version_finishes_what_it_has_begun_and_begins_nothing() -> None:
    async def go() -> None:
        of = Behind()
        await of.ask("3")
        of.engines["app 3"].go.clear()
        under_way = asyncio.create_task(of.ask("3"))
        await asyncio.sleep(0)
        of.versions = replace(of.versions, stable=running("4"), retired=(running("3"),))
        with pytest.raises(OtherVersion):
            await of.ask("3")
        assert await of.ask("4") == "of 4" and of.engine.busy == {"app 3"}
        of.engines["app 3"].go.set()
        assert await under_way == "of 3" and not of.engine.busy
        of.versions = replace(of.versions, retired=())
        await of.ask("4")
        assert of.engine.stats.steps == 1, "it is forgotten"

    asyncio.run(asyncio.wait_for(go(), 30))


def test_a_version_that_stopped_on_the_way_is_another_one_and_a_draining_one_is_not() -> None:
    async def go() -> None:
        of = Behind()
        await of.ask("3")
        of.engines["app 3"].end = Draining("it stops")
        with pytest.raises(Draining):
            await of.ask("3")
        of.engines["app 3"].go.clear()
        asked = asyncio.create_task(of.ask("3"))
        await asyncio.sleep(0)
        of.versions = replace(of.versions, stable=running("4"))
        of.engines["app 3"].go.set()
        with pytest.raises(OtherVersion, match="was stopped"):
            await asked

    asyncio.run(go())
