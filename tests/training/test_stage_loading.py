"""A stage with dataloader workers: the same figures for any number; waits are reported, broken pictures dropped by
rule."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from remora.catalog import llm
from remora.data.mixture import read_mixture
from remora.model.llm import create_from_scratch
from remora.model.refs import PartRef
from remora.spec import Cluster, Stage
from remora.tracking.stage_files import left_out
from remora.training.job import StageJob
from remora.training.journal import JOURNAL, read
from support.launch import launch
from support.tiny import shrunk, write_records

pytestmark = pytest.mark.slow
RANKS = Path(__file__).with_name("ranks.py")
STEPS = 4


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> StageJob:
    root = tmp_path_factory.mktemp("loading")
    file = write_records(root, count=24)
    Image.effect_noise((64, 64), 50).convert("RGB").save(root / "cut.jpg")
    (root / "images" / "6.png").write_bytes((root / "cut.jpg").read_bytes()[:-900])
    entry = llm("demo-2m").model_copy(update={"config": shrunk(llm("demo-2m").config, 32, 48)})
    create_from_scratch(entry, ["USER: What is number 1? ASSISTANT: thing 1"] * 4, 0, root / "llm")
    skip = {"skip": ["corrupt-image", "missing-image"], "max_skipped": 2 / 24}
    stage = Stage(
        name="test",
        mixture=[{"path": str(file), "images": str(root / "images"), **skip}],
        template="brief",
        batch=6,
        steps=STEPS,
        max_length=200,
        lr=3e-3,
    )
    parts = {
        "vision": PartRef("efficientnet-lite0"),
        "connector": PartRef("mlp2x_gelu"),
        "llm": PartRef("demo-2m", root / "llm"),
    }
    datasets = [d.folder for d in read_mixture(stage.mixture, root)]
    (root / "images" / "5.png").unlink()  # since it was indexed
    return StageJob(stage, parts, root / "work", datasets, 0, Cluster(zero=0, checkpoint_every=2, micro_batch=3))


def train(job: StageJob, folder: Path, world: int = 1, *flags: str, rc: int = 0, **cluster: int) -> tuple[list, str]:
    """The journal, and what the first rank said."""
    folder.mkdir(exist_ok=True)
    job = replace(job, folder=folder, cluster=job.cluster.model_copy(update={"workers": world, **cluster}))
    (folder / "job.json").write_text(job.to_json())
    said = launch(RANKS, world, folder / "job.json", folder / "out.json", *flags, rc=rc)
    return list(read(folder / JOURNAL)), said


def figures(events: list) -> list:
    return [(e["step"], e["loss"], e["grad_norm"], e["tokens"]) for e in events if e["event"] == "step"]


def test_no_number_of_loaders_changes_a_bit_nor_does_a_change_of_it(job, tmp_path) -> None:
    expected, _ = train(job, tmp_path / "0", 2)
    assert len(figures(expected)) == STEPS
    train(job, tmp_path / "1", 2, "--die-after", "2", rc=9, loaders=1)
    resumed, _ = train(job, tmp_path / "1", 2, loaders=2)
    assert figures(resumed) == figures(expected)

    # A rank's dropped samples are known to all, listed once, and counted with what the index skipped.
    for events in (expected, resumed):
        (dropped,) = [e for e in events if e["event"] == "dropped"]
        assert (dropped["sample"], dropped["entry"], dropped["kind"]) == ("s5", 0, "missing-image")
        assert f"missing image: {Path(job.stage.mixture[0].images)}/5.png" in dropped["reason"]
        assert all(0 <= e["wait"] <= e["wait_max"] for e in events if e["event"] == "step")
        begun = [e["data"] for e in events if e["event"] == "started"]
        path = Path(job.stage.mixture[0].path).name
        assert begun[-1] == [{"dataset": path, "records": 24, "skipped": {"corrupt-image": 1}}]
    name = f"data/{path}"
    counts = {f"{name}/records": 24, f"{name}/skipped.missing-image": 1, f"{name}/skipped.corrupt-image": 1}
    assert left_out(read(tmp_path / "1" / JOURNAL)) == counts


def test_a_picture_that_no_rule_skips_stops_the_run_and_so_do_too_many(job, tmp_path) -> None:
    entry = job.stage.mixture[0]

    def changed(**more: object) -> StageJob:
        stage = job.stage.model_copy(update={"mixture": (entry.model_copy(update=more),)})
        return replace(job, stage=stage)

    _, said = train(changed(skip=("corrupt-image",)), tmp_path / "a", rc=1, loaders=1)
    assert f"BrokenRecord: missing image: {Path(job.stage.mixture[0].images)}/5.png; " in said.splitlines()[-1]
    events, said = train(changed(max_skipped=1 / 24), tmp_path / "b", 2, rc=1)
    line = (
        "1 missing-image found while training and 1 records skipped before, of 24, are more than max_skipped 0.0416667"
    )
    assert line in said.splitlines()[-1]
    assert [e["sample"] for e in events if e["event"] == "dropped"] == ["s5"]
