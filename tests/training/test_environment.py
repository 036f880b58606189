"""What a stage run was trained with: recorded by each attempt, kept with the result, said where it is reused."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

from remora.runs import preflight
from remora.runs.store import Store
from remora.training import environment as on
from remora.training import journal, totals
from support.explained_folder import ENVIRONMENT, write_explained


def test_it_names_what_is_installed_and_loads_none_of_it() -> None:
    code = (
        "import sys, json; from remora.training.environment import environment; print(json.dumps(environment('H200')));"
        "assert not {'torch', 'transformers', 'deepspeed', 'numpy'} & sys.modules.keys()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert found["libraries"]["torch"] == version("torch") and found["gpu"] == "H200"
    assert found == on.environment("H200") == on.read_environment(found)
    assert len(found["code"]) == 64 and found["cpu"]


def test_differences_are_those_that_may_move_a_result() -> None:
    here = on.environment()
    assert on.differences(here, here) == []
    assert on.differences({**here, "code": "other", "remora": "0.0.1"}, here) == []
    assert on.differences({**here, "libraries": {**here["libraries"], "torch": "1.0"}}, here) == [
        f"torch 1.0, here {version('torch')}"
    ]
    assert on.differences({**here, "cpu": "x"}, here) == [f"CPU x, here {here['cpu']}"]
    assert on.differences({**here, "cpu": "x", "gpu": "A100"}, here) == []  # who looks may have no GPU
    assert on.differences({**here, "gpu": "A100"}, {**here, "gpu": "H200"}) == ["GPU A100, here H200"]


def test_a_torn_record_is_none() -> None:
    assert on.read_environment(None) is None and on.read_environment({"torch": "2"}) is None
    events = [{"event": "started", "time": 1.0, "environment": {"torch": "2"}}]
    assert totals.environments(events) == []


def test_each_attempts_environment_counts_once(tmp_path: Path) -> None:
    here = on.environment()
    for number, each in enumerate((here, ENVIRONMENT, here), 1):
        journal.append(tmp_path / "j", "started", attempt=number, environment=each)
    assert totals.environments(journal.read(tmp_path / "j")) == [here, ENVIRONMENT]


def test_what_is_reused_under_other_versions_is_said(tmp_path: Path) -> None:
    folder = write_explained(tmp_path)
    store, variant = Store(folder.runs), folder.variants["resampler"]
    found = preflight([variant], store, tokenizers=False)
    (note,) = [n for n in found.notes if n.startswith("reused as they are")]
    assert "torch 2.12.0+cu128, here " in note
    assert all(run.name in note for run in folder.lineages["resampler"])
