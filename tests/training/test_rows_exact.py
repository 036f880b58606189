"""A stage has the same losses packed and padded, on one rank and two, with and without accumulation and ZeRO."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from launch import launch

from remora.training.job import StageJob
from stages import mixed_job

RANKS = Path(__file__).with_name("ranks.py")
STEPS = 20


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> StageJob:
    """Pictures and text-only records of unlike lengths, one that does not fit; Phi-2's class with its own dropout."""
    tune = {"vision": "frozen", "connector": "full", "llm": "full"}
    return mixed_job(
        tmp_path_factory.mktemp("rows"), family="phi-2", config={"resid_pdrop": 0.1}, tune=tune, steps=STEPS, eps=1e-6
    )


# A step of eight samples has some 205 tokens: 1, 2 and 4 rows of 64 tokens x micro_batch, on two ranks 2 and 4.
ONE_RANK = {
    "padded-1": {"rows": "padded", "micro_batch": 8},
    "packed-1": {"rows": "packed", "micro_batch": 8},
    "packed-2": {"rows": "packed", "micro_batch": 2},
    "packed-4": {"rows": "packed", "micro_batch": 1},
    "padded-4": {"rows": "padded", "micro_batch": 2},
}
TWO_RANKS = {
    "2-packed-zero-0": {"rows": "packed", "micro_batch": 1, "zero": 0},
    "2-packed-zero-2": {"rows": "packed", "micro_batch": 1, "zero": 2},
    "2-packed-zero-2-one-pass": {"rows": "packed", "micro_batch": 8, "zero": 2},
    "2-padded-zero-2-alone": {"rows": "padded", "micro_batch": 1, "zero": 2},
}


def run(job: StageJob, world: int, settings: dict[str, dict[str, object]]) -> dict[str, list[dict[str, object]]]:
    job.folder.mkdir(exist_ok=True)
    file, out = job.folder / "job.json", job.folder / f"out-{world}.json"
    file.write_text(job.to_json())
    launch(RANKS, world, file, out, "--settings", json.dumps(settings))
    return json.loads(out.read_text())


@pytest.mark.e2e
def test_rows_change_no_loss(job) -> None:
    runs = run(job, 1, ONE_RANK) | run(job, 2, TWO_RANKS)
    steps = {name: [e for e in events if e["event"] == "step"] for name, events in runs.items()}
    expected = steps["padded-1"]
    assert len(expected) == STEPS
    for name, events in steps.items():
        for key, bound in (("loss", 1e-5), ("grad_norm", 1e-4), ("tokens", 0.0), ("samples", 0.0)):
            assert [e[key] for e in events] == pytest.approx([e[key] for e in expected], rel=bound), (name, key)
        assert [e["dropped"] for e in events] == [e["dropped"] for e in expected], name
        dropped = [e["sample"] for e in runs[name] if e["event"] == "dropped"]
        assert dropped == ["s5"] and sum(e["dropped"] for e in events) == 1, name  # named and counted once
        real = [e["real_tokens"] for e in events]
        assert min(real) == 1.0 if "packed" in name or "alone" in name else 0.3 < min(real) < max(real) < 1.0, name
