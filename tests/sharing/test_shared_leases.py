"""Leases at a URL: one node has it; a dead one's is taken; a slow one finds that it has lost it."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from remora.sharing import SharedRuns, leases
from sharing.conftest import NodeMaker
from support.waiting import until

KEY = "stages/one"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "POLL", 0.02)


def test_of_many_nodes_one_at_a_time_has_it(node: NodeMaker) -> None:
    nodes = [node(f"n{i}") for i in range(3)]
    together, inside, most = threading.Barrier(len(nodes)), 0, 0

    def work(each: SharedRuns) -> int:
        nonlocal inside, most
        together.wait()
        with each.leases.hold(KEY) as held:
            assert held
            inside += 1
            most = max(most, inside)
            inside -= 1
            return held.number

    with ThreadPoolExecutor(len(nodes)) as pool:
        numbers = list(pool.map(work, nodes))
    assert most == 1 and sorted(numbers) == [1, 2, 3]


def test_who_waits_hears_of_the_holder_once_and_stops_when_it_is_enough(node: NodeMaker) -> None:
    a, b = node("a"), node("b")
    heard: list[str] = []
    looks = iter([False, False, True])
    with a.leases.hold(KEY):
        assert b.leases.elsewhere(KEY) and not a.leases.elsewhere(KEY)
        with b.leases.hold(KEY, heard.append, lambda: next(looks)) as held:
            assert held is None
    assert len(heard) == 1 and heard[0].startswith("process ")
    assert not b.leases.elsewhere(KEY)


def test_a_dead_holders_lease_is_taken_and_a_living_ones_is_not(
    node: NodeMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = node("a"), node("b")
    now = 0.0
    monkeypatch.setattr(leases.time, "monotonic", lambda: now)
    first = a.leases._taken(KEY, 1)  # which shows no sign of life by itself
    assert first and b.leases.elsewhere(KEY)
    now += leases.LAPSE - 1
    first._mine = leases.replace(first._mine, beat=1)
    first._say(first._mine)
    assert b.leases.elsewhere(KEY)
    now += leases.LAPSE - 1
    assert b.leases.elsewhere(KEY)  # it gave a sign since
    now += 1
    assert not b.leases.elsewhere(KEY)
    with b.leases.hold(KEY) as held:
        assert held and held.number == 2


def test_a_process_of_the_same_node_does_not_wait_for_a_dead_one(node: NodeMaker) -> None:
    a = node("a")
    assert a.leases._taken(KEY, 1)
    assert not a.leases.elsewhere(KEY)
    with a.leases.hold(KEY) as held:
        assert held and held.number == 2


def test_a_holder_shows_signs_of_life_until_another_takes_over(
    node: NodeMaker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    a, b = node("a"), node("b")
    monkeypatch.setattr(leases, "LAPSE", 0.1)
    with a.leases.hold(KEY) as held:
        assert held
        until("a sign of life", lambda: held._mine.beat > 2)
        assert b.leases._taken(KEY, 2)
        until("it is lost", lambda: held.lost)
        assert "another node took over" in caplog.text
    assert b.leases.number(KEY) == 2
    content = b.objects.read(f"{KEY}.lease/00000002.json")
    assert content and b'"over": false' in content  # a's end leaves b's lease alone
