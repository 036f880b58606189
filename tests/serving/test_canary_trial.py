"""A canary in the fleet, against a scripted dock; its candidate in a real registry, behind the gate; and the route."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from remora.errors import ServingError, SpecError
from remora.serving.api import api
from remora.serving.args import EndpointArgs
from remora.serving.canary import journal
from remora.serving.canary.args import CanaryArgs, CanaryRule
from remora.serving.canary.candidate import candidate_of
from remora.serving.canary.trial import CanaryTrial, CandidateSource
from remora.serving.champion import ModelSource
from remora.serving.engines.builtin import BuiltinEngine
from remora.serving.fleet import AppState
from remora.serving.versions import ModelVersions, RunningVersion, TrialVersion, VersionTable
from support.canary_pairs import GOOD, Version, drawn
from support.serving_fake import CHAT, FakeAnswerer, facts_of
from support.serving_harbour import World, begun

RULE = CanaryRule(comparisons=100, looks=4, errors=0.1, empty=0.1, cut=0.4)
PLAN = CanaryArgs(model="better", share=(0.5,), rule=RULE)


def trial_in(world: World, runs: Path, promote: Any = lambda: "moved", id: str = "c1") -> CanaryTrial:
    source = world.fleet._sources[0]
    own = replace(source, args=source.args.model_copy(update={"runs": runs, "version": "2"}))
    return CanaryTrial(world.fleet, CandidateSource(own, "2", promote, id), PLAN)


def test_a_candidate_comes_up_in_the_shadow_gets_its_share_and_takes_over(tmp_path: Path) -> None:
    world = begun()

    def moves() -> str:
        world.points["remora"] = "2"
        return "moved"

    trial = trial_in(world, tmp_path, moves)

    async def go() -> None:
        await trial.begin()
        now = world.fleet.model("remora").trial
        assert now is not None and (now.running.version, now.share) == ("2", 0.0)
        pairs = drawn(100, GOOD, 1)
        for i in range(0, 100, 25):
            state = await trial.record(pairs[i : i + 25])
            now = world.fleet.model("remora").trial
            assert now is not None and now.share == state.share
            assert state.share == (0.0, 0.5, 0.5, 0.5)[i // 25]
        while trial.state.phase == "deciding":
            await asyncio.sleep(0.01)
        now = world.fleet.model("remora").trial
        assert trial.state.phase == "promoted" and now is not None and now.share == 1.0
        await trial._settle(trial._judge)  # type: ignore[arg-type]

    asyncio.run(go())
    deployed = list(world.dock.done)
    model = world.look()
    assert (model.stable.version, model.trial, [one.version for one in model.retired]) == ("2", None, ["1"])
    assert world.dock.done == deployed, "its replicas are the stable version's now"


@pytest.mark.parametrize("looks", [True, False])
@pytest.mark.parametrize("later", ["3", "1"])
def test_what_the_alias_names_after_a_promotion_is_served_and_told(tmp_path: Path, later: str, looks: bool) -> None:
    """Also if the fleet was asked nothing about the canary meanwhile, and if another fleet takes over."""
    world = begun()

    def moves() -> str:
        world.points["remora"] = "2"
        return "moved"

    trial = trial_in(world, tmp_path, moves)

    async def go() -> None:
        await trial.begin()
        await trial.record(drawn(100, GOOD, 1))
        assert trial._judge is not None
        await trial._settle(trial._judge)
        await world.fleet.look()
        assert world.fleet.model("remora").stable.version == "2" and trial.state.phase == "promoted"
        if looks:
            assert (await trial.record(())).share == 1.0
        world.points["remora"] = later
        await world.fleet.look()
        for _ in range(2):
            state = await trial.record(())
            model = world.fleet.model("remora")
            assert (model.stable.version, model.trial) == (later, None), "nobody gets the candidate any more"
            assert (state.phase, state.share) == ("replaced", 0.0)
            assert state.why.endswith(f"; version {later} has been served since")
        again = trial_in(world, tmp_path, moves)
        await again.begin()
        assert world.fleet.model("remora").trial is None and again.state.phase == "replaced"

    asyncio.run(go())
    assert journal.last(tmp_path, "remora").phase == "promoted"


def test_an_alias_that_moves_to_the_candidate_and_back_ends_the_canary(tmp_path: Path) -> None:
    world = begun()
    trial = trial_in(world, tmp_path)

    async def go() -> None:
        await trial.begin()
        for version in ("2", "1"):
            world.points["remora"] = version
            await world.fleet.look()
        await trial.record(())

    asyncio.run(go())
    model = world.fleet.model("remora")
    assert (model.stable.version, model.trial, trial.state.phase) == ("1", None, "rolled back")
    assert trial.state.why == "the alias was moved to it and back"


@pytest.mark.parametrize("bad", [Version(errors=0.9), Version(first=9)])
def test_a_bad_candidate_is_taken_away_and_its_replicas_end_when_they_are_idle(tmp_path: Path, bad: Version) -> None:
    world = begun()
    trial = trial_in(world, tmp_path)

    async def go() -> None:
        await trial.begin()
        await trial.record(drawn(50, bad, 1))

    asyncio.run(go())
    model = world.fleet.model("remora")
    assert (model.stable.version, model.trial, [one.version for one in model.retired]) == ("1", None, ["2"])
    assert trial.state.phase == "rolled back"
    assert not world.look().retired and world.dock.done[-1] == ("delete", "remora@2")


def test_one_that_does_not_come_up_is_rolled_back_and_told(tmp_path: Path) -> None:
    world = begun()
    world.dock.states["remora@2"] = AppState(failed=ServingError("the bundle is torn"))
    trial = trial_in(world, tmp_path)
    asyncio.run(trial.begin())
    kept = journal.last(tmp_path, "remora")
    assert (kept.phase, kept.why) == ("rolled back", "it does not come up: the bundle is torn")
    assert world.fleet.model("remora").trial is None and trial.state.phase == "rolled back"


def test_a_canary_ends_with_the_version_that_it_was_held_against(tmp_path: Path) -> None:
    world = begun()
    trial = trial_in(world, tmp_path)

    async def go() -> None:
        await trial.begin()
        await trial.record(drawn(30, GOOD, 1))
        world.points["remora"] = "3"
        await world.fleet.look()
        assert world.fleet.model("remora").trial is not None
        await trial.record(())

    asyncio.run(go())
    model = world.fleet.model("remora")
    assert (model.stable.version, model.trial) == ("3", None)
    assert trial.state.why == "the stable version is 3 now, and it was compared with version 1"


def test_a_fleet_that_starts_again_goes_on(tmp_path: Path) -> None:
    pairs = drawn(100, GOOD, 1)

    async def some(trial: CanaryTrial, first: int, last: int) -> None:
        await trial.begin()
        await trial.record(pairs[first:last])

    asyncio.run(some(trial_in(begun(), tmp_path), 0, 60))
    world = begun()
    again = trial_in(world, tmp_path)
    asyncio.run(some(again, 50, 75))
    now = world.fleet.model("remora").trial
    assert again.state.comparisons == 75 and now is not None and now.share == 0.5


def test_who_is_served_without_an_alias_has_no_canary_that_takes_over(tmp_path: Path, monkeypatch: Any) -> None:
    from remora.serving.canary import candidate
    from remora.tracking import Model

    monkeypatch.setattr(candidate, "find_model", lambda *_: Model(tmp_path, "better", version="v"))
    args = EndpointArgs(runs=tmp_path, model="base", canary=PLAN, no_keys=True).resolved()
    own = ModelSource(args.each()[0], lambda _: None)  # type: ignore[arg-type, return-value]
    with pytest.raises(SpecError, match=r"takes over by an alias in the registry, and base is served without one"):
        candidate_of(args, own)
    told = candidate_of(args.model_copy(update={"canary": PLAN.model_copy(update={"promote": False})}), own)
    assert (told.version, told.source.args.version, told.source.registered) == ("v", "v", False)


class OfOne:
    """Engines by version, as one."""

    def __init__(self, engines: dict[str, BuiltinEngine]) -> None:
        self.engines = engines

    def __getattr__(self, name: str) -> Any:
        return getattr(self.engines["3"], name)

    def submit(self, request: Any) -> Any:
        return self.engines[request.version].submit(request)


class Failing(FakeAnswerer):
    def one(self, conversation: Any, how: Any) -> Any:
        raise RuntimeError("the device is gone")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("fails", [False, True])
def test_the_route_gives_a_share_the_candidates_answers_and_the_stable_ones_if_it_fails(
    tmp_path: Path, fails: bool, stream: bool
) -> None:
    answerers = FakeAnswerer(), Failing() if fails else FakeAnswerer()
    plan = PLAN.model_copy(update={"shadow": 1.0, "in_flight": 64})
    args = EndpointArgs(canary=plan, no_keys=True)
    running = [RunningVersion(replace(facts_of(a), version=v), v) for a, v in zip(answerers, "34", strict=True)]  # type: ignore[arg-type]
    model = ModelVersions("remora", "champion", running[0], TrialVersion(running[1], 0.5))
    table = VersionTable(1, (model,))

    class Kept:
        got: list[Any] = []  # noqa: RUF012

        async def record(self, comparisons: Any) -> Any:
            self.got += comparisons
            from remora.serving.canary.course import CanaryState

            return CanaryState("share", 0.5, len(self.got), 100)

    judge = Kept()
    judge.got = []

    async def go() -> tuple[list[str], dict[str, Any], str]:
        engines = {v: BuiltinEngine.of(a, args.cache_bytes) for a, v in zip(answerers, "34", strict=True)}  # type: ignore[arg-type]
        app = api(args, lambda: table, {"remora": OfOne(engines)}, judge)  # type: ignore[dict-item]
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        found = []
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            for i in range(20):
                body = {"messages": [{"role": "user", "content": "Who?"}], "user": f"u{i % 10}", "stream": stream}
                response = await client.post(CHAT, json=body)
                assert response.status_code == 200 and "Who?" in response.text and "error" not in response.text
                found.append("remora@4" if '"remora@4"' in response.text else "remora@3")
            while len(judge.got) < 20:
                await client.get("/version")
                await asyncio.sleep(0.01)
            told = (await client.get("/version")).json()["canary"]
            figures = (await client.get("/metrics")).text
        for engine in engines.values():
            await engine.drain()
        return found, told, figures

    found, told, figures = asyncio.run(go())
    by_candidate = sum(one.answered == "candidate" for one in judge.got)
    assert found[:10] == found[10:] and 4 <= by_candidate <= 16
    assert set(found) == ({"remora@3"} if fails else {"remora@3", "remora@4"})
    counted = told["ingress_replica"]
    assert counted["rescued"] == (by_candidate if fails else 0) and counted["compared"] == 20
    assert not {"answered", "compared", "dropped", "rescued"} & set(told), "the endpoint's figures stand apart"
    assert {one.candidate.error for one in judge.got} == ({"RuntimeError"} if fails else {None})
    assert not any(one.stable.error for one in judge.got)
    assert told["candidate"] == {"version": "4", "name": "share-Fake", "system_fingerprint": "remora@4"}
    assert (told["phase"], told["share"], counted["answered"]["candidate"]) == ("share", 0.5, by_candidate)
    assert 'remora:canary_phase{model_name="remora",phase="share"} 1.0' in figures
    assert 'remora:canary_compared_total{model_name="remora"} 20.0' in figures
    assert f'remora:canary_answers_total{{model_name="remora",role="candidate"}} {by_candidate}.0' in figures
