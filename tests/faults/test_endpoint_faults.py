"""The scorecard of serving: real faults of a live endpoint under load, and what its clients saw of them.

make serve-faults                                     # five minutes
make serve-faults OVERLOAD=600 ARGS="--scorecard docs/faults.md"
"""

from __future__ import annotations

import os
import shutil
import signal
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from endpoint import (
    ENGINE,
    INGRESS,
    PICTURES,
    PROXY,
    LiveEndpoint,
    Load,
    Overload,
    capacity,
    idle_answers,
    seconds_until,
)

from remora.tracking import Tracker, register, version_info
from support import serving_champion
from support.noise import write_noise
from support.waiting import until

pytestmark = [pytest.mark.ray, pytest.mark.faults]
AddRow = Callable[..., None]
FLAT = 100 * 2**20
"""Bytes by which the endpoint may grow from the middle to the last third of a long overload."""
LONG = 150
"""Seconds of one in which all has been scaled up after a third."""


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveEndpoint]:
    made = LiveEndpoint(tmp_path_factory.mktemp("serving") / "live")
    yield made
    made.stop()


@pytest.fixture(scope="module")
def expected(live: LiveEndpoint) -> list[str]:
    return idle_answers(live)


def undisturbed(live: LiveEndpoint) -> None:
    until("two engine replicas", lambda: len(live.loaded()) == 2)
    until("an ingress replica", lambda: live.pids(INGRESS))


def kill(live: LiveEndpoint, title: str) -> set[int]:
    """kill -9 of one process; of all of them, if they read pictures."""
    killed = live.pids(title) if title == PICTURES else {min(live.pids(title))}
    for pid in killed:
        os.kill(pid, signal.SIGKILL)
    return killed


@pytest.mark.parametrize(
    ("title", "fault", "happened", "count"),
    [
        (ENGINE, "kill -9 of one of two engine replicas", "the other one goes on behind the tokens that were sent", 2),
        (PICTURES, "kill -9 of all processes that read pictures", "others read them", 1),
    ],
    ids=["engine", "pictures"],
)
def test_a_killed_process_costs_no_request(
    live: LiveEndpoint, expected: list[str], serving_card: AddRow, title: str, fault: str, happened: str, count: int
) -> None:
    undisturbed(live)
    before = live.memory()
    with Load(live) as load:
        load.answered(16)
        killed = kill(live, title)
        at = max(one.began for one in load.done)
        if title == ENGINE:
            back = seconds_until(lambda: len(live.loaded() - killed) >= count, "another replica")
        else:
            back = seconds_until(lambda: live.pids(title) - killed, "another process")
        load.answered(32, at)
    assert (load.failed(), load.changed(expected)) == ({}, 0)
    serving_card(fault, happened, load, back, before, live.memory())


@pytest.mark.parametrize("streams", [False, True], ids=["whole", "streams"])
def test_a_killed_ingress(live: LiveEndpoint, expected: list[str], serving_card: AddRow, streams: bool) -> None:
    """Its streams go on behind what their clients have."""
    undisturbed(live)
    before = live.memory()
    with Load(live, streams) as load:
        load.answered(16)
        killed, at = kill(live, INGRESS), max(one.began for one in load.done)
        back = seconds_until(lambda: live.pids(INGRESS) - killed, "another one")
        load.answered(32, at)
    assert (load.failed(), load.changed(expected)) == ({}, 0)
    happened = "the next one takes its requests over"
    happened += ", and goes on with streams behind what their clients have" if streams else ""
    what = "half of its answers are streams" if streams else "whole answers"
    serving_card(f"kill -9 of the only ingress replica ({what})", happened, load, back, before, live.memory())


def test_a_killed_proxy(live: LiveEndpoint, expected: list[str], serving_card: AddRow) -> None:
    """Its connections end, which only clients can mend: these try again, as openai's do, five times at most."""
    undisturbed(live)
    before = live.memory()
    with Load(live, retries=5) as load:
        load.answered(16)
        began, killed = time.monotonic(), kill(live, PROXY)
        until("an answer", lambda: any(one.ended > began and not one.failed for one in load.done))
        back = time.monotonic() - began
        load.answered(32, time.monotonic())
    assert load.changed(expected) == 0 and live.pids(PROXY) - killed
    assert all(one.stream for one in load.done if one.failed), "a stream that has begun is not asked for again"
    happened = "its connections end; Serve starts another one; clients ask again, but not for a stream that has begun"
    serving_card("kill -9 of the HTTP proxy", happened, load, back, before, live.memory())


def test_an_engine_that_hangs(live: LiveEndpoint, expected: list[str], serving_card: AddRow) -> None:
    undisturbed(live)
    before = live.memory()
    with Load(live) as load:
        load.answered(16)
        hangs = min(live.loaded())
        (live.folder / f"hang-{hangs}").touch()
        at = max(one.began for one in load.done)
        back = seconds_until(lambda: len(live.loaded() - {hangs}) >= 2, "another replica")
        load.answered(32, at)
    assert (load.failed(), load.changed(expected)) == ({}, 0)
    happened = "its requests go to the other one after `stalled_seconds`, here 2 s"
    serving_card("an engine's step hangs", happened, load, back, before, live.memory())


