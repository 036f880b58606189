"""`remora attack` against the endpoint on Ray Serve: proxy, ingress and engine replicas, with a real model and keys."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from remora.serving.attack.run import AttackRow, run
from remora.serving.attack.wire import Attacked
from remora.serving.keys import add_key
from support import serving_small
from support.ports import free_port
from support.waiting import until

SMALL = Path(serving_small.__file__)


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, AttackRow]]:
    """All attacks on an endpoint with keys, and those on one without."""
    folder = tmp_path_factory.mktemp("attacked")
    key = add_key(folder / "keys.yaml", "tests")
    found = {row.name: row for row in attacked(folder / "keyed", key, [], folder / "keys.yaml")}
    yield found | {row.name: row for row in attacked(folder / "open", None, ["hosts"]) if row.name == "hosts"}


def attacked(folder: Path, key: str | None, names: list[str], *keys: Path) -> list[AttackRow]:
    folder.mkdir()
    port, log = free_port(), folder / "log"
    env = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"} | {"PYTHONPATH": str(SMALL.parents[1])}
    with log.open("w") as out:
        command = [sys.executable, str(SMALL), str(port), str(folder), *map(str, keys)]
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env=env)
    try:
        until("the endpoint", lambda: "READY" in log.read_text() or process.poll() is not None, 0.2)
        assert process.poll() is None, log.read_text()
        return list(run(Attacked(f"http://127.0.0.1:{port}", key), names, attack_s=120, run_s=600))
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(200)


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.faults
def test_the_endpoint_on_ray_withstands(rows: dict[str, AttackRow]) -> None:
    assert {name: (row.verdict, row.problems) for name, row in rows.items()} == dict.fromkeys(rows, ("ok", ()))
    assert len(rows) > 20 and all(row.shots for name, row in rows.items() if name != "memory")
    assert len(rows["memory"].came.split()) > 5, rows["memory"].came
