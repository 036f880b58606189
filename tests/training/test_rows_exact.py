"""A stage has the same losses for 24 steps however it is split, equal to a float64 reference.

Every two choices of a split meet in one of the runs. All combinations for 50 steps, and the demo's stages, are in
benchmarks/exactness.py; docs/exactness.md has the figures.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from support.exact_stages import FACTORS, pairwise, splits, thorough
from support.launch import launch

pytestmark = pytest.mark.slow
RANKS = Path(__file__).with_name("ranks.py")
STEPS, TOKENS = 14, 410
Runs = dict[str, list[dict[str, Any]]]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """Events of every run by its split's name, and the steps in float64; one process a rank for all of them."""
    job = thorough(tmp_path_factory.mktemp("rows"), STEPS)
    (job.folder / "job.json").write_text(job.to_json())
    settings = splits(job.stage, TOKENS, pairwise(list(FACTORS.values())))
    said: Runs = {}
    for world, flags in ((1, ["--double"]), (2, [])):
        out = job.folder / f"out-{world}.json"
        those = {name: setting for name, setting in settings.items() if setting["workers"] == world}
        launch(RANKS, world, job.folder / "job.json", out, "--settings", json.dumps(those), *flags)
        said |= json.loads(out.read_text())
    return said


def steps(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [e for e in events if e["event"] == "step"]


def test_no_split_changes_a_loss(runs) -> None:
    exact = steps(runs["float64"])
    assert len(exact) == STEPS and exact[-1]["loss"] < 0.95 * exact[0]["loss"]  # it learns, so that errors could grow
    assert len(runs) > 12
    for name, events in runs.items():
        taken = steps(events)
        assert [e["loss"] for e in taken] == pytest.approx([e["loss"] for e in exact], rel=1e-5), name
        assert [e["grad_norm"] for e in taken] == pytest.approx([e["grad_norm"] for e in exact], rel=1e-4), name


def test_a_split_has_the_passes_that_it_names(runs) -> None:
    for name, events in runs.items():
        if name != "float64":
            asked = int(name.split(" x ")[1][0])
            passes = {e["passes"] for e in steps(events)}
            # How many rows hold a step's tokens follows from its samples.
            assert all(asked == p if "padded" in name else asked - 1 < p < asked + 1.5 for p in passes), (name, passes)


def test_a_dropped_sample_is_counted_once_in_any_split(runs) -> None:
    for name, events in runs.items():
        if name != "float64":
            assert [e["sample"] for e in events if e["event"] == "dropped"] == ["s5"], name
            assert sum(e["dropped"] for e in steps(events)) == 1, name
            said = "records.json: 1 of 30 records left out (1 over-length-first)"  # in the terminal and in MLflow
            assert [e["text"] for e in events if e["event"] == "noted"] == [said], name
            assert {e["samples"] for e in steps(events)} == {16}, name


def test_packed_rows_are_real_tokens_alone(runs) -> None:
    for name, events in runs.items():
        if name != "float64":
            real = [e["real_tokens"] for e in steps(events)]
            assert min(real) == 1.0 if "packed" in name else 0.3 < min(real) < max(real) < 1.0, name