def test_overload_at_twice_the_capacity(
    live: LiveEndpoint, expected: list[str], serving_card: AddRow, overload_seconds: float
) -> None:
    """Answered or told when to come again, in flat memory, and afterwards all is as before."""
    undisturbed(live)
    most = capacity(live, 10)
    over = Overload(live, 2 * most, overload_seconds)
    over.run()
    some = over.memory[:: max(1, len(over.memory) // 20)]
    told = f"{dict(over.statuses)}, sent in {over.sent_in:.0f} s, longest {over.longest:.0f} s, memory {some}"
    assert set(over.statuses) <= {200, 429} and over.waits == over.statuses[429], told
    assert over.statuses[429] and over.statuses[200] >= 0.5 * most * overload_seconds, told
    # In the first third the ingress scales up, which takes memory once.
    third = len(over.memory) // 3
    before, after = (statistics.mean(some) for some in (over.memory[third : 2 * third], over.memory[2 * third :]))
    if overload_seconds >= LONG:
        assert after - before < FLAT
    with Load(live) as load:
        back = seconds_until(lambda: any(not one.failed for one in load.done), "an answer")
        load.answered(16)
    assert load.changed(expected) == 0 and not load.failed()
    happened = (
        f"{over.statuses.total() / over.sent_in:.0f} requests a second for {over.sent_in:.0f} s, where it can answer "
        f"{most:.0f}: {over.statuses[200]:,} answered, {over.statuses[429]:,} told to come again (429); "
        f"{max(over.replicas)} ingress replicas; memory of its middle "
        "and its last third"
    )
    serving_card(
        "twice the capacity", happened, load, back, before, after, longest=over.longest, asked=over.statuses.total()
    )


def test_the_head_dies(live: LiveEndpoint, expected: list[str], serving_card: AddRow) -> None:
    """The last one of this endpoint, which ends with its cluster, in one line; the same command starts both."""
    undisturbed(live)
    before = live.memory()
    with Load(live, retries=0) as load:
        load.answered(16)
        (head,) = live.pids("gcs_server")
        killed = time.monotonic()
        os.kill(head, signal.SIGKILL)
        ended = seconds_until(lambda: live.process.poll() is not None, "the endpoint's end")
        assert live.process.returncode != 0
        told = live.log.read_text().strip().splitlines()[-1]
        assert "Traceback" not in told
        live.start()
        until("an answer", lambda: not load.done[-1].failed)
        back, at = time.monotonic() - killed, max(one.began for one in load.done)
        load.answered(16, at)
    assert not any(one.failed for one in load.done if one.began > at)
    assert load.changed(expected) == 0
    happened = f"the command ends after {ended:.0f} s; given again at once; clients ask every 0.2 s until it is there"
    serving_card("kill -9 of Ray's head", happened, load, back, before, live.memory())


def told(live: LiveEndpoint) -> dict[str, Any]:
    return dict(httpx.get(f"{live.url}/version", timeout=60).json())


def test_the_alias_moves(tmp_path: Path, empty_database: Path, serving_card: AddRow) -> None:
    """To a version that loads, then to one whose weights are gone."""
    tracker = Tracker(tmp_path / "runs")
    tracker.runs.mkdir()
    shutil.copy(empty_database, tracker.runs / "mlflow.db")
    assert register(tracker, "remora", "variant/one", write_noise(tmp_path, "one", 1)) == "1"
    two, torn = write_noise(tmp_path, "two", 2), write_noise(tmp_path, "torn", 3)
    live = LiveEndpoint(tmp_path / "live", Path(serving_champion.__file__), tracker.runs)
    try:
        old, before = idle_answers(live), live.memory()
        with Load(live) as load:
            load.answered(16)
            assert register(tracker, "remora", "variant/two", two) == "2"
            back = seconds_until(lambda: told(live)["version"] == "2", "the second version")
            at = time.monotonic()
            load.answered(32, at)
        new = idle_answers(live)
        assert not load.failed() and load.changed(old, new) == 0 and old != new
        assert all(one.text == new[one.number] for one in load.done if one.began > at)
        happened = "the new version loads beside, answers a probe and takes over"
        serving_card("the alias moves", happened, load, back, before, live.memory())

        assert register(tracker, "remora", "variant/torn", torn, alias=None) == "3"
        source = tracker.server.local(version_info(tracker, "remora", "3")["source"])
        assert source is not None
        next((source / "llm").glob("*.safetensors")).unlink()
        before = live.memory()
        with Load(live) as load, tracker.client() as client:
            load.answered(16)
            client.set_registered_model_alias("remora", "champion", "3")
            back = seconds_until(lambda: (told(live)["refused"] or {}).get("version") == "3", "its refusal")
            load.answered(32, time.monotonic())
        assert (load.failed(), load.changed(new)) == ({}, 0)
        happened = "it is refused by name, the old version stays; the time is until it is refused"
        serving_card("the alias moves to a broken version", happened, load, back, before, live.memory())
    finally:
        live.stop()
