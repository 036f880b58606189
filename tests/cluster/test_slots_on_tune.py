"""A search's slots on Ray Tune: processes that stay, and what becomes of the order of one that is killed."""

from __future__ import annotations

import os
import sys
from collections import Counter
from pathlib import Path

import pytest

from remora.cluster import search
from remora.cluster.session import ray_session
from remora.errors import RemoraError
from remora.files import lines
from remora.pipeline.search.perform import Order, Performed
from remora.spec import Cluster, Space, Variant, load

SPACE = Path(__file__).parents[1] / "e2e" / "tiny.yaml"
VARIANT = Variant(vision="clip-l-336", connector="linear", llm="phi-2", recipe="base")
KILLED, ORDERS = 4, 12


def performed(order: Order, runs: Path) -> dict[str, object]:
    """In a slot's process; one order kills the first that performs it."""
    lines.append(runs / "pids.jsonl", [{"order": order.number, "pid": os.getpid()}])
    if order.number == KILLED and not (runs / "killed").exists():
        (runs / "killed").touch()
        os._exit(9)
    return {"performed": Performed("trained", steps=order.number)}


class Driver:
    """Has ORDERS orders, of which the second half is ready once the first is done."""

    def __init__(self, runs: Path) -> None:
        self.runs = runs
        self.space = load(Space, SPACE).model_copy(update={"concurrent": 2, "cluster": Cluster(max_failures=1)})
        self.begun = 0
        self.ended: Counter[tuple[int, int]] = Counter()
        self.problems: list[RemoraError] = []

    @property
    def over(self) -> bool:
        return self.ended.total() == ORDERS

    def look(self) -> None:
        """Nobody asks it to stop."""

    def next(self) -> Order | None:
        if self.begun == ORDERS or (self.begun == ORDERS // 2 > self.ended.total()):
            return None
        self.begun += 1
        return Order(self.begun, "train", "s", "key", VARIANT, f"run-{self.begun}")

    def done(self, number: int, performed: Performed) -> None:
        self.ended[number, performed.steps] += 1

    def failed(self, number: int, error: RemoraError) -> None:
        self.problems.append(error)


@pytest.mark.slow
@pytest.mark.ray
def test_two_slots_perform_all_and_a_third_takes_over_from_one_that_was_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    from ray import cloudpickle

    cloudpickle.register_pickle_by_value(sys.modules[__name__])  # this file is not on the path of Ray's processes
    monkeypatch.setattr(search, "_performed", performed)
    driver = Driver(tmp_path)
    with ray_session(dashboard=False):
        search.OnTune().work(driver)
    assert driver.ended == {(n, n): 1 for n in range(1, ORDERS + 1)} and not driver.problems
    told = lines.read(tmp_path / "pids.jsonl", "order").records
    assert Counter(line["order"] for line in told) == {n: 1 + (n == KILLED) for n in range(1, ORDERS + 1)}
    assert len({line["pid"] for line in told}) <= 3, "two that stay, and one for the killed one"
    assert [r.message for r in caplog.records if "died" in r.message] == [
        f"run-{KILLED}: the process that performs it died; another one takes it over"
    ]
    said = capfd.readouterr()
    assert "Traceback" not in said.err + said.out and "result.json" not in said.err
    assert not [p for p in (tmp_path / "ray").iterdir() if p.is_dir()], "what Ray wrote is gone"
