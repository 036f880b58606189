"""What a search is doing, from its journals."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from remora.reporting.progress import SearchProgress
from remora.training import journal

RUN = "align-0123"


@pytest.fixture
def tell(tmp_path: Path):
    """Append an event: of the variant `base`, or of its stage run while that trains."""

    def tell(event: str, *, inside: str = "", **fields: object) -> None:
        file = tmp_path / (f"stages/{inside}/journal.jsonl" if inside else "status/demo/base.jsonl")
        file.parent.mkdir(parents=True, exist_ok=True)
        journal.append(file, event, **fields)

    return tell


def read(runs: Path, since: float = 0.0):
    (variant,) = SearchProgress(runs, "demo", ["base"], since).read()
    return variant


def test_a_variant_that_nothing_is_known_of_is_starting(tmp_path) -> None:
    assert (read(tmp_path).state, read(tmp_path).loss) == ("starting", None)


def test_a_stage_run_that_trains_has_a_step_a_loss_a_rate_and_a_time_to_go(tmp_path, tell) -> None:
    tell("stage", run=RUN, stage="align", state="training")
    tell("started", inside=f"{RUN}.work", steps=50)
    for step in range(20):  # the first ten were twice as slow, and are not looked at
        rate = 5.0 if step < 10 else 10.0
        figures = {"loss": 3.0 - step / 10, "samples": 20, "samples_per_second": rate, "tokens_per_second": 100 * rate}
        tell("step", inside=f"{RUN}.work", step=step, **figures)
    now = read(tmp_path)
    assert (now.state, now.stage, now.run, now.step, now.steps) == ("training", "align", RUN, 20, 50)
    assert now.loss == pytest.approx(1.1) and now.tokens_per_second == 1000
    assert now.seconds_left == 30 * 20 / 10
    tell("stage", run="finetune-4567", stage="finetune", state="waiting")
    now = read(tmp_path)
    assert (now.stage, now.step, now.loss, now.seconds_left) == ("finetune", 0, None, None)
    assert now.stages == {RUN: "training", "finetune-4567": "waiting"}


def test_a_step_without_rates_has_no_time_to_go(tmp_path, tell) -> None:
    tell("stage", run=RUN, stage="align", state="training")
    tell("started", inside=f"{RUN}.work", steps=5)
    tell("step", inside=f"{RUN}.work", step=0, loss=1.0)
    assert (read(tmp_path).loss, read(tmp_path).tokens_per_second, read(tmp_path).seconds_left) == (1.0, None, None)


def test_notes_are_those_of_this_command_each_once_while_it_trains_and_after(tmp_path, tell) -> None:
    tell("noted", inside=f"{RUN}.work", text="of an earlier command")
    since = time.time()
    tell("noted", text="of the variant")
    tell("stage", run=RUN, stage="align", state="training")
    for _ in range(2):
        tell("noted", inside=f"{RUN}.work", text="a torn checkpoint")
    expected = ["of the variant", f"{RUN}: a torn checkpoint"]
    assert read(tmp_path, since).notes == expected
    tell("stage", run=RUN, stage="align", state="trained")
    (tmp_path / "stages" / f"{RUN}.work").rename(tmp_path / "stages" / RUN)
    progress = SearchProgress(tmp_path, "demo", ["base"], since)
    assert [v.notes for v in progress.read()] == [expected]
    (tmp_path / "stages" / RUN / "journal.jsonl").unlink()  # a finished stage run is read once
    assert [v.notes for v in progress.read()] == [expected]


def test_scores_the_end_and_an_error(tmp_path, tell) -> None:
    tell("asked", benchmark="pope", done=3, of=9)
    tell("scored", benchmark="gqa", accuracy=0.5)
    assert (read(tmp_path).asked, read(tmp_path).accuracy) == ("pope 3/9", {"gqa": 0.5})
    tell("finished", bundle="/b")
    assert (read(tmp_path).state, read(tmp_path).bundle) == ("finished", "/b")
    tell("failed", error="out of memory")
    assert (read(tmp_path).state, read(tmp_path).error) == ("failed", "out of memory")
    assert read(tmp_path, time.time() + 1).state == "starting"  # another command's events
