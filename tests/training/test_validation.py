"""The loss over held-out samples while a stage trains: exact for any split, without a trace in training, never lost."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from remora.data.mixture import read_mixture
from remora.spec import Stage
from remora.training.job import StageJob
from remora.training.journal import JOURNAL, Validated, validations_of
from support.exact_stages import thorough
from support.launch import launch

RANKS = Path(__file__).with_name("validation_ranks.py")
STEPS, DUE = 6, [1, 3, 5]

pytestmark = pytest.mark.slow


def other_records(root: Path, count: int) -> Path:
    """Records of unlike lengths that the stage does not train on; every third with a picture, one far too long."""
    root.mkdir()
    records = []
    for i in range(count):
        words = "circle " * (400 if i == 4 else 1 + i * 7 % 11)
        turns = [{"from": "human", "value": f"Which is {i}?"}, {"from": "gpt", "value": f"red {i} {words}"}]
        record: dict[str, Any] = {"id": f"other{i}", "conversations": turns}
        if i % 3 == 0:
            Image.new("RGB", (30, 40), (9 * i, 90, 200)).save(root / f"{i}.png")
            record["image"] = f"{i}.png"
            turns[0]["value"] = "<image>\n" + turns[0]["value"]
        records.append(record)
    (root / "other.json").write_text(json.dumps(records))
    return root / "other.json"


def validated(job: StageJob, root: Path, **said: Any) -> StageJob:
    stage = Stage.model_validate(job.stage.model_dump(mode="json") | {"validate": {"every": 2} | said})
    assert stage.validation
    others = tuple(d.folder for d in read_mixture(stage.validation.mixture, root))
    return replace(job, stage=stage, others=others)


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> StageJob:
    """With dropout, so that validating in train mode would change the loss."""
    root = tmp_path_factory.mktemp("validation")
    job = thorough(root, STEPS)
    job = replace(job, cluster=job.cluster.model_copy(update={"checkpoint_every": 4}))
    return validated(job, root, mixture=[{"path": str(other_records(root / "other", 13)), "max_skipped": 0.1}])


def run(job: StageJob, world: int, *runs: dict[str, Any], rc: int = 0) -> dict[str, Any]:
    job.folder.mkdir(exist_ok=True)
    (job.folder / "job.json").write_text(job.to_json())
    launch(RANKS, world, job.folder / "job.json", job.folder / "out.json", json.dumps(runs), rc=rc)
    return json.loads((job.folder / "out.json").read_text()) if rc == 0 else {}


def events(said: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    return [e for e in said["events"] if e["event"] == kind]


def losses(said: dict[str, Any], kind: str) -> list[float]:
    return [e["loss"] for e in events(said, kind)]


PADDED = {"rows": "padded", "micro_batch": 2}
RUNS: dict[int, list[dict[str, Any]]] = {
    1: [
        {"name": "plain", "double": True},
        {"name": "without", "validate": False},
        {"name": "alone", "cluster": {"rows": "padded", "micro_batch": 1}},
        {"name": "ZeRO 2", "cluster": {"zero": 2}},
    ],
    2: [
        {"name": "2 ranks", "cluster": {"zero": 1}},
        {"name": "2 ranks, padded", "cluster": {"zero": 2, **PADDED}},
        {"name": "2 ranks, split", "cluster": {"zero": 3, "activation_checkpointing": True}},
        {
            "name": "2 ranks, split, without",
            "cluster": {"zero": 3, "activation_checkpointing": True},
            "validate": False,
        },
    ],
    3: [
        {"name": "3 ranks", "cluster": {"zero": 0, "micro_batch": 1}},
        # A rank has a picture where another has none: at ZeRO 3 both must gather the encoder.
        {"name": "3 ranks, split, padded", "cluster": {"zero": 3, **PADDED}},
    ],
}


@pytest.fixture(scope="module")
def said(job: StageJob) -> dict[str, Any]:
    return {name: said for world, runs in RUNS.items() for name, said in run(job, world, *runs).items()}


def test_the_loss_is_that_of_each_sample_alone_in_float64(said):
    plain = events(said["plain"], "validation")
    assert plain[-1]["loss"] == pytest.approx(said["plain"]["double"], rel=1e-6)
    assert plain[-1]["loss"] < plain[0]["loss"]
    assert {e["samples"] for e in plain} == {12}  # of 13: one is too long to be read


def test_no_split_changes_it(said):
    exact = said["plain"]
    for name, run in said.items():
        if "without" not in name:
            assert losses(run, "validation") == pytest.approx(losses(exact, "validation"), rel=1e-5), name
            assert {e["tokens"] for e in events(run, "validation")} == {events(exact, "validation")[0]["tokens"]}, name
            assert {e["ranks"] for e in events(run, "validation")} == {int(name[0]) if name[0].isdigit() else 1}, name


@pytest.mark.parametrize("name", ["plain", "2 ranks, split"])
def test_it_changes_no_bit_of_training(said, name):
    without = said["without" if name == "plain" else f"{name}, without"]
    assert losses(said[name], "step") == losses(without, "step")
    assert said[name]["parts"] == without["parts"]
    assert not events(without, "validation")
    for what, same in said[name]["same"].items():
        assert same == [True] * len(DUE), what


def test_it_is_told_when_it_is_due_with_what_was_trained_by_then(said, job):
    for e, step in zip(events(said["plain"], "validation"), DUE, strict=True):
        assert (e["step"], e["samples_seen"], e["share"]) == (step, 16 * (step + 1), (step + 1) / STEPS)
        assert e["seconds"] > 0
    kinds = [e["event"] for e in said["plain"]["events"] if e["event"] in ("step", "validation", "trained")]
    assert kinds == ["step", "step", "validation"] * 3 + ["trained"]
    read = validations_of(job.folder / "plain" / JOURNAL)
    assert [(v.step, v.loss) for v in read] == [(e["step"], e["loss"]) for e in events(said["plain"], "validation")]
    assert isinstance(read[0], Validated) and read[0].score is None and read[-1].share == 1.0


def test_a_kill_neither_repeats_nor_skips_one(said, job):
    """Killed between a validation and the checkpoint of its step, and between that and the next validation."""
    ways = {"before": ({"die": "after 3"}, [1, 3]), "behind": ({"die": "before 3", "preempt": 3}, [1])}
    for folder, (how, on_disk) in ways.items():
        run(job, 1, {"name": "killed", "folder": folder, **how}, rc=9)
        assert [v.step for v in validations_of(job.folder / folder / JOURNAL)] == on_disk
    for again in run(job, 1, *({"name": f"{f} again", "folder": f} for f in ways)).values():
        assert [e["step"] for e in events(again, "validation")] == DUE
        assert losses(again, "validation") == losses(said["plain"], "validation")
        assert losses(again, "step") == losses(said["plain"], "step") and again["parts"] == said["plain"]["parts"]


def test_a_stage_that_was_asked_to_stop_goes_on_as_if_it_had_not(said, job):
    name = "2 ranks, padded"
    how = {"folder": "paused", "cluster": next(r["cluster"] for r in RUNS[2] if r["name"] == name)}
    asked = [{"name": name, "stop": True, **how} for name in ("first", "second")]
    first, second, end = run(job, 2, *asked, {"name": "end", **how}).values()
    assert (first["paused"], second["paused"]) == (2, 4) and "paused" not in end
    assert not first["stop"] and not second["stop"]  # the wish was granted
    assert [e["step"] for e in events(first, "paused")] == [1]
    assert "'test'" in first["message"] and "2 of 6 steps" in first["message"] and "\n" not in first["message"]
    assert losses(end, "step") == losses(said[name], "step") and end["parts"] == said[name]["parts"]
    assert losses(end, "validation") == losses(said[name], "validation")


def test_a_share_is_held_out_of_training(job, tmp_path):
    root = job.folder.parent
    share = replace(validated(job, root, share=0.3, mixture=()), folder=tmp_path / "work")
    found = run(share, 1, {"name": "share", "double": True})["share"]
    last = events(found, "validation")[-1]
    assert last["loss"] == pytest.approx(found["double"], rel=1e-6)
    assert 3 < last["samples"] < 15
